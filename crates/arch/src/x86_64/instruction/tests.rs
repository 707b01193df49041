use alloc::{vec, vec::Vec};

use MemoryAccess::{Read, ReadWrite, Write};

use super::*;
use crate::x86_64::{
    control::{Cr0, Cr4, Efer},
    registers::*,
    segment::{Segment, SegmentAttributes, SegmentRegister},
};

fn class(size: CodeSize, bytes: &[u8]) -> StepClass {
    let decoded = decode(bytes, size, 0x1000).unwrap();
    assert_eq!(decoded.len_bytes(), bytes.len());
    decoded.class()
}

#[test]
fn classes_of_64_bit_code() {
    let cases: [(&[u8], StepClass); 39] = [
        (&[0x90], StepClass::Plain),
        (&[0x48, 0x89, 0xc3], StepClass::Plain),
        (&[0x9c], StepClass::PushFlags),
        (&[0x66, 0x9c], StepClass::PushFlags),
        (&[0x9d], StepClass::PopFlags),
        (&[0x48, 0xcf], StepClass::InterruptReturn),
        (&[0xcf], StepClass::InterruptReturn),
        (&[0x0f, 0x05], StepClass::Syscall),
        (&[0x48, 0x0f, 0x07], StepClass::Sysret),
        (&[0x0f, 0x34], StepClass::Sysenter),
        (&[0x48, 0x0f, 0x35], StepClass::Sysexit),
        (&[0xcd, 0x80], StepClass::SoftwareInterrupt { vector: 0x80 }),
        (&[0xcd, 0x03], StepClass::SoftwareInterrupt { vector: 3 }),
        (&[0xcc], StepClass::Int3),
        (&[0xf1], StepClass::Icebp),
        (&[0x8e, 0xd0], StepClass::LoadSs),
        (&[0x8e, 0x10], StepClass::LoadSs),
        (&[0x8e, 0xd8], StepClass::Plain),
        (&[0xfb], StepClass::Sti),
        (&[0xfa], StepClass::Cli),
        (&[0xf4], StepClass::Halt),
        (&[0x0f, 0x01, 0xc9], StepClass::Wait),
        (&[0xec], StepClass::PortIo),
        (&[0xe6, 0x80], StepClass::PortIo),
        (&[0xf3, 0x6c], StepClass::PortIo),
        (&[0x6e], StepClass::PortIo),
        (&[0xf3, 0xa4], StepClass::RepString),
        (&[0xf3, 0x48, 0xab], StepClass::RepString),
        (&[0xf2, 0xae], StepClass::RepString),
        (&[0xa4], StepClass::Plain),
        (&[0x0f, 0x23, 0xf8], StepClass::MoveDebugRegister),
        (&[0x0f, 0x21, 0xf8], StepClass::MoveDebugRegister),
        (&[0x0f, 0x22, 0xd8], StepClass::WriteControlRegister),
        (&[0x0f, 0x20, 0xd8], StepClass::Plain),
        (&[0x0f, 0x32], StepClass::ReadMsr),
        (&[0x0f, 0x30], StepClass::WriteMsr),
        (&[0x0f, 0xa2], StepClass::Cpuid),
        (&[0x0f, 0x01, 0xc1], StepClass::Hypercall),
        (&[0x0f, 0x01, 0xd9], StepClass::Hypercall),
    ];
    for (bytes, expected) in cases {
        assert_eq!(class(CodeSize::Bits64, bytes), expected, "{bytes:02x?}");
    }
}

#[test]
fn classes_of_shorter_code() {
    assert_eq!(class(CodeSize::Bits32, &[0x17]), StepClass::LoadSs);
    assert_eq!(class(CodeSize::Bits32, &[0x1f]), StepClass::Plain);
    assert_eq!(class(CodeSize::Bits16, &[0xce]), StepClass::Into);
    assert_eq!(class(CodeSize::Bits16, &[0x9d]), StepClass::PopFlags);
    assert_eq!(class(CodeSize::Bits16, &[0x66, 0x9d]), StepClass::PopFlags);
    assert_eq!(
        class(CodeSize::Bits32, &[0x0f, 0x06]),
        StepClass::WriteControlRegister
    );
    assert_eq!(class(CodeSize::Bits32, &[0x0f, 0xaa]), StepClass::Resume);
    assert_eq!(
        class(CodeSize::Bits64, &[0xc7, 0xf8, 0, 0, 0, 0]),
        StepClass::BeginTransaction
    );
}

#[test]
fn a_repeat_prefix_repeats_string_instructions_only() {
    let repetition = |bytes| decode(bytes, CodeSize::Bits64, 0).unwrap().repetition();
    assert_eq!(repetition(&[0xf3, 0xa4]), Repetition::Repeats);
    assert_eq!(repetition(&[0xf3, 0x6e]), Repetition::Repeats);
    assert_eq!(repetition(&[0xa4]), Repetition::Once);
    // PAUSE, and a scalar SSE move.
    assert_eq!(repetition(&[0xf3, 0x90]), Repetition::Once);
    assert_eq!(repetition(&[0xf3, 0x0f, 0x10, 0xc1]), Repetition::Once);
}

#[test]
fn calls_are_known() {
    let is_call = |bytes| decode(bytes, CodeSize::Bits64, 0x1000).unwrap().is_call();
    assert!(is_call(&[0xe8, 0, 0, 0, 0]));
    assert!(is_call(&[0xff, 0xd0]));
    assert!(!is_call(&[0xe9, 0, 0, 0, 0]));
    assert!(!is_call(&[0xc3]));
    assert_eq!(
        decode(&[0xe8, 0, 0, 0, 0], CodeSize::Bits64, 0x1000)
            .unwrap()
            .next_ip(),
        0x1005
    );
}

#[test]
fn what_is_no_instruction_is_none() {
    assert!(decode(&[], CodeSize::Bits64, 0).is_none());
    assert!(decode(&[0x0f], CodeSize::Bits64, 0).is_none());
    assert!(decode(&[0x06], CodeSize::Bits64, 0).is_none());
    assert!(decode(&[0x66; 16], CodeSize::Bits64, 0).is_none());
}

fn long_mode() -> RegisterFile {
    let mut file = file();
    Cr0::new().with_pe(true).with_pg(true).write(&mut file);
    Cr4::new().with_pae(true).write(&mut file);
    Efer::new().with_lma(true).write(&mut file);
    let attributes = SegmentAttributes::new().with_l(true);
    SegmentRegister::Cs.write(
        &mut file,
        Segment {
            attributes,
            ..Segment::default()
        },
    );
    file.set_u64(RIP, 0xffff_ffff_8100_0000);
    file.set_u64(RSP, 0xffff_c900_0000_1000);
    file.set_u64(RAX, 0x1000);
    file.set_u64(RCX, 0x10);
    file.set_u64(RSI, 0x5000);
    file.set_u64(RDI, 0x6000);
    file.set_u64(GS_BASE, 0xffff_8880_0000_0000);
    file
}

fn operands(file: &RegisterFile, bytes: &[u8]) -> Vec<(u64, u64, MemoryAccess)> {
    let operands = decode_next(bytes, file).unwrap().memory_operands(file);
    operands
        .into_iter()
        .map(|operand| (operand.address.0, operand.len_bytes, operand.access))
        .collect()
}

#[test]
fn operands_of_64_bit_code_have_linear_addresses() {
    let file = long_mode();
    // mov [rax+rcx*8+0x20], edx
    assert_eq!(
        operands(&file, &[0x89, 0x54, 0xc8, 0x20]),
        vec![(0x10a0, 4, Write)]
    );
    // add qword [rax], 1
    assert_eq!(
        operands(&file, &[0x48, 0x83, 0x00, 1]),
        vec![(0x1000, 8, ReadWrite)]
    );
    // mov rax, [rip+0x10]
    assert_eq!(
        operands(&file, &[0x48, 0x8b, 0x05, 0x10, 0, 0, 0]),
        vec![(0xffff_ffff_8100_0017, 8, Read)]
    );
    // mov eax, gs:[0x28]
    assert_eq!(
        operands(&file, &[0x65, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0]),
        vec![(0xffff_8880_0000_0028, 4, Read)]
    );
    // mov eax, [ecx+eax]: a 32-bit address size
    assert_eq!(
        operands(&file, &[0x67, 0x8b, 0x04, 0x01]),
        vec![(0x1010, 4, Read)]
    );
    // lea touches nothing.
    assert_eq!(operands(&file, &[0x48, 0x8d, 0x00]), vec![]);
    // vmovups zmm0, [rax]
    assert_eq!(
        operands(&file, &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x00]),
        vec![(0x1000, 64, Read)]
    );
}

#[test]
fn implicit_accesses_count() {
    let file = long_mode();
    let below = 0xffff_c900_0000_0ff8;
    assert_eq!(operands(&file, &[0x50]), vec![(below, 8, Write)]);
    assert_eq!(
        operands(&file, &[0xe8, 0, 0, 0, 0]),
        vec![(below, 8, Write)]
    );
    assert_eq!(operands(&file, &[0xc3]), vec![(below + 8, 8, Read)]);
    // push [rax]: the operand and the stack
    let mut push = operands(&file, &[0xff, 0x30]);
    push.sort_unstable_by_key(|operand| operand.0);
    assert_eq!(push, vec![(0x1000, 8, Read), (below, 8, Write)]);
    // movsq, once or repeated
    for bytes in [&[0x48, 0xa5][..], &[0xf3, 0x48, 0xa5]] {
        let mut moved = operands(&file, bytes);
        moved.sort_unstable_by_key(|operand| operand.0);
        assert_eq!(moved, vec![(0x5000, 8, Read), (0x6000, 8, Write)]);
    }
    // xlatb: [rbx + al]
    assert_eq!(operands(&file, &[0xd7]), vec![(0, 1, Read)]);
}

#[test]
fn segment_bases_count_in_real_mode() {
    let mut file = file();
    let segment = Segment {
        selector: 0x1000,
        base: 0x1_0000,
        ..Segment::default()
    };
    SegmentRegister::Ds.write(&mut file, segment);
    SegmentRegister::Ss.write(
        &mut file,
        Segment {
            base: 0x2_0000,
            ..segment
        },
    );
    file.set_u64(RBX, 0xffff);
    file.set_u64(RSI, 0x11);
    file.set_u64(RSP, 0x100);
    // mov ax, [bx+si]: the offset wraps at 64 KiB.
    assert_eq!(operands(&file, &[0x8b, 0x00]), vec![(0x1_0010, 2, Read)]);
    assert_eq!(operands(&file, &[0x50]), vec![(0x2_00fe, 2, Write)]);
}

#[test]
fn a_gather_touches_each_element() {
    let mut file = long_mode();
    // vgatherdps xmm0, [rax+xmm1*4], xmm2
    let indices: [i32; 4] = [0, 1, -1, 0x100];
    for (bytes, index) in file.bytes_mut(XMM1).chunks_exact_mut(4).zip(indices) {
        bytes.copy_from_slice(&index.to_le_bytes());
    }
    let gather = [0xc4, 0xe2, 0x69, 0x92, 0x04, 0x88];
    let expected = [0x1000, 0x1004, 0xffc, 0x1400].map(|address| (address, 4, Read));
    assert_eq!(operands(&file, &gather), expected);
    // vgatherqps xmm0, [rax+ymm1*1], xmm2: four indices of 64 bits
    for (bytes, index) in file.bytes_mut(YMM1H).chunks_exact_mut(8).zip([8_u64, 16]) {
        bytes.copy_from_slice(&index.to_le_bytes());
    }
    file.set_u64(XMM1, 4);
    let gather = [0xc4, 0xe2, 0x6d, 0x93, 0x04, 0x08];
    let expected = [0x1004, 0x1000, 0x1008, 0x1010].map(|address| (address, 4, Read));
    assert_eq!(operands(&file, &gather), expected);
}

#[test]
fn any_bytes_decode_or_not_but_never_panic() {
    let mut word = 1_u64;
    let files = [file(), long_mode()];
    for _ in 0..50_000 {
        let mut bytes = [0; 16];
        for half in bytes.chunks_exact_mut(8) {
            word = word
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            half.copy_from_slice(&(word ^ word >> 29).to_le_bytes());
        }
        for file in &files {
            if let Some(decoded) = decode_next(&bytes, file) {
                assert!((1..=MAX_LEN_BYTES).contains(&decoded.len_bytes()));
                assert!(decoded.memory_operands(file).len() <= 64);
                let _ = decoded.class();
            }
        }
    }
}

#[test]
fn disassembly_reads_as_gdbs() {
    let code = [
        0x48, 0x89, 0xe5, 0xe8, 0xf8, 0x0f, 0, 0, 0x06, 0x8b, 0x05, 0x10, 0, 0, 0,
    ];
    let texts = |syntax| {
        let lines = disassemble(&code, CodeSize::Bits64, 0x1000, 10, syntax);
        lines
            .into_iter()
            .map(|line| (line.ip, line.text))
            .collect::<Vec<_>>()
    };
    let expect = |lines: [(u64, &str); 4]| lines.map(|(ip, text)| (ip, text.into()));
    assert_eq!(
        texts(Syntax::Att),
        expect([
            (0x1000, "mov %rsp,%rbp"),
            (0x1003, "call 0x2000"),
            (0x1008, "(bad)"),
            (0x1009, "mov 0x10(%rip),%eax  # 0x101f"),
        ])
    );
    assert_eq!(
        texts(Syntax::Intel),
        expect([
            (0x1000, "mov rbp,rsp"),
            (0x1003, "call 0x2000"),
            (0x1008, "(bad)"),
            (0x1009, "mov eax,[rip+0x10]  # 0x101f"),
        ])
    );
}

#[test]
fn disassembly_stops_at_the_last_line_or_whole_instruction() {
    let nops = [0x90; 8];
    let lines = disassemble(&nops, CodeSize::Bits64, u64::MAX, 3, Syntax::Att);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1].ip, 0);
    assert_eq!(lines[2].bytes, [0x90]);
    assert_eq!(disassemble(&nops, CodeSize::Bits64, 0, 0, Syntax::Att), []);
    let cut = disassemble(&[0x90, 0x48, 0xb8, 1], CodeSize::Bits64, 0, 9, Syntax::Att);
    assert_eq!(cut.len(), 1);
}

#[test]
fn code_has_the_modes_size() {
    let mut file = long_mode();
    // 48 is a prefix in 64-bit code and an instruction in 16-bit code.
    assert_eq!(decode_next(&[0x48, 0x90], &file).unwrap().len_bytes(), 2);
    Cr0::new().write(&mut file);
    assert_eq!(decode_next(&[0x48, 0x90], &file).unwrap().len_bytes(), 1);
}

/// Returns what an instruction raises in 64-bit code of the kernel, with alignment checks possible.
fn faults(file: &RegisterFile, bytes: &[u8]) -> Faults {
    let decoded = decode_next(bytes, file).unwrap();
    assert_eq!(decoded.len_bytes(), bytes.len());
    decoded.faults(file)
}

#[test]
fn common_instructions_raise_nothing_but_for_memory() {
    let known: [&[u8]; 24] = [
        &[0x90],
        &[0x48, 0x89, 0xc3],                   // mov rbx, rax
        &[0x48, 0x89, 0x03],                   // mov [rbx], rax
        &[0x48, 0xff, 0x04, 0x25, 0, 0, 0, 0], // inc qword ptr [0]
        &[0xe8, 0, 0, 0, 0],                   // call
        &[0xff, 0xd0],                         // call rax
        &[0xff, 0x23],                         // jmp [rbx]
        &[0xeb, 0xfe],                         // jmp
        &[0x75, 0x10],                         // jne
        &[0xc3],                               // ret
        &[0x55],                               // push rbp
        &[0xff, 0x33],                         // push [rbx]
        &[0x5d],                               // pop rbp
        &[0xc9],                               // leave
        &[0x9c],                               // pushf
        &[0x9d],                               // popf
        &[0x48, 0x8d, 0x04, 0x0b],             // lea rax, [rbx + rcx]
        &[0x48, 0x87, 0xc3],                   // xchg rbx, rax
        &[0x48, 0x87, 0x03],                   // xchg [rbx], rax
        &[0xf0, 0x48, 0xff, 0x03],             // lock inc qword ptr [rbx]
        &[0x64, 0x8b, 0x04, 0x25, 0, 0, 0, 0], // mov eax, fs:[0]
        &[0xf3, 0x0f, 0x1e, 0xfa],             // endbr64
        &[0xf3, 0xa4],                         // rep movsb
        &[0xaa],                               // stosb
    ];
    for bytes in known {
        assert_eq!(faults(&long_mode(), bytes), Faults::empty(), "{bytes:x?}");
    }
}

#[test]
fn other_instructions_raise_what_the_manual_says() {
    const OTHER: Faults = Faults::UD.union(Faults::MEMORY);
    let file = long_mode();
    let cases: [(&[u8], Faults); 16] = [
        (&[0x48, 0xf7, 0xf3], Faults::DE),             // div rbx
        (&[0x48, 0xf7, 0x3b], Faults::DE),             // idiv [rbx]
        (&[0x8f, 0x03], OTHER),                        // pop [rbx]
        (&[0x0f, 0x20, 0xd8], OTHER),                  // mov rax, cr3
        (&[0xf4], OTHER),                              // hlt
        (&[0x0f, 0x0b], OTHER),                        // ud2
        (&[0xe4, 0x80], OTHER),                        // in al, 0x80
        (&[0x6e], OTHER),                              // outsb
        (&[0x8e, 0xd8], Faults::SEGMENT | Faults::UD), // mov ds, eax
        (&[0xcb], Faults::SEGMENT | Faults::UD),       // retf
        (&[0xff, 0x2b], Faults::SEGMENT | Faults::UD), // jmp far [rbx]
        (&[0x48, 0xcf], Faults::SEGMENT),              // iretq
        (&[0xcd, 0x80], Faults::SEGMENT),              // int 0x80
        (&[0x9b], Faults::MF),                         // fwait
        (&[0xd9, 0x03], Faults::MF | OTHER),           // fld dword ptr [rbx]
        (&[0x0f, 0x58, 0xc1], Faults::UD),             // addps xmm0, xmm1
    ];
    for (bytes, expected) in cases {
        assert_eq!(faults(&file, bytes), expected, "{bytes:x?}");
    }
}

#[test]
fn what_an_instruction_raises_depends_on_control_registers() {
    let mut file = long_mode();
    let cr0 = Cr0::new().with_pe(true).with_pg(true).with_mp(true);
    cr0.with_ts(true).write(&mut file);
    let cr4 = Cr4::new().with_pae(true);
    cr4.with_osxmmexcpt(true).write(&mut file);
    assert_eq!(faults(&file, &[0x9b]), Faults::MF | Faults::NM);
    let addps = Faults::UD | Faults::NM | Faults::XM;
    assert_eq!(faults(&file, &[0x0f, 0x58, 0xc1]), addps);
    assert_eq!(faults(&file, &[0x48, 0xf7, 0xf3]), Faults::DE);
    cr4.with_cet(true).write(&mut file);
    assert_eq!(faults(&file, &[0xc3]), Faults::CP);
    cr4.write(&mut file);
    // In user mode with alignment checks.
    let stack = SegmentAttributes::new().with_dpl(3);
    file.set_u64(SS_ATTRIBUTES, stack.into_bits().into());
    cr0.with_am(true).write(&mut file);
    file.set_u64(RFLAGS, 1 << 18 | 2);
    assert_eq!(faults(&file, &[0x48, 0x89, 0x03]), Faults::AC);
    file.set_u64(RFLAGS, 2);
    assert_eq!(faults(&file, &[0x48, 0x89, 0x03]), Faults::empty());
}

#[test]
fn a_locked_access_across_cache_lines_may_raise_alignment_check() {
    let mut file = long_mode();
    for (address, expected) in [(0x1038, Faults::empty()), (0x103c, Faults::AC)] {
        file.set_u64(RBX, address);
        for bytes in [&[0xf0, 0x48, 0xff, 0x03][..], &[0x48, 0x87, 0x03]] {
            assert_eq!(faults(&file, bytes), expected, "{address:x} {bytes:x?}");
        }
        assert_eq!(faults(&file, &[0x48, 0xff, 0x03]), Faults::empty());
    }
}

#[test]
fn segments_count_outside_of_64_bit_code() {
    let file = file();
    assert_eq!(faults(&file, &[0x90]), Faults::MEMORY);
    assert_eq!(faults(&file, &[0xf7, 0xf3]), Faults::DE | Faults::MEMORY);
    let bound = faults(&file, &[0x62, 0x07]);
    assert_eq!(bound, Faults::BR | Faults::UD | Faults::MEMORY);
    assert_eq!(faults(&file, &[0xd4, 0x0a]), Faults::DE | Faults::MEMORY);
}

#[test]
fn vectors_come_in_order_of_likelihood_and_know_their_error_codes() {
    let vectors = |faults: Faults| faults.vectors().collect::<Vec<_>>();
    assert_eq!(vectors(Faults::DE), [(0, false)]);
    assert_eq!(
        vectors(Faults::MEMORY | Faults::UD),
        [(14, true), (13, true), (6, false), (12, true)]
    );
    let all = vectors(Faults::all());
    assert_eq!(all.len(), 14);
    let with_code: Vec<_> = all.iter().filter(|one| one.1).map(|one| one.0).collect();
    assert_eq!(with_code, [14, 13, 12, 11, 17, 10, 21]);
}

#[test]
fn branch_targets_are_those_of_direct_branches() {
    let target = |bytes: &[u8]| {
        decode(bytes, CodeSize::Bits64, 0x1000)
            .unwrap()
            .branch_target()
    };
    assert_eq!(target(&[0xe8, 0x10, 0, 0, 0]), Some(0x1015));
    assert_eq!(target(&[0xeb, 0xfe]), Some(0x1000));
    assert_eq!(target(&[0xff, 0xd0]), None);
    assert_eq!(target(&[0x90]), None);
}
