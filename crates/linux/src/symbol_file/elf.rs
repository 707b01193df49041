//! The parts of an ELF64 file: see the System V ABI, "Object Files".

use alloc::vec::Vec;

use trapline_arch::Gva;

use super::Machine;
use super::sections::Sections;
use crate::kallsyms::Kallsyms;

/// The size of an entry of `.symtab`.
pub(super) const SYMBOL_BYTES: usize = 24;
const HEADER_BYTES: u16 = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;
const SECTION_HEADER_BYTES: u16 = 64;

const ET_EXEC: u16 = 2;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_R: u32 = 4;
const PF_RWX: u32 = 7;
const SHT_PROGBITS: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const SHF_WRITE_ALLOC: u64 = 3;
const SHF_EXECINSTR: u64 = 4;
const SHN_ABS: u16 = 0xfff1;
const NT_GNU_BUILD_ID: u32 = 3;

/// The kept head of the file, and what is where in it.
pub(super) struct Layout {
    /// All that comes before `.symtab`.
    pub(super) head: Vec<u8>,
    /// The offset of `.symtab`.
    pub(super) symbols: u64,
    /// The offset of `.strtab`.
    pub(super) strings: u64,
    /// The end of `.strtab`, and the offset of a `.debug_frame` that is made when it is read.
    pub(super) frames: u64,
    /// The length of the file.
    pub(super) len_bytes: u64,
}

/// The section `.debug_frame`.
#[derive(Clone, Copy)]
pub(super) enum FrameSection<'a> {
    /// It is kept; an empty one is none.
    Kept(&'a [u8]),
    /// It is made when it is read, of that length.
    Made(u64),
}

impl<'a> FrameSection<'a> {
    /// Returns what is kept, and the length of what is made.
    const fn parts(self) -> (&'a [u8], u64) {
        match self {
            Self::Kept(frames) => (frames, 0),
            Self::Made(len_bytes) => (&[], len_bytes),
        }
    }
}

/// An entry of `.symtab`.
pub(super) struct SymbolEntry {
    pub(super) name: u32,
    pub(super) kind: SymbolKind,
    pub(super) is_local: bool,
    pub(super) is_weak: bool,
    /// The number of its section, or `None` for an absolute symbol.
    pub(super) section: Option<u16>,
    pub(super) address: Gva,
    pub(super) size: u64,
}

/// The type of a symbol: the low half of `st_info`.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum SymbolKind {
    None = 0,
    Object = 1,
    Function = 2,
}

impl SymbolEntry {
    /// Returns the entry as it is in the file.
    pub(super) fn bytes(&self) -> [u8; SYMBOL_BYTES] {
        let binding = match (self.is_local, self.is_weak) {
            (true, _) => 0_u8,
            (false, false) => 1,
            (false, true) => 2,
        };
        let section = self.section.unwrap_or(SHN_ABS);
        let [n0, n1, n2, n3] = self.name.to_le_bytes();
        let [s0, s1] = section.to_le_bytes();
        let mut bytes = [0; SYMBOL_BYTES];
        let head = [n0, n1, n2, n3, binding << 4 | self.kind as u8, 0, s0, s1];
        let words = [head, self.address.0.to_le_bytes(), self.size.to_le_bytes()];
        for (to, from) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = from;
        }
        bytes
    }
}

/// A section header, but for its name.
#[derive(Clone, Copy, Default)]
struct SectionHeader {
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    len_bytes: u64,
    link: u32,
    info: u32,
    align: u64,
    entry_bytes: u64,
}

/// Section headers with their names.
#[derive(Default)]
struct SectionTable {
    headers: Vec<(u32, SectionHeader)>,
    names: Vec<u8>,
}

impl SectionTable {
    fn push(&mut self, name: &str, header: SectionHeader) {
        let offset = u32::try_from(self.names.len()).unwrap_or(0);
        self.names.extend_from_slice(name.as_bytes());
        self.names.push(0);
        self.headers.push((offset, header));
    }
}

impl Layout {
    pub(super) fn new(
        symbols: &Kallsyms,
        sections: &Sections,
        machine: Machine,
        build_id: &[u8],
        frames: FrameSection<'_>,
    ) -> Self {
        let (frames, made_bytes) = frames.parts();
        let has_frames = !frames.is_empty() || made_bytes > 0;
        let note = note(build_id);
        let segment_count = if note.is_empty() { 1_u16 } else { 2 };
        // An empty one, those of the image, the note, the call frames, and three tables.
        let image_count = sections.iter().count() as u64;
        let optional = u64::from(!note.is_empty()).saturating_add(u64::from(has_frames));
        let section_count = image_count.saturating_add(optional).saturating_add(4);
        let note_offset = u64::from(HEADER_BYTES)
            .saturating_add(u64::from(PROGRAM_HEADER_BYTES).saturating_mul(segment_count.into()))
            .saturating_add(u64::from(SECTION_HEADER_BYTES).saturating_mul(section_count));
        let frames_offset = note_offset.saturating_add(note.len() as u64);
        let names_offset = frames_offset.saturating_add(frames.len() as u64);

        let mut table = image_sections(sections);
        let kept = |kind, offset, len: usize, align| SectionHeader {
            kind,
            offset,
            len_bytes: len as u64,
            align,
            ..Default::default()
        };
        if !note.is_empty() {
            table.push(
                ".note.gnu.build-id",
                kept(SHT_NOTE, note_offset, note.len(), 4),
            );
        }
        let frames_index = table.headers.len();
        if has_frames {
            table.push(
                ".debug_frame",
                kept(SHT_PROGBITS, frames_offset, frames.len(), 1),
            );
        }
        let tables = TableOffsets::new(symbols, names_offset, table.names.len());
        if made_bytes > 0
            && let Some((_, header)) = table.headers.get_mut(frames_index)
        {
            header.offset = tables.end;
            header.len_bytes = made_bytes;
        }
        tables.push(&mut table, symbols);

        let segments = [
            load_segment(sections),
            note_segment(note_offset, note.len() as u64),
        ];
        let mut head = Writer(Vec::new());
        head.file_header(
            machine,
            sections.start(),
            segment_count,
            table.headers.len(),
        );
        for segment in segments.iter().take(segment_count.into()) {
            head.segment(segment);
        }
        for (name, header) in &table.headers {
            head.section(*name, header);
        }
        head.0.extend_from_slice(&note);
        head.0.extend_from_slice(frames);
        head.0.extend_from_slice(&table.names);
        head.0
            .resize(usize::try_from(tables.symbols).unwrap_or(0), 0);
        Self {
            head: head.0,
            symbols: tables.symbols,
            strings: tables.strings,
            frames: tables.end,
            len_bytes: tables.end.saturating_add(made_bytes),
        }
    }
}

/// The names of the last three sections, which come after all others.
const TABLE_NAMES: [&str; 3] = [".shstrtab", ".symtab", ".strtab"];

/// Where the tables are in the file.
struct TableOffsets {
    names: u64,
    names_end: u64,
    symbols: u64,
    strings: u64,
    end: u64,
}

impl TableOffsets {
    fn new(symbols: &Kallsyms, names: u64, names_bytes: usize) -> Self {
        let table_names = TABLE_NAMES.iter().map(|name| name.len().saturating_add(1));
        let names_bytes = table_names.fold(names_bytes, usize::saturating_add) as u64;
        let names_end = names.saturating_add(names_bytes);
        let symtab = names_end.checked_next_multiple_of(8).unwrap_or(names_end);
        let rows = (symbols.len() as u64).saturating_add(1);
        let strings = symtab.saturating_add(rows.saturating_mul(SYMBOL_BYTES as u64));
        let text_bytes = u64::from(symbols.total().text_bytes).saturating_add(1);
        let end = strings.saturating_add(text_bytes);
        Self {
            names,
            names_end,
            symbols: symtab,
            strings,
            end,
        }
    }

    fn push(&self, table: &mut SectionTable, symbols: &Kallsyms) {
        let [shstrtab, symtab, strtab] = TABLE_NAMES;
        let strings = SectionHeader {
            kind: SHT_STRTAB,
            align: 1,
            ..Default::default()
        };
        let len_bytes = self.names_end.saturating_sub(self.names);
        table.push(
            shstrtab,
            SectionHeader {
                offset: self.names,
                len_bytes,
                ..strings
            },
        );
        // `link` is the section of the strings, the next one.
        let link = u32::try_from(table.headers.len())
            .unwrap_or(0)
            .saturating_add(1);
        table.push(
            symtab,
            SectionHeader {
                kind: SHT_SYMTAB,
                offset: self.symbols,
                len_bytes: self.strings.saturating_sub(self.symbols),
                link,
                info: symbols.total().local_count.saturating_add(1),
                align: 8,
                entry_bytes: SYMBOL_BYTES as u64,
                ..Default::default()
            },
        );
        let len_bytes = self.end.saturating_sub(self.strings);
        table.push(
            strtab,
            SectionHeader {
                offset: self.strings,
                len_bytes,
                ..strings
            },
        );
    }
}

/// Returns the headers of the empty section and of those of the image.
fn image_sections(sections: &Sections) -> SectionTable {
    let mut table = SectionTable::default();
    table.push("", SectionHeader::default());
    for section in sections.iter() {
        let code = if section.is_code { SHF_EXECINSTR } else { 0 };
        let header = SectionHeader {
            kind: SHT_NOBITS,
            flags: SHF_WRITE_ALLOC | code,
            address: section.start.0,
            len_bytes: section.end.0.saturating_sub(section.start.0),
            align: 1,
            ..Default::default()
        };
        table.push(section.name, header);
    }
    table
}

/// A program header.
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
    align: u64,
}

/// Returns the segment that all of the image is in, of which nothing is in the file.
fn load_segment(sections: &Sections) -> Segment {
    let address = sections.start().0;
    Segment {
        kind: PT_LOAD,
        flags: PF_RWX,
        offset: 0,
        address,
        file_bytes: 0,
        memory_bytes: sections.end().0.saturating_sub(address),
        // Offset and address must be equal modulo the alignment.
        align: if address.is_multiple_of(4096) {
            4096
        } else {
            1
        },
    }
}

/// Returns the segment that a note is in.
const fn note_segment(offset: u64, len_bytes: u64) -> Segment {
    Segment {
        kind: PT_NOTE,
        flags: PF_R,
        offset,
        address: 0,
        file_bytes: len_bytes,
        memory_bytes: len_bytes,
        align: 4,
    }
}

/// Returns the note of a build identifier, or nothing for an empty one.
fn note(build_id: &[u8]) -> Vec<u8> {
    let mut note = Writer(Vec::new());
    if !build_id.is_empty() {
        note.words(&[
            4,
            u32::try_from(build_id.len()).unwrap_or(0),
            NT_GNU_BUILD_ID,
        ]);
        note.0.extend_from_slice(b"GNU\0");
        note.0.extend_from_slice(build_id);
        let padded = note
            .0
            .len()
            .checked_next_multiple_of(4)
            .unwrap_or(note.0.len());
        note.0.resize(padded, 0);
    }
    note.0
}

/// A file under construction.
struct Writer(Vec<u8>);

impl Writer {
    fn halves(&mut self, values: &[u16]) {
        self.0
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn words(&mut self, values: &[u32]) {
        self.0
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn doubles(&mut self, values: &[u64]) {
        self.0
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    fn file_header(&mut self, machine: Machine, entry: Gva, segments: u16, sections: usize) {
        // 64 bits, little-endian, version 1, System V.
        self.0
            .extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let segments_offset = u64::from(HEADER_BYTES);
        let segments_bytes = u64::from(PROGRAM_HEADER_BYTES).saturating_mul(segments.into());
        let sections = u16::try_from(sections).unwrap_or(0);
        self.halves(&[ET_EXEC, machine.0]);
        self.words(&[1]);
        self.doubles(&[
            entry.0,
            segments_offset,
            segments_offset.saturating_add(segments_bytes),
        ]);
        self.words(&[0]);
        self.halves(&[
            HEADER_BYTES,
            PROGRAM_HEADER_BYTES,
            segments,
            SECTION_HEADER_BYTES,
        ]);
        // The names of the sections are in the third one from the end.
        self.halves(&[sections, sections.saturating_sub(3)]);
    }

    fn segment(&mut self, segment: &Segment) {
        self.words(&[segment.kind, segment.flags]);
        self.doubles(&[segment.offset, segment.address, segment.address]);
        self.doubles(&[segment.file_bytes, segment.memory_bytes, segment.align]);
    }

    fn section(&mut self, name: u32, header: &SectionHeader) {
        self.words(&[name, header.kind]);
        self.doubles(&[
            header.flags,
            header.address,
            header.offset,
            header.len_bytes,
        ]);
        self.words(&[header.link, header.info]);
        self.doubles(&[header.align, header.entry_bytes]);
    }
}
