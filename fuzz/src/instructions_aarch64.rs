use trapline_arch::{
    Gva,
    aarch64::{
        instruction::{
            ExclusiveSequence, Instruction, LEN_BYTES, MAX_SEQUENCE_INSTRUCTIONS, disassemble,
        },
        registers,
    },
};

/// The first word of the input is a pc, the next 32 are x0 to x30 and sp; the rest is code.
pub fn instructions_aarch64(data: &[u8]) {
    let Some((header, code)) = data.split_at_checked(33 * 8) else {
        return;
    };
    let word = |index: usize| u64::from_le_bytes(header[index * 8..][..8].try_into().unwrap());
    let mut file = registers::file();
    let pc = Gva(word(0)).align_down(4);
    file.set_u64(registers::PC, pc.0);
    for number in 0..31 {
        let id = registers::x(number).unwrap();
        file.set_u64(id, word(usize::from(number) + 1));
    }
    file.set_u64(registers::SP, word(32));
    let lines = disassemble(code, pc.0, usize::MAX);
    assert_eq!(lines.len(), code.len() / LEN_BYTES);
    for line in lines {
        assert!(!line.text.is_empty());
        let instruction = Instruction::from_bytes(&line.bytes).unwrap();
        let _ = (instruction.step_class(), instruction.branch(Gva(line.ip)));
        if let Some(access) = instruction.access(&file) {
            assert!(access.len_bytes > 0);
            assert!(access.last() >= access.address);
        }
    }
    if let Some(sequence) = ExclusiveSequence::at(pc, code) {
        let len = sequence.end.0.wrapping_sub(pc.0);
        let longest = (MAX_SEQUENCE_INSTRUCTIONS * LEN_BYTES) as u64;
        assert!((8..=longest).contains(&len), "{len}");
        assert!(sequence.exits.len() <= MAX_SEQUENCE_INSTRUCTIONS);
        for exit in &sequence.exits {
            assert!(exit.0.wrapping_sub(pc.0) >= len);
        }
    }
}
