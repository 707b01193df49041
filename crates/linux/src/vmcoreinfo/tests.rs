use alloc::string::String;
use alloc::vec;

use trapline_arch::{Gpa, Gva};

use super::{VmcoreInfo, VmcoreInfoError};
use crate::testing::{DEBIAN, FakeMemory, Random};

fn debian() -> VmcoreInfo {
    VmcoreInfo::parse(DEBIAN.as_bytes()).unwrap()
}

fn changed(from: &str, to: &str) -> Result<VmcoreInfo, VmcoreInfoError> {
    assert!(DEBIAN.contains(from), "{from}");
    VmcoreInfo::parse(DEBIAN.replace(from, to).as_bytes())
}

#[test]
fn values_of_a_debian_kernel_are_read() {
    let info = debian();
    assert_eq!(info.os_release(), "6.1.0-56-cloud-amd64");
    assert_eq!(
        info.build_id(),
        Some("3b43fad5034874490492495d552c0af6a5fab235")
    );
    assert_eq!(info.page_size(), 4096);
    assert_eq!(info.kernel_offset(), 0x360_0000);
    assert_eq!(info.phys_base(), Some(130_023_424));
    assert_eq!(info.pgtable_l5_enabled(), Some(true));
    assert_eq!(info.symbol("_stext"), Some(Gva(0xffff_ffff_8460_0000)));
    assert_eq!(info.symbol("no_such"), None);
    assert_eq!(info.number("PAGE_BUDDY_MAPCOUNT_VALUE"), Some(-129));
    assert_eq!(info.length("mem_section"), Some(131_072));
    assert_eq!(info.size("page"), Some(64));
    assert_eq!(info.offset("page.mapping"), Some(24));
}

#[test]
fn a_key_is_not_found_by_its_prefix() {
    let info = debian();
    assert_eq!(info.symbol("_stex"), None);
    assert_eq!(info.symbol("stext"), None);
    assert_eq!(info.value("OSREL"), None);
    assert_eq!(info.size("page)"), None);
}

#[test]
fn the_text_ends_at_its_nul() {
    let mut bytes = DEBIAN.as_bytes().to_vec();
    bytes.extend_from_slice(b"\0\xff\xffSYMBOL(x)=1\n");
    assert_eq!(VmcoreInfo::parse(&bytes).unwrap().text(), DEBIAN);
}

#[test]
fn the_template_is_not_the_text() {
    let template = b"OSRELEASE=%s\n\0BUILD-ID=%*phN\n\0PAGESIZE=%ld\n\0";
    assert_eq!(VmcoreInfo::parse(template), Err(VmcoreInfoError::Template));
}

#[test]
fn what_every_kernel_writes_must_be_there() {
    use VmcoreInfoError::{Bad, Missing, NotText};
    assert_eq!(
        changed("OSRELEASE=", "OSRELEASe="),
        Err(Missing("OSRELEASE"))
    );
    assert_eq!(
        changed("PAGESIZE=4096", "PAGESIZE=4097"),
        Err(Bad("PAGESIZE"))
    );
    assert_eq!(
        changed("PAGESIZE=4096", "PAGESIZE=%ld"),
        Err(Bad("PAGESIZE"))
    );
    assert_eq!(
        changed("SYMBOL(_stext)=ff", "SYMBOL(_stext)=00"),
        Err(Bad("_stext"))
    );
    assert_eq!(
        changed("SYMBOL(_stext)=ff", "SYMBOL(_stext)=%l"),
        Err(Missing("_stext"))
    );
    assert_eq!(
        changed("SYMBOL(init_uts_ns)", "SYMBOL(x)"),
        Err(Missing("init_uts_ns"))
    );
    assert_eq!(changed("LENGTH", "LENGTH\u{fc}"), Err(NotText));
    assert_eq!(VmcoreInfo::parse(b""), Err(Missing("OSRELEASE")));
}

#[test]
fn hexadecimal_numbers_have_no_sign() {
    let info = changed("KERNELOFFSET=3600000", "KERNELOFFSET=+3600000").unwrap();
    assert_eq!(info.kernel_offset(), 0);
}

#[test]
fn truncated_and_mutated_texts_do_no_harm() {
    let whole = DEBIAN.as_bytes();
    for len in 0..whole.len() {
        let _ = VmcoreInfo::parse(&whole[..len]);
    }
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..2000 {
        let mut bytes = whole.to_vec();
        for _ in 0..1 + random.below(4) {
            let place = random.below(bytes.len());
            bytes[place] = b' ' + random.byte() % 95;
        }
        if let Ok(info) = VmcoreInfo::parse(&bytes) {
            let memory = FakeMemory::new(0, vec![0; 4096]);
            let _ = (
                info.image_mapping(),
                info.agrees_with(&memory),
                info.kernel_offset(),
            );
        }
    }
}

#[test]
fn the_image_of_x86_64_is_found_by_phys_base() {
    let mapping = debian().image_mapping().unwrap();
    assert_eq!(
        mapping.physical(Gva(0xffff_ffff_8460_0000)),
        Some(Gpa(0xc20_0000))
    );
    assert_eq!(mapping.physical(Gva(0xffff_ffff_7fff_ffff)), None);
    assert_eq!(
        mapping.physical(Gva(0xffff_ffff_bfff_ffff)),
        Some(Gpa(0x47bf_ffff))
    );
    assert_eq!(mapping.physical(Gva(0xffff_ffff_c000_0000)), None);
    assert_eq!(mapping.len_from(Gva(0xffff_ffff_bfff_fff0)), 16);
}

#[test]
fn phys_base_may_be_negative() {
    let info = changed("(phys_base)=130023424", "(phys_base)=-16777216").unwrap();
    let mapping = info.image_mapping().unwrap();
    assert_eq!(
        mapping.physical(Gva(0xffff_ffff_8460_0000)),
        Some(Gpa(0x360_0000))
    );
}

#[test]
fn the_image_of_aarch64_is_found_by_kimage_voffset() {
    let info = changed(
        "NUMBER(phys_base)=130023424",
        "NUMBER(kimage_voffset)=0xffffffff40000000",
    );
    let mapping = info.unwrap().image_mapping().unwrap();
    assert_eq!(
        mapping.physical(Gva(0xffff_ffff_8460_0000)),
        Some(Gpa(0x4460_0000))
    );
    assert_eq!(mapping.physical(Gva(0xffff_0000_0000_0000)), None);
}

#[test]
fn the_text_of_another_life_is_told_by_the_release_in_memory() {
    let text = DEBIAN
        .replace("ffffffff861f9b60", "ffffffff80000100")
        .replace("(phys_base)=130023424", "(phys_base)=0");
    let info = VmcoreInfo::parse(text.as_bytes()).unwrap();
    let mut memory = FakeMemory::new(0, vec![0; 0x1000]);
    assert!(!info.agrees_with(&memory));
    memory.put(0x100 + 130, b"6.1.0-56-cloud-amd64\0");
    assert!(info.agrees_with(&memory));
    memory.put(0x100 + 130, b"6.1.0-56-cloud-amd64-2\0");
    assert!(!info.agrees_with(&memory));
    let untold: String = text.replace("OFFSET(uts_namespace.name)=0\n", "");
    let info = VmcoreInfo::parse(untold.as_bytes()).unwrap();
    assert!(info.agrees_with(&FakeMemory::new(0, vec![])));
}
