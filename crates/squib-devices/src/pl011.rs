//! PL011 UART (Arm DDI 0183G, PrimeCell UART).
//!
//! There is no baud rate: a transmitted byte has left when the write returns, and a received byte is there when the machine
//! delivers it. The receiver's time-out, which says that fewer bytes than the trigger level are waiting, comes at once. There is
//! no DMA.

use std::collections::VecDeque;

use crate::primecell;

/// Bytes that the receiver holds with its FIFO on.
pub const FIFO_SIZE: usize = 32;

/// Offsets of the registers.
pub mod register {
    /// Data.
    pub const DATA: u64 = 0x00;
    /// Flags.
    pub const FLAGS: u64 = 0x18;
    /// Interrupt mask.
    pub const INTERRUPT_MASK: u64 = 0x38;
    pub(super) const RECEIVE_STATUS: u64 = 0x04;
    pub(super) const LOW_POWER: u64 = 0x20;
    pub(super) const BAUD_INTEGER: u64 = 0x24;
    pub(super) const BAUD_FRACTION: u64 = 0x28;
    pub(super) const LINE_CONTROL: u64 = 0x2c;
    pub(super) const CONTROL: u64 = 0x30;
    pub(super) const FIFO_LEVELS: u64 = 0x34;
    pub(super) const RAW_INTERRUPTS: u64 = 0x3c;
    pub(super) const MASKED_INTERRUPTS: u64 = 0x40;
    pub(super) const INTERRUPT_CLEAR: u64 = 0x44;
    pub(super) const DMA_CONTROL: u64 = 0x48;
}

/// Flags.
mod fr {
    /// Clear to send, data set ready, carrier: the other end is there.
    pub(super) const MODEM: u32 = 0b111;
    pub(super) const RX_EMPTY: u32 = 1 << 4;
    pub(super) const RX_FULL: u32 = 1 << 6;
    pub(super) const TX_EMPTY: u32 = 1 << 7;
}

/// Control.
mod cr {
    pub(super) const ENABLE: u32 = 1 << 0;
    pub(super) const LOOPBACK: u32 = 1 << 7;
    pub(super) const TX_ENABLE: u32 = 1 << 8;
    pub(super) const RX_ENABLE: u32 = 1 << 9;
}

/// Interrupts.
mod int {
    pub(super) const RX: u32 = 1 << 4;
    pub(super) const TX: u32 = 1 << 5;
    pub(super) const RX_TIMEOUT: u32 = 1 << 6;
    pub(super) const OVERRUN: u32 = 1 << 10;
    pub(super) const ALL: u32 = 0x7ff;
}

const LCR_FIFO: u32 = 1 << 4;
/// Overrun, in the data and the receive status.
const DATA_OVERRUN: u32 = 1 << 11;
const STATUS_OVERRUN: u32 = 1 << 3;

/// Revision r1p5, the first with FIFOs of [`FIFO_SIZE`].
const PERIPHERAL: [u8; 4] = [0x11, 0x10, 0x34, 0x00];

/// The UART's registers.
#[derive(Debug, Clone)]
pub struct Pl011 {
    received: VecDeque<u8>,
    /// A byte was lost since the last one that is in the FIFO.
    overrun: bool,
    receive_status: u32,
    low_power: u32,
    baud_integer: u32,
    baud_fraction: u32,
    line_control: u32,
    control: u32,
    fifo_levels: u32,
    mask: u32,
    raw: u32,
    dma_control: u32,
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// As firmware leaves it: after reset, but enabled.
    pub fn new() -> Self {
        Self {
            received: VecDeque::new(),
            overrun: false,
            receive_status: 0,
            low_power: 0,
            baud_integer: 0,
            baud_fraction: 0,
            line_control: 0,
            control: cr::ENABLE | cr::TX_ENABLE | cr::RX_ENABLE,
            fifo_levels: 0x12,
            mask: 0,
            raw: 0,
            dma_control: 0,
        }
    }

    /// Whether the interrupt output is active.
    pub fn irq(&self) -> bool {
        self.raw & self.mask != 0
    }

    /// Bytes that the receiver still takes; none while it is off, or hears only its own transmitter.
    pub fn room(&self) -> usize {
        if self.control & cr::LOOPBACK == 0 { self.free() } else { 0 }
    }

    /// Receives `byte`; where there is no room for it, it is lost and the guest is told so.
    pub fn receive(&mut self, byte: u8) {
        if self.free() == 0 {
            self.overrun = true;
            self.receive_status |= STATUS_OVERRUN;
            self.raw |= int::OVERRUN;
            return;
        }
        self.received.push_back(byte);
        self.raw |= int::RX_TIMEOUT;
        if self.received.len() >= self.trigger() {
            self.raw |= int::RX;
        }
    }

    /// Whether an interrupt tells the guest of what it receives.
    pub fn interrupts_on_receive(&self) -> bool {
        self.mask & (int::RX | int::RX_TIMEOUT) != 0
    }

    /// Takes out what is received and not read.
    pub fn take_unread(&mut self) -> impl DoubleEndedIterator<Item = u8> + use<> {
        self.raw &= !(int::RX | int::RX_TIMEOUT);
        std::mem::take(&mut self.received).into_iter()
    }

    /// Reads the register at `offset`, a multiple of 4.
    pub fn read(&mut self, offset: u64) -> u32 {
        match offset {
            register::DATA => self.data(),
            register::RECEIVE_STATUS => self.receive_status,
            register::FLAGS => self.flags(),
            register::LOW_POWER => self.low_power,
            register::BAUD_INTEGER => self.baud_integer,
            register::BAUD_FRACTION => self.baud_fraction,
            register::LINE_CONTROL => self.line_control,
            register::CONTROL => self.control,
            register::FIFO_LEVELS => self.fifo_levels,
            register::INTERRUPT_MASK => self.mask,
            register::RAW_INTERRUPTS => self.raw,
            register::MASKED_INTERRUPTS => self.raw & self.mask,
            register::DMA_CONTROL => self.dma_control,
            _ => primecell::identification(offset, PERIPHERAL),
        }
    }

    /// Writes the register at `offset`, a multiple of 4, and returns the byte that is transmitted by it.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<u8> {
        match offset {
            register::DATA => return self.transmit(value as u8),
            register::RECEIVE_STATUS => self.receive_status = 0,
            register::LOW_POWER => self.low_power = value & 0xff,
            register::BAUD_INTEGER => self.baud_integer = value & 0xffff,
            register::BAUD_FRACTION => self.baud_fraction = value & 0x3f,
            register::LINE_CONTROL => self.line_control = value & 0xff,
            register::CONTROL => self.control = value & 0xffff,
            register::FIFO_LEVELS => self.fifo_levels = value & 0x3f,
            register::INTERRUPT_MASK => self.mask = value & int::ALL,
            register::INTERRUPT_CLEAR => self.raw &= !value,
            register::DMA_CONTROL => self.dma_control = value & 0b111,
            _ => {}
        }
        None
    }

    fn has(&self, bits: u32) -> bool {
        self.control & bits == bits
    }

    fn capacity(&self) -> usize {
        if self.line_control & LCR_FIFO != 0 { FIFO_SIZE } else { 1 }
    }

    fn free(&self) -> usize {
        let on = self.has(cr::ENABLE | cr::RX_ENABLE);
        if on { self.capacity().saturating_sub(self.received.len()) } else { 0 }
    }

    /// Bytes at which the receiver interrupts: an eighth of its FIFO to seven eighths (3.3.12).
    fn trigger(&self) -> usize {
        let eighths = match self.fifo_levels >> 3 & 7 {
            0 => 1,
            1 => 2,
            2 => 4,
            3 => 6,
            _ => 7,
        };
        (self.capacity() * eighths / 8).max(1)
    }

    fn data(&mut self) -> u32 {
        let Some(byte) = self.received.pop_front() else { return 0 };
        if self.received.is_empty() {
            self.raw &= !int::RX_TIMEOUT;
        }
        if self.received.len() < self.trigger() {
            self.raw &= !int::RX;
        }
        u32::from(byte) | if std::mem::take(&mut self.overrun) { DATA_OVERRUN } else { 0 }
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        if !self.has(cr::ENABLE | cr::TX_ENABLE) {
            return None;
        }
        // There is room for the next.
        self.raw |= int::TX;
        if self.has(cr::LOOPBACK) {
            self.receive(byte);
            return None;
        }
        Some(byte)
    }

    fn flags(&self) -> u32 {
        let mut flags = fr::MODEM | fr::TX_EMPTY;
        if self.received.is_empty() {
            flags |= fr::RX_EMPTY;
        }
        if self.received.len() >= self.capacity() {
            flags |= fr::RX_FULL;
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use register::*;

    fn with_fifo() -> Pl011 {
        let mut uart = Pl011::new();
        uart.write(LINE_CONTROL, 0x70);
        uart
    }

    #[test]
    fn it_is_what_drivers_look_for() {
        let mut uart = Pl011::new();
        let id: Vec<_> = (0xfe0..0x1000).step_by(4).map(|at| uart.read(at)).collect();
        assert_eq!(id, [0x11, 0x10, 0x34, 0, 0x0d, 0xf0, 0x05, 0xb1]);
        assert_eq!(uart.read(FLAGS), 0x97, "transmitter and receiver are empty, the other end is there");
        assert_eq!((uart.read(CONTROL), uart.read(FIFO_LEVELS)), (0x301, 0x12));
        assert!(!uart.irq());
    }

    #[test]
    fn what_is_written_has_left_at_once() {
        let mut uart = with_fifo();
        assert_eq!(uart.read(RAW_INTERRUPTS), 0);
        assert_eq!(uart.write(DATA, 0x1_0041), Some(b'A'));
        assert_eq!(uart.read(RAW_INTERRUPTS), 0x20);
        assert!(!uart.irq());
        uart.write(INTERRUPT_MASK, 0x20);
        assert!(uart.irq());
        assert_eq!(uart.read(MASKED_INTERRUPTS), 0x20);
        uart.write(INTERRUPT_CLEAR, 0x20);
        assert!(!uart.irq());
        assert_eq!(uart.write(DATA, 0x42), Some(b'B'));
        assert!(uart.irq());
    }

    #[test]
    fn a_transmitter_that_is_off_sends_nothing() {
        for control in [0x300, 0x201] {
            let mut uart = Pl011::new();
            uart.write(CONTROL, control);
            assert_eq!(uart.write(DATA, 0x41), None);
            assert_eq!(uart.read(RAW_INTERRUPTS), 0);
        }
    }

    #[test]
    fn few_bytes_time_out_and_many_trigger() {
        let mut uart = with_fifo();
        uart.write(INTERRUPT_MASK, 0x50);
        for n in 0..15 {
            uart.receive(n);
            assert_eq!(uart.read(MASKED_INTERRUPTS), 0x40);
        }
        uart.receive(15);
        assert_eq!(uart.read(MASKED_INTERRUPTS), 0x50);
        assert_eq!(uart.read(DATA), 0);
        assert_eq!(uart.read(MASKED_INTERRUPTS), 0x40);
        for n in 1..16 {
            assert!(uart.irq());
            assert_eq!(uart.read(DATA), n);
        }
        assert!(!uart.irq());
        assert_eq!((uart.read(DATA), uart.read(FLAGS) & 0x10), (0, 0x10));
    }

    #[test]
    fn what_is_too_much_is_lost_and_told() {
        let mut uart = with_fifo();
        assert_eq!(uart.room(), 32);
        (0..33).for_each(|n| uart.receive(n));
        assert_eq!(uart.room(), 0);
        assert_eq!(uart.read(FLAGS) & 0x40, 0x40);
        assert_eq!(uart.read(RAW_INTERRUPTS), 0x450);
        assert_eq!(uart.read(RECEIVE_STATUS), 8);
        assert_eq!(uart.read(DATA), 0x800);
        assert_eq!(uart.read(DATA), 1);
        uart.write(RECEIVE_STATUS, 0);
        assert_eq!(uart.read(RECEIVE_STATUS), 0);
    }

    #[test]
    fn without_its_fifo_it_holds_a_byte() {
        let mut uart = Pl011::new();
        assert_eq!(uart.room(), 1);
        uart.receive(7);
        assert_eq!((uart.room(), uart.read(RAW_INTERRUPTS)), (0, 0x50));
        // FIFOs that are switched off with something in them.
        let mut uart = with_fifo();
        (0..32).for_each(|n| uart.receive(n));
        uart.write(LINE_CONTROL, 0);
        assert_eq!(uart.room(), 0);
    }

    #[test]
    fn loopback_hears_itself_only() {
        let mut uart = with_fifo();
        uart.write(CONTROL, 0x381);
        assert_eq!(uart.room(), 0);
        assert_eq!(uart.write(DATA, 0x41), None);
        assert_eq!(uart.read(DATA), 0x41);
    }

    #[test]
    fn registers_keep_what_they_have_bits_for() {
        let mut uart = Pl011::new();
        for (offset, kept) in [
            (LOW_POWER, 0xff),
            (BAUD_INTEGER, 0xffff),
            (BAUD_FRACTION, 0x3f),
            (LINE_CONTROL, 0xff),
            (CONTROL, 0xffff),
            (FIFO_LEVELS, 0x3f),
            (INTERRUPT_MASK, 0x7ff),
            (DMA_CONTROL, 7),
            (FLAGS, 0x97),
            (0xfe0, 0x11),
            (0x50, 0),
        ] {
            uart.write(offset, u32::MAX);
            assert_eq!(uart.read(offset), kept, "{offset:#x}");
        }
    }

    #[test]
    fn what_is_not_read_can_be_taken_back() {
        let mut uart = with_fifo();
        (0..20).for_each(|n| uart.receive(n));
        assert!(uart.take_unread().eq(0..20));
        assert_eq!((uart.room(), uart.read(RAW_INTERRUPTS)), (32, 0));
    }
}
