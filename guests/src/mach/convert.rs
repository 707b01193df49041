//! Object files in Mach-O format of ELF ones whose sections are named `SEGMENT,SECTION`.

use object::{
    Architecture, BinaryFormat, Endianness, Object as _, ObjectSection as _, ObjectSymbol as _,
    RelocationFlags, RelocationTarget, SectionKind, SymbolFlags, SymbolIndex, SymbolKind,
    SymbolScope, elf, macho,
    read::{File, Relocation as Found, Section},
    write::{
        MachOBuildVersion, Mangling, Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection,
    },
};

/// A section, and what became of it.
type Sections<'a> = Vec<(Section<'a, 'a>, SectionId)>;
/// A symbol, and what became of it.
type Symbols = Vec<(SymbolIndex, SymbolId)>;

/// Converts an ELF object file with sections of code and data, global symbols, and relocations to those.
///
/// # Errors
/// What there is in the file that is not provided for.
pub(super) fn mach_object(elf: &[u8]) -> Result<Vec<u8>, String> {
    let elf = File::parse(elf).map_err(|error| error.to_string())?;
    let mut mach = Object::new(
        BinaryFormat::MachO,
        Architecture::Aarch64,
        Endianness::Little,
    );
    mach.set_mangling(Mangling::None);
    let mut version = MachOBuildVersion::default();
    version.platform = macho::PLATFORM_MACOS;
    version.minos = macho::Version(11 << 16);
    version.sdk = macho::Version(11 << 16);
    mach.set_macho_build_version(version);
    let sections = add_sections(&elf, &mut mach)?;
    let symbols = add_symbols(&elf, &sections, &mut mach);
    for (section, id) in &sections {
        for (offset, found) in section.relocations() {
            let relocation = relocation(offset, &found, &symbols)
                .ok_or_else(|| format!("not provided for: {found:?}"))?;
            let added = mach.add_relocation(*id, relocation);
            added.map_err(|error| error.to_string())?;
        }
    }
    mach.write().map_err(|error| error.to_string())
}

fn add_sections<'a>(elf: &'a File<'a>, mach: &mut Object<'_>) -> Result<Sections<'a>, String> {
    let mut sections = Vec::new();
    for section in elf.sections() {
        let name = section.name().unwrap_or_default();
        let kind = section.kind();
        let (Some((segment, name)), SectionKind::Text | SectionKind::Data) =
            (name.split_once(','), kind)
        else {
            continue;
        };
        let id = mach.add_section(segment.into(), name.into(), kind);
        let data = section.data().map_err(|error| error.to_string())?;
        mach.append_section_data(id, data, section.align());
        sections.push((section, id));
    }
    Ok(sections)
}

fn add_symbols(elf: &File<'_>, sections: &Sections<'_>, mach: &mut Object<'_>) -> Symbols {
    let mut symbols = Vec::new();
    for symbol in elf.symbols().filter(|symbol| symbol.is_global()) {
        let mut sections = sections.iter();
        let place = sections.find(|(section, _)| symbol.section_index() == Some(section.index()));
        let Some((section, id)) = place else {
            continue;
        };
        let kind = match section.kind() {
            SectionKind::Text => SymbolKind::Text,
            _ => SymbolKind::Data,
        };
        let added = mach.add_symbol(Symbol {
            name: symbol.name_bytes().unwrap_or_default().to_vec(),
            value: symbol.address(),
            size: 0,
            kind,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(*id),
            flags: SymbolFlags::None,
        });
        symbols.push((symbol.index(), added));
    }
    symbols
}

fn relocation(offset: u64, found: &Found, symbols: &Symbols) -> Option<Relocation> {
    let RelocationTarget::Symbol(target) = found.target() else {
        return None;
    };
    let RelocationFlags::Elf { r_type } = found.flags() else {
        return None;
    };
    let (r_type, r_pcrel) = match r_type {
        elf::R_AARCH64_CALL26 | elf::R_AARCH64_JUMP26 => (macho::ARM64_RELOC_BRANCH26, true),
        elf::R_AARCH64_ADR_PREL_PG_HI21 => (macho::ARM64_RELOC_PAGE21, true),
        elf::R_AARCH64_ADD_ABS_LO12_NC => (macho::ARM64_RELOC_PAGEOFF12, false),
        _ => return None,
    };
    let (_, symbol) = symbols.iter().find(|(index, _)| *index == target)?;
    Some(Relocation {
        offset,
        symbol: *symbol,
        addend: found.addend(),
        flags: RelocationFlags::MachO {
            r_type,
            r_pcrel,
            r_length: 2,
        },
    })
}
