//! The sections of the kernel image, by the symbols that its linker script sets at their borders.

use alloc::vec::Vec;

use trapline_arch::Gva;

use crate::kallsyms::Kallsyms;

/// What begins at which symbol. The order of the image differs between architectures, so these are
/// sorted by address; those that a kernel does not have are left out.
const BORDERS: [(&str, &str, Contents); 6] = [
    ("_etext", ".rodata", Contents::Data),
    ("_sdata", ".data", Contents::Data),
    ("_sinittext", ".init.text", Contents::Code),
    ("_einittext", ".init.data", Contents::Data),
    ("__bss_start", ".bss", Contents::Data),
    ("_end", "", Contents::Data),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Contents {
    Code,
    Data,
}

/// A section of the image: `start` is below `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) is_code: bool,
    pub(super) start: Gva,
    pub(super) end: Gva,
}

/// The sections of an image, in address order and without gaps.
pub(super) struct Sections {
    start: Gva,
    end: Gva,
    list: Vec<Section>,
}

impl Sections {
    /// Finds the sections by the image's symbols.
    pub(super) fn of(symbols: &Kallsyms) -> Self {
        let first = Gva(symbols.address(symbols.first_in_image()).unwrap_or(0));
        let last = Gva(symbols
            .address(symbols.len().saturating_sub(1))
            .unwrap_or(0));
        let named = |name| symbols.first_by_name(name).map(|symbol| symbol.address);
        let inside = |address: &Gva| (first..=last).contains(address);
        let start = named("_text")
            .or_else(|| named("_stext"))
            .filter(inside)
            .unwrap_or(first);
        let end = named("_end").filter(|end| inside(end) && *end > start);
        let end = end.unwrap_or_else(|| Gva(last.0.max(start.0).saturating_add(1)));
        let mut borders: Vec<(Gva, &str, Contents)> = BORDERS
            .iter()
            .filter_map(|(symbol, section, contents)| Some((named(symbol)?, *section, *contents)))
            .filter(|(address, ..)| *address > start && *address < end)
            .collect();
        borders.sort_by_key(|(address, ..)| *address);
        let mut list = Vec::new();
        let mut open = (start, ".text", Contents::Code);
        for border in borders.into_iter().chain([(end, "", Contents::Data)]) {
            let (address, name, contents) = open;
            if border.0 > address {
                let is_code = contents == Contents::Code;
                list.push(Section {
                    name,
                    is_code,
                    start: address,
                    end: border.0,
                });
            }
            open = border;
        }
        Self { start, end, list }
    }

    pub(super) const fn start(&self) -> Gva {
        self.start
    }

    pub(super) const fn end(&self) -> Gva {
        self.end
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Section> {
        self.list.iter()
    }

    /// Returns the section that an address is in, with its number, the first being 1.
    ///
    /// A symbol at the image's end belongs to the last one, and so does `_etext` to `.rodata`.
    pub(super) fn find(&self, address: Gva) -> Option<(u16, &Section)> {
        let number = self
            .list
            .partition_point(|section| section.start <= address);
        let section = self.list.get(number.checked_sub(1)?)?;
        (address <= section.end).then_some((u16::try_from(number).ok()?, section))
    }
}
