//! Serial ports: Arm's PL011 and the 16550 family.
//!
//! Drivers of the usual crates own their registers and write to them as they like. Here a port is a value
//! over [`Registers`], so that what it does is tested on any computer, and it keeps what a debug link
//! needs: received bytes that were damaged on the line are counted, and not passed on.
//!
//! Sources: Arm, "`PrimeCell` UART (PL011) Technical Reference Manual", "Programmers Model"; Texas Instruments,
//! "PC16550D data sheet", "Registers".

/// The registers of a port.
pub trait Registers {
    /// Reads the register at `offset` bytes.
    fn read(&self, offset: usize) -> u32;
    /// Writes the register at `offset` bytes.
    fn write(&mut self, offset: usize, value: u32);
}

/// Which kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// PL011, or an SBSA generic UART, which is a part of it.
    Pl011,
    /// 16550 or a successor, whose registers are `1 << shift` bytes apart.
    Ns16550 {
        /// The binary logarithm of the distance of registers in bytes.
        shift: u8,
    },
}

/// PL011 registers.
mod pl011 {
    pub(super) const DR: usize = 0x00;
    pub(super) const FR: usize = 0x18;
    pub(super) const LCR_H: usize = 0x2c;
    pub(super) const CR: usize = 0x30;
    pub(super) const IFLS: usize = 0x34;
    pub(super) const IMSC: usize = 0x38;
    pub(super) const ICR: usize = 0x44;
    /// DR: framing, parity and break errors. An overrun says that bytes before this one are lost.
    pub(super) const ERRORS: u32 = 0b111 << 8;
    pub(super) const OVERRUN: u32 = 1 << 11;
    pub(super) const RECEIVE_EMPTY: u32 = 1 << 4;
    pub(super) const TRANSMIT_FULL: u32 = 1 << 5;
    pub(super) const TRANSMIT_INTERRUPT: u32 = 1 << 5;
    /// Receive and receive time-out.
    pub(super) const RECEIVE_INTERRUPTS: u32 = 1 << 4 | 1 << 6;
    pub(super) const FIFOS_8_BITS: u32 = 0b111 << 4;
    pub(super) const ENABLE_BOTH: u32 = 1 | 1 << 8 | 1 << 9;
}

/// 16550 registers, by number.
mod ns16550 {
    pub(super) const DATA: usize = 0;
    pub(super) const IER: usize = 1;
    pub(super) const FCR: usize = 2;
    pub(super) const LCR: usize = 3;
    pub(super) const MCR: usize = 4;
    pub(super) const LSR: usize = 5;
    /// LCR: 8 data bits, one stop bit, no parity, no access to the divisor.
    pub(super) const BITS_8: u32 = 0b11;
    /// LSR, and IER.
    pub(super) const RECEIVED: u32 = 1;
    pub(super) const TRANSMIT_INTERRUPT: u32 = 1 << 1;
    pub(super) const OVERRUN: u32 = 1 << 1;
    /// Parity, framing, break.
    pub(super) const ERRORS: u32 = 0b111 << 2;
    pub(super) const TRANSMIT_EMPTY: u32 = 1 << 5;
    pub(super) const FIFO_BYTES: usize = 16;
}

/// A serial port.
#[derive(Debug)]
pub struct Uart<R> {
    kind: UartKind,
    registers: R,
    /// Bytes that may still be written before the 16550 is asked again.
    room: usize,
    damaged: u64,
    wants_room: bool,
    is_held_back: bool,
}

impl<R: Registers> Uart<R> {
    /// Takes a port as the firmware or boot loader has set it up: its rate stays.
    pub fn new(kind: UartKind, registers: R) -> Self {
        Self {
            kind,
            registers,
            room: 0,
            damaged: 0,
            wants_room: false,
            is_held_back: false,
        }
    }

    /// Turns the port on, with FIFOs, 8 data bits, and an interrupt for what it receives. What was received before is
    /// lost.
    pub fn enable(&mut self) {
        match self.kind {
            UartKind::Pl011 => {
                let registers = &mut self.registers;
                registers.write(pl011::IMSC, 0);
                registers.write(pl011::ICR, 0x7ff);
                // The receive interrupt comes at an eighth of the FIFO, or with the time-out.
                registers.write(pl011::IFLS, 0);
                registers.write(pl011::LCR_H, pl011::FIFOS_8_BITS);
                registers.write(pl011::CR, pl011::ENABLE_BOTH);
            }
            UartKind::Ns16550 { .. } => {
                // DesignWare's takes a write while it is busy for an error, and interrupts for ever.
                if self.get(ns16550::LCR) & 0xff != ns16550::BITS_8 {
                    self.set(ns16550::LCR, ns16550::BITS_8);
                }
                self.set(ns16550::FCR, 0b111);
                // OUT2 lets the interrupt out on PC boards.
                self.set(ns16550::MCR, 0b1011);
            }
        }
        self.forget_received();
        self.set_interrupts();
    }

    /// Empties the receive FIFO: the PL011's receive interrupt comes when it fills, and not for what is in it already.
    /// A port of QEMU's that was full takes more only once it has been read, and clearing its FIFO is no reading.
    fn forget_received(&mut self) {
        let data = match self.kind {
            UartKind::Pl011 => pl011::DR,
            UartKind::Ns16550 { .. } => self.offset(ns16550::DATA),
        };
        let _unknown = self.registers.read(data);
        // More than any FIFO has room for.
        for _ in 0..256 {
            if self.receive().is_none() {
                break;
            }
        }
        self.damaged = 0;
    }

    /// Asks for an interrupt when there is room to send, or no longer.
    pub fn want_room(&mut self, is_wanted: bool) {
        if self.wants_room != is_wanted {
            self.wants_room = is_wanted;
            self.set_interrupts();
        }
    }

    /// Asks for no interrupts for what is received, or for them again: bytes that nobody takes would go
    /// on interrupting.
    pub fn hold_back(&mut self, is_held_back: bool) {
        if self.is_held_back != is_held_back {
            self.is_held_back = is_held_back;
            self.set_interrupts();
        }
    }

    fn set_interrupts(&mut self) {
        let (receive, room) = match self.kind {
            UartKind::Pl011 => (pl011::RECEIVE_INTERRUPTS, pl011::TRANSMIT_INTERRUPT),
            UartKind::Ns16550 { .. } => (ns16550::RECEIVED, ns16550::TRANSMIT_INTERRUPT),
        };
        let receive = if self.is_held_back { 0 } else { receive };
        let room = if self.wants_room { room } else { 0 };
        match self.kind {
            UartKind::Pl011 => self.registers.write(pl011::IMSC, receive | room),
            UartKind::Ns16550 { .. } => self.set(ns16550::IER, receive | room),
        }
    }

    /// Returns the next received byte. Damaged ones are left out, and counted.
    pub fn receive(&mut self) -> Option<u8> {
        // Line noise cannot hold this up for longer than a FIFO is deep.
        for _ in 0..64 {
            let (byte, is_damaged) = match self.kind {
                UartKind::Pl011 => self.receive_pl011()?,
                UartKind::Ns16550 { .. } => self.receive_ns16550()?,
            };
            if !is_damaged {
                return Some(byte);
            }
            self.damaged = self.damaged.saturating_add(1);
        }
        None
    }

    /// Sends as many of `bytes` as there is room for now, and returns how many.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        for byte in bytes {
            if !self.has_room() {
                break;
            }
            match self.kind {
                UartKind::Pl011 => self.registers.write(pl011::DR, u32::from(*byte)),
                UartKind::Ns16550 { .. } => {
                    self.set(ns16550::DATA, u32::from(*byte));
                    self.room = self.room.saturating_sub(1);
                }
            }
            sent += 1;
        }
        sent
    }

    /// Returns how many bytes were damaged or lost on the line.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    fn has_room(&mut self) -> bool {
        match self.kind {
            UartKind::Pl011 => self.registers.read(pl011::FR) & pl011::TRANSMIT_FULL == 0,
            UartKind::Ns16550 { .. } => {
                if self.room == 0 && self.get(ns16550::LSR) & ns16550::TRANSMIT_EMPTY != 0 {
                    self.room = ns16550::FIFO_BYTES;
                }
                self.room > 0
            }
        }
    }

    fn receive_pl011(&mut self) -> Option<(u8, bool)> {
        if self.registers.read(pl011::FR) & pl011::RECEIVE_EMPTY != 0 {
            return None;
        }
        let data = self.registers.read(pl011::DR);
        if data & pl011::OVERRUN != 0 {
            self.damaged = self.damaged.saturating_add(1);
        }
        Some((low_byte(data), data & pl011::ERRORS != 0))
    }

    fn receive_ns16550(&mut self) -> Option<(u8, bool)> {
        let status = self.get(ns16550::LSR);
        if status & ns16550::RECEIVED == 0 {
            return None;
        }
        if status & ns16550::OVERRUN != 0 {
            self.damaged = self.damaged.saturating_add(1);
        }
        let data = self.get(ns16550::DATA);
        Some((low_byte(data), status & ns16550::ERRORS != 0))
    }

    fn offset(&self, number: usize) -> usize {
        match self.kind {
            UartKind::Pl011 => number,
            UartKind::Ns16550 { shift } => number << shift.min(4),
        }
    }

    fn get(&self, number: usize) -> u32 {
        self.registers.read(self.offset(number))
    }

    fn set(&mut self, number: usize, value: u32) {
        self.registers.write(self.offset(number), value);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low byte is wanted")]
const fn low_byte(value: u32) -> u8 {
    value as u8
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;

    use super::*;

    /// A port whose far end is a queue.
    #[derive(Default)]
    struct Model {
        is_pl011: bool,
        shift: u8,
        received: core::cell::RefCell<VecDeque<u32>>,
        sent: Vec<u8>,
        free: usize,
        interrupts: u32,
        /// How often the data register was read.
        reads: core::cell::Cell<usize>,
    }

    impl Registers for Model {
        fn read(&self, offset: usize) -> u32 {
            let mut received = self.received.borrow_mut();
            if offset == 0 {
                self.reads.set(self.reads.get() + 1);
            }
            if self.is_pl011 {
                return match offset {
                    0x00 => received.pop_front().unwrap_or(0),
                    0x18 => {
                        let empty = u32::from(received.is_empty()) << 4;
                        empty | u32::from(self.free == 0) << 5
                    }
                    _ => 0,
                };
            }
            match offset >> self.shift {
                0 => received.pop_front().map_or(0, |value| value & 0xff),
                5 => {
                    let errors = received.front().map_or(0, |value| value >> 8 & 0b1_1110);
                    let empty = u32::from(self.free > 0) << 5;
                    u32::from(!received.is_empty()) | errors | empty
                }
                _ => 0,
            }
        }

        fn write(&mut self, offset: usize, value: u32) {
            let number = if self.is_pl011 {
                offset
            } else {
                offset >> self.shift
            };
            match (self.is_pl011, number) {
                (_, 0) => {
                    assert!(self.free > 0, "written into a full FIFO");
                    self.free -= 1;
                    self.sent.push(u8::try_from(value).unwrap());
                }
                (true, 0x38) | (false, 1) => self.interrupts = value,
                _ => (),
            }
        }
    }

    fn ports() -> [Uart<Model>; 2] {
        let pl011 = Model {
            is_pl011: true,
            ..Model::default()
        };
        let ns16550 = Model {
            shift: 2,
            ..Model::default()
        };
        [
            Uart::new(UartKind::Pl011, pl011),
            Uart::new(UartKind::Ns16550 { shift: 2 }, ns16550),
        ]
    }

    #[test]
    fn bytes_come_and_go() {
        for mut port in ports() {
            port.registers.received.borrow_mut().extend([0x24, 0xff]);
            assert_eq!(port.receive(), Some(0x24));
            assert_eq!(port.receive(), Some(0xff));
            assert_eq!(port.receive(), None);
            port.registers.free = 16;
            assert_eq!(port.send(b"+$OK#9a"), 7);
            assert_eq!(port.registers.sent, b"+$OK#9a");
        }
    }

    #[test]
    fn no_more_is_sent_than_there_is_room_for() {
        for mut port in ports() {
            port.registers.free = 16;
            assert_eq!(port.send(&[1; 40]), 16);
            assert_eq!(port.send(&[1; 40]), 0);
            port.registers.free = 16;
            assert_eq!(port.send(&[1; 24]), 16);
        }
    }

    #[test]
    fn damaged_bytes_are_counted_and_left_out() {
        let [mut pl011, mut ns16550] = ports();
        // A framing error.
        pl011.registers.received.borrow_mut().extend([0x141, 0x42]);
        assert_eq!(pl011.receive(), Some(0x42));
        assert_eq!(pl011.damaged(), 1);
        ns16550
            .registers
            .received
            .borrow_mut()
            .extend([0x841, 0x42]);
        assert_eq!(ns16550.receive(), Some(0x42));
        assert_eq!(ns16550.damaged(), 1);
    }

    #[test]
    fn endless_noise_ends() {
        for mut port in ports() {
            port.registers
                .received
                .borrow_mut()
                .extend(core::iter::repeat_n(0x500, 1000));
            assert_eq!(port.receive(), None);
            assert_eq!(port.damaged(), 64);
        }
    }

    #[test]
    fn what_came_before_the_port_was_turned_on_is_lost() {
        for before in [0, 1, 16] {
            for mut port in ports() {
                let bytes = core::iter::repeat_n(0x141, before);
                port.registers.received.borrow_mut().extend(bytes);
                port.enable();
                assert!(port.registers.reads.get() > 0, "it does not take more");
                assert_eq!((port.receive(), port.damaged()), (None, 0));
                port.registers.received.borrow_mut().push_back(0x42);
                assert_eq!(port.receive(), Some(0x42));
            }
        }
    }

    #[test]
    fn interrupts_are_for_what_is_wanted() {
        let [mut pl011, mut ns16550] = ports();
        pl011.enable();
        ns16550.enable();
        assert_eq!(pl011.registers.interrupts, 0x50);
        assert_eq!(ns16550.registers.interrupts, 1);
        pl011.want_room(true);
        ns16550.want_room(true);
        assert_eq!(pl011.registers.interrupts, 0x70);
        assert_eq!(ns16550.registers.interrupts, 3);
        pl011.hold_back(true);
        ns16550.hold_back(true);
        assert_eq!(pl011.registers.interrupts, 0x20);
        assert_eq!(ns16550.registers.interrupts, 2);
    }
}
