//! Shows what a Linux guest's memory says of itself, from a dump of guest-physical memory.
//!
//! ```text
//! (qemu) pmemsave 0 0x10000000 "/tmp/dump.raw"
//! $ cargo run --release -p trapline-linux --example dump_symbols -- /tmp/dump.raw [/tmp/out.elf]
//! ```
//!
//! The dump begins at physical address 0. With `--list`, the symbols are written to standard output
//! as `/proc/kallsyms` shows them. With `--no-note`, the symbol tables are searched for without the
//! help of VMCOREINFO, as while a kernel starts.

use core::error::Error;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use trapline_arch::{Gpa, PhysicalMemory};
use trapline_linux::{
    ImageMemory, Kallsyms, Machine, PhysicalView, Progress, Scanner, Slide, SymbolFile,
    TableProgress, TableScanner, VmcoreInfo, call_frames, read_banner,
};

/// How much a server would search between two looks at its clients.
const STEP_BYTES: u64 = 1 << 20;

struct Dump(Vec<u8>);

impl PhysicalMemory for Dump {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let rest = self.0.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.chunks_mut(4096).zip(rest.chunks(4096)) {
            let len = to.len().min(from.len());
            to[..len].copy_from_slice(&from[..len]);
        }
        count
    }
}

impl Dump {
    fn end(&self) -> Gpa {
        Gpa(self.0.len() as u64)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (options, files): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let path = files
        .first()
        .ok_or("usage: dump_symbols [--list] [--no-note] DUMP [ELF]")?;
    let has = |option: &str| options.iter().any(|given| given == option);
    let memory = Dump(fs::read(path)?);

    let info = find_note(&memory);
    let symbols = if has("--no-note") {
        find_tables(&memory, info.as_ref())?
    } else {
        load(&memory, info.as_ref())?
    };
    eprintln!(
        "{} symbols in {} bytes",
        symbols.len(),
        symbols.resident_bytes()
    );
    if let Some(info) = &info {
        describe(&memory, info, &symbols);
    }
    if has("--list") {
        let mut out = BufWriter::new(io::stdout().lock());
        for symbol in &symbols {
            writeln!(out, "{symbol:?}")?;
        }
    }
    match files.get(1) {
        Some(output) => write_file(&memory, symbols, info.as_ref(), output),
        None => Ok(()),
    }
}

fn find_note(memory: &Dump) -> Option<VmcoreInfo> {
    let start = Instant::now();
    let mut scanner = Scanner::new([Gpa(0)..memory.end()]);
    let (mut steps, mut longest) = (0, 0.0_f64);
    let progress = loop {
        let step = Instant::now();
        let progress = scanner.step(memory, STEP_BYTES);
        longest = longest.max(step.elapsed().as_secs_f64());
        steps += 1;
        if progress != Progress::More {
            break progress;
        }
    };
    eprintln!(
        "search: {:?}, {steps} steps, longest {longest:.6} s",
        start.elapsed()
    );
    match progress {
        Progress::Found(info) => Some(info),
        other => {
            eprintln!("VMCOREINFO: {other:?}");
            None
        }
    }
}

fn load(memory: &Dump, info: Option<&VmcoreInfo>) -> Result<Kallsyms, Box<dyn Error>> {
    let info = info.ok_or("no VMCOREINFO; try --no-note")?;
    let mapping = info
        .image_mapping()
        .ok_or("VMCOREINFO does not tell where the image is")?;
    let start = Instant::now();
    let symbols = Kallsyms::load(&ImageMemory::new(memory, mapping), info)?;
    eprintln!("load: {:?}", start.elapsed());
    Ok(symbols)
}

fn find_tables(memory: &Dump, info: Option<&VmcoreInfo>) -> Result<Kallsyms, Box<dyn Error>> {
    let start = Instant::now();
    let mut scanner = TableScanner::new([Gpa(0)..memory.end()]);
    loop {
        match scanner.step(memory, STEP_BYTES) {
            TableProgress::More => {}
            TableProgress::NotFound => return Err("no symbol tables in memory".into()),
            TableProgress::Found(tables) => {
                eprintln!("search for tables: {:?}: {tables:x?}", start.elapsed());
                let stext = info.and_then(|info| info.symbol("_stext"));
                match Kallsyms::load_tables(&PhysicalView(memory), &tables, stext) {
                    Ok(symbols) => return Ok(symbols),
                    Err(error) => eprintln!("not these: {error}"),
                }
            }
        }
    }
}

fn describe(memory: &Dump, info: &VmcoreInfo, symbols: &Kallsyms) {
    eprintln!(
        "release {}, build ID {:?}",
        info.os_release(),
        info.build_id()
    );
    eprintln!("{:x?}", Slide::new(info, Some(symbols)));
    if let Some(mapping) = info.image_mapping() {
        eprintln!(
            "{:?}",
            read_banner(&ImageMemory::new(memory, mapping), symbols)
        );
    }
    let start = Instant::now();
    let found = symbols.first_by_name("vfs_read");
    eprintln!("{found:x?}: by name in {:?}", start.elapsed());
    let start = Instant::now();
    let names = symbols.complete("vfs_", 10);
    eprintln!("{names:?} in {:?}", start.elapsed());
    let start = Instant::now();
    let found = found.and_then(|symbol| symbols.by_address(symbol.address.wrapping_add(0x10)));
    eprintln!("{found:x?}: by address in {:?}", start.elapsed());
}

fn write_file(
    memory: &Dump,
    symbols: Kallsyms,
    info: Option<&VmcoreInfo>,
    path: &str,
) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let mapping = info.and_then(VmcoreInfo::image_mapping);
    let frames = mapping.map(|mapping| call_frames(&ImageMemory::new(memory, mapping), &symbols));
    let frames = frames.unwrap_or_default();
    eprintln!(
        "{} bytes of call frames: {:?}",
        frames.len(),
        start.elapsed()
    );
    let file = SymbolFile::new(Arc::new(symbols), Machine::X86_64, info, &frames);
    let mut output = File::create(path)?;
    let mut buffer = vec![0; 16 << 10];
    let mut offset = 0;
    loop {
        let count = file.read_at(&PhysicalView(memory), offset, &mut buffer);
        if count == 0 {
            break;
        }
        output.write_all(&buffer[..count])?;
        offset += count as u64;
    }
    eprintln!(
        "{offset} bytes (of {}) written in {:?}",
        file.len(),
        start.elapsed()
    );
    Ok(())
}
