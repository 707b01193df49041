use trapline_arch::{Gpa, PhysicalMemory};
use trapline_linux::{Progress, Scanner, VmcoreInfo};

/// What a step of the search may read, in bytes.
const STEP_BYTES: u64 = 1024;

/// The input as a text, and as all memory that is searched for a text.
pub fn vmcoreinfo(data: &[u8]) {
    if let Ok(info) = VmcoreInfo::parse(data) {
        assert!(!info.os_release().is_empty() && info.page_size().is_power_of_two());
        read_all(&info);
    }
    let memory = Memory(data);
    let mut scanner = Scanner::new([Gpa(0)..Gpa(data.len() as u64)]);
    // Every step but the last uses its budget, and each place of the first key costs a page.
    for _ in 0..=2 * data.len() {
        match scanner.step(&memory, STEP_BYTES) {
            Progress::Found(info) => assert!(info.agrees_with(&memory)),
            Progress::More => {}
            Progress::NotYet | Progress::NotFound => return,
        }
    }
    panic!("the search does not end");
}

fn read_all(info: &VmcoreInfo) {
    for line in info.text().lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        assert!(
            info.value(key).is_some() || !line.contains('='),
            "{key}={value}"
        );
        let name = key.split(['(', ')']).nth(1).unwrap_or(key);
        let _ = (info.symbol(name), info.number(name), info.length(name));
        let _ = (info.size(name), info.offset(name));
    }
    let _ = (
        info.kernel_offset(),
        info.pgtable_l5_enabled(),
        info.build_id(),
    );
    if let Some(mapping) = info.image_mapping() {
        let stext = info.symbol("_stext").unwrap();
        assert_eq!(
            mapping.physical(stext).is_some(),
            mapping.len_from(stext) != 0
        );
    }
}

struct Memory<'a>(&'a [u8]);

impl PhysicalMemory for Memory<'_> {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(address.0).unwrap();
        let rest = self.0.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }
}
