//! The smallest ELF file with symbols (System V ABI, "Object Files").

/// What fills the file up to more than one piece of a transfer.
const PADDING_BYTES: usize = 100_000;

const HEADER_BYTES: u16 = 64;
const SECTION_BYTES: u16 = 64;
const SYMBOL_BYTES: u64 = 24;

/// Returns a file with the names and addresses of functions.
pub(crate) fn file_of(symbols: &[(&str, u64)]) -> Vec<u8> {
    let mut names = vec![0];
    let mut table = vec![0; 24];
    for (name, address) in symbols {
        table.extend(u32::try_from(names.len()).unwrap().to_le_bytes());
        // STB_GLOBAL and STT_FUNC, default visibility, SHN_ABS.
        table.extend([0x12, 0, 0xf1, 0xff]);
        table.extend(address.to_le_bytes());
        table.extend(0_u64.to_le_bytes());
        names.extend(name.as_bytes());
        names.push(0);
    }
    names.resize(names.len() + PADDING_BYTES, 0);
    let table_at = u64::from(HEADER_BYTES);
    let names_at = table_at + table.len() as u64;
    let sections_at = names_at + names.len() as u64;

    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_EXEC for EM_X86_64, version 1.
    for half in [2_u16, 62, 1, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [0, 0, sections_at] {
        file.extend(word.to_le_bytes());
    }
    for half in [0, 0, HEADER_BYTES, 0, 0, SECTION_BYTES, 3, 2] {
        file.extend(half.to_le_bytes());
    }
    file.extend(&table);
    file.extend(&names);
    file.extend([0; SECTION_BYTES as usize]);
    // SHT_SYMTAB, whose names are in section 2 and whose first symbol is local; SHT_STRTAB.
    section(&mut file, 2, table_at, table.len(), (2, 1, SYMBOL_BYTES));
    section(&mut file, 3, names_at, names.len(), (0, 0, 0));
    file
}

fn section(
    file: &mut Vec<u8>,
    kind: u32,
    at: u64,
    len: usize,
    (link, info, entry): (u32, u32, u64),
) {
    file.extend(0_u32.to_le_bytes());
    file.extend(kind.to_le_bytes());
    for word in [0, 0, at, len as u64] {
        file.extend(word.to_le_bytes());
    }
    file.extend(link.to_le_bytes());
    file.extend(info.to_le_bytes());
    file.extend(1_u64.to_le_bytes());
    file.extend(entry.to_le_bytes());
}
