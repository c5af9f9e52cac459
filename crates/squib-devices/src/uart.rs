//! 16550A UART (National Semiconductor PC16550D data sheet) as a PC's serial port.
//!
//! There is no baud rate: a transmitted byte has left when the write returns, and a received byte is there
//! when the machine delivers it. The receiver's time-out, which says that fewer bytes than the trigger level
//! are waiting, comes at once. As on PCs the interrupt output is gated by OUT2.

/// Bytes that the receiver holds in FIFO mode.
pub const FIFO_SIZE: usize = 16;
/// Ports from the base on.
pub const PORTS: u16 = 8;

/// Interrupt enable register.
mod ier {
    pub(super) const RECEIVED: u8 = 1 << 0;
    pub(super) const THR_EMPTY: u8 = 1 << 1;
    pub(super) const LINE_STATUS: u8 = 1 << 2;
    pub(super) const MODEM_STATUS: u8 = 1 << 3;
    pub(super) const ALL: u8 = 0xf;
}

/// Interrupt identification register.
mod iir {
    pub(super) const NONE: u8 = 0x1;
    pub(super) const MODEM_STATUS: u8 = 0x0;
    pub(super) const THR_EMPTY: u8 = 0x2;
    pub(super) const RECEIVED: u8 = 0x4;
    pub(super) const LINE_STATUS: u8 = 0x6;
    pub(super) const TIMEOUT: u8 = 0xc;
    pub(super) const FIFOS_ENABLED: u8 = 0xc0;
}

/// FIFO control register.
mod fcr {
    pub(super) const ENABLE: u8 = 1 << 0;
    pub(super) const CLEAR_RECEIVER: u8 = 1 << 1;
}

const LCR_DIVISOR_ACCESS: u8 = 1 << 7;

/// Modem control register.
mod mcr {
    pub(super) const DTR: u8 = 1 << 0;
    pub(super) const RTS: u8 = 1 << 1;
    pub(super) const OUT1: u8 = 1 << 2;
    pub(super) const OUT2: u8 = 1 << 3;
    pub(super) const LOOPBACK: u8 = 1 << 4;
    pub(super) const ALL: u8 = 0x1f;
}

/// Line status register.
mod lsr {
    pub(super) const DATA_READY: u8 = 1 << 0;
    pub(super) const OVERRUN: u8 = 1 << 1;
    pub(super) const FRAMING: u8 = 1 << 3;
    pub(super) const BREAK: u8 = 1 << 4;
    pub(super) const THR_EMPTY: u8 = 1 << 5;
    pub(super) const TRANSMITTER_EMPTY: u8 = 1 << 6;
    pub(super) const ERROR_IN_FIFO: u8 = 1 << 7;
    /// Errors of the character at the head of the FIFO.
    pub(super) const CHARACTER_ERRORS: u8 = 0x1c;
}

/// Modem status register.
mod msr {
    pub(super) const CTS: u8 = 1 << 4;
    pub(super) const DSR: u8 = 1 << 5;
    pub(super) const RI: u8 = 1 << 6;
    pub(super) const DCD: u8 = 1 << 7;
    pub(super) const RI_DELTA: u8 = 1 << 2;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Character {
    byte: u8,
    /// LSR bits that belong to it.
    errors: u8,
}

/// The receiver's FIFO: a ring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fifo {
    characters: [Character; FIFO_SIZE],
    head: usize,
    len: usize,
}

impl Fifo {
    fn push(&mut self, character: Character) {
        self.characters[(self.head + self.len) % FIFO_SIZE] = character;
        self.len = (self.len + 1).min(FIFO_SIZE);
    }

    fn pop(&mut self) -> Option<Character> {
        let first = *self.first()?;
        self.head = (self.head + 1) % FIFO_SIZE;
        self.len -= 1;
        Some(first)
    }

    fn first(&self) -> Option<&Character> {
        self.iter().next()
    }

    fn iter(&self) -> impl Iterator<Item = &Character> {
        (0..self.len).map(|i| &self.characters[(self.head + i) % FIFO_SIZE])
    }
}

/// A 16550A.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uart {
    fifo: Fifo,
    fifo_enabled: bool,
    /// Bytes in the FIFO that raise the received-data interrupt.
    trigger: usize,
    /// The byte that the receiver buffer shows when it is empty: the last one read.
    last_received: u8,
    ier: u8,
    lcr: u8,
    mcr: u8,
    /// Overrun, and errors of the first character that the guest has not yet seen.
    line_errors: u8,
    modem_deltas: u8,
    scratch: u8,
    divisor: [u8; 2],
    /// The transmitter is empty and the guest has not yet been told.
    thr_empty_pending: bool,
}

impl Default for Uart {
    fn default() -> Self {
        Self {
            fifo: Fifo::default(),
            fifo_enabled: false,
            trigger: 1,
            last_received: 0,
            ier: 0,
            lcr: 0,
            mcr: 0,
            line_errors: 0,
            modem_deltas: 0,
            scratch: 0,
            divisor: [12, 0],
            thr_empty_pending: false,
        }
    }
}

impl Uart {
    /// A UART after reset, at 9600 baud as firmware leaves it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Master reset.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The interrupt output.
    pub fn irq(&self) -> bool {
        self.mcr & (mcr::OUT2 | mcr::LOOPBACK) == mcr::OUT2 && self.interrupt() != iir::NONE
    }

    /// How many bytes [`Uart::receive`] would take: none in loopback mode, when the receiver is cut off.
    pub fn room(&self) -> usize {
        if self.mcr & mcr::LOOPBACK != 0 { 0 } else { self.capacity() - self.fifo.len }
    }

    /// Delivers bytes to the guest as far as there is room. Returns how many.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let accepted = bytes.len().min(self.room());
        for byte in &bytes[..accepted] {
            self.push(Character { byte: *byte, errors: 0 });
        }
        accepted
    }

    /// Delivers a break condition, which Linux takes as the start of a SysRq. Returns whether there was room.
    pub fn receive_break(&mut self) -> bool {
        let fits = self.room() != 0;
        if fits {
            self.push(Character { byte: 0, errors: lsr::BREAK | lsr::FRAMING });
        }
        fits
    }

    /// Reads register `offset` (0–7; higher bits are ignored).
    pub fn read(&mut self, offset: u16) -> u8 {
        match offset & 7 {
            0 | 1 if self.divisor_access() => self.divisor[usize::from(offset & 1)],
            0 => self.read_received(),
            1 => self.ier,
            2 => self.read_interrupt(),
            3 => self.lcr,
            4 => self.mcr,
            5 => self.read_line_status(),
            6 => self.read_modem_status(),
            _ => self.scratch,
        }
    }

    /// Writes register `offset` (0–7; higher bits are ignored). Returns the byte that has been transmitted,
    /// if any.
    pub fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        match offset & 7 {
            0 | 1 if self.divisor_access() => self.divisor[usize::from(offset & 1)] = value,
            0 => return self.transmit(value),
            1 => {
                // Enabling the interrupt while the transmitter is empty raises it.
                self.thr_empty_pending |= value & !self.ier & ier::THR_EMPTY != 0;
                self.ier = value & ier::ALL;
            }
            2 => self.write_fifo_control(value),
            3 => self.lcr = value,
            4 => self.write_modem_control(value),
            7 => self.scratch = value,
            // The status registers are for the factory's tests only.
            _ => {}
        }
        None
    }

    fn divisor_access(&self) -> bool {
        self.lcr & LCR_DIVISOR_ACCESS != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo_enabled { FIFO_SIZE } else { 1 }
    }

    fn push(&mut self, character: Character) {
        if self.fifo.len < self.capacity() {
            self.fifo.push(character);
            if self.fifo.len == 1 {
                self.line_errors |= character.errors;
            }
            return;
        }
        self.line_errors |= lsr::OVERRUN;
        // The FIFO keeps what it has; the single buffer is overwritten.
        if !self.fifo_enabled {
            self.fifo = Fifo::default();
            self.fifo.push(character);
            self.line_errors |= character.errors;
        }
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        self.thr_empty_pending = true;
        if self.mcr & mcr::LOOPBACK == 0 {
            return Some(byte);
        }
        self.push(Character { byte, errors: 0 });
        None
    }

    fn read_received(&mut self) -> u8 {
        if let Some(character) = self.fifo.pop() {
            self.last_received = character.byte;
            self.line_errors &= !lsr::CHARACTER_ERRORS;
            self.line_errors |= self.fifo.first().map_or(0, |next| next.errors);
        }
        self.last_received
    }

    /// The interrupt with the highest priority that is enabled (data sheet, table III).
    fn interrupt(&self) -> u8 {
        if self.ier & ier::LINE_STATUS != 0 && self.line_errors != 0 {
            iir::LINE_STATUS
        } else if self.ier & ier::RECEIVED != 0 && self.fifo.len >= self.trigger {
            iir::RECEIVED
        } else if self.ier & ier::RECEIVED != 0 && self.fifo.len != 0 {
            iir::TIMEOUT
        } else if self.ier & ier::THR_EMPTY != 0 && self.thr_empty_pending {
            iir::THR_EMPTY
        } else if self.ier & ier::MODEM_STATUS != 0 && self.modem_deltas != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    fn read_interrupt(&mut self) -> u8 {
        let interrupt = self.interrupt();
        // Reading the reason is what clears this one.
        if interrupt == iir::THR_EMPTY {
            self.thr_empty_pending = false;
        }
        interrupt | if self.fifo_enabled { iir::FIFOS_ENABLED } else { 0 }
    }

    fn write_fifo_control(&mut self, value: u8) {
        let enable = value & fcr::ENABLE != 0;
        if enable != self.fifo_enabled || (enable && value & fcr::CLEAR_RECEIVER != 0) {
            self.fifo = Fifo::default();
            self.line_errors &= !lsr::CHARACTER_ERRORS;
        }
        self.fifo_enabled = enable;
        self.trigger = match value >> 6 {
            _ if !enable => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        };
    }

    fn read_line_status(&mut self) -> u8 {
        let mut status = lsr::THR_EMPTY | lsr::TRANSMITTER_EMPTY | self.line_errors;
        if self.fifo.len != 0 {
            status |= lsr::DATA_READY;
        }
        if self.fifo_enabled && self.fifo.iter().any(|c| c.errors != 0) {
            status |= lsr::ERROR_IN_FIFO;
        }
        self.line_errors = 0;
        self.fifo.characters[self.fifo.head].errors = 0;
        status
    }

    /// The modem lines: a peer that is always ready, or in loopback mode the control outputs.
    fn modem_lines(&self) -> u8 {
        if self.mcr & mcr::LOOPBACK == 0 {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
            .into_iter()
            .filter(|(control, _)| self.mcr & control != 0)
            .fold(0, |lines, (_, line)| lines | line)
    }

    fn write_modem_control(&mut self, value: u8) {
        let before = self.modem_lines();
        self.mcr = value & mcr::ALL;
        let after = self.modem_lines();
        // RI reports only its trailing edge.
        let ring_rose = msr::RI_DELTA & (after & !before) >> 4;
        self.modem_deltas |= ((before ^ after) >> 4) & !ring_rose;
    }

    fn read_modem_status(&mut self) -> u8 {
        self.modem_lines() | std::mem::take(&mut self.modem_deltas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DATA: u16 = 0;
    const IER: u16 = 1;
    const IIR: u16 = 2;
    const FCR: u16 = 2;
    const LCR: u16 = 3;
    const MCR: u16 = 4;
    const LSR: u16 = 5;
    const MSR: u16 = 6;
    const SCR: u16 = 7;

    /// FIFOs on, interrupts gated through.
    fn ready(ier: u8) -> Uart {
        let mut u = Uart::new();
        u.write(FCR, 0x01);
        u.write(MCR, mcr::OUT2);
        u.write(IER, ier);
        u
    }

    fn set_loopback(u: &mut Uart) {
        u.write(MCR, mcr::LOOPBACK);
        u.read(MSR);
    }

    #[test]
    fn linux_detects_a_16550a() {
        // The steps of autoconfig in Linux's 8250 driver.
        let mut u = Uart::new();
        u.write(IER, 0);
        assert_eq!(u.read(IER), 0);
        u.write(IER, 0xff);
        assert_eq!(u.read(IER), 0x0f, "only four interrupts, no 16750 or XScale bits");
        u.write(IER, 0);
        u.write(MCR, mcr::LOOPBACK | mcr::OUT2 | mcr::RTS);
        assert_eq!(u.read(MSR) & 0xf0, 0x90, "loopback");
        u.write(MCR, 0);
        u.write(LCR, 0xbf);
        assert_eq!(u.read(IIR) & 0xc0, 0, "no enhanced feature register");
        u.write(LCR, 0);
        u.write(FCR, 0x01);
        assert_eq!(u.read(IIR) >> 6, 3, "16550A");
        u.write(FCR, 0x21);
        assert_eq!(u.read(IIR) & 0xe0, 0xc0, "no 64-byte FIFO");
        u.write(SCR, 0xae);
        assert_eq!(u.read(SCR), 0xae);
    }

    #[test]
    fn enabling_the_transmitter_interrupt_raises_it_each_time() {
        // Linux's THRE and TXEN tests.
        let mut u = ready(ier::THR_EMPTY);
        assert!(u.irq());
        assert_eq!(u.read(IIR), 0xc2);
        assert_eq!(u.read(IIR), 0xc1, "reading the reason cleared it");
        u.write(IER, ier::THR_EMPTY);
        assert!(!u.irq(), "it was enabled already");
        u.write(IER, 0);
        u.write(IER, ier::THR_EMPTY);
        assert_eq!(u.read(IIR), 0xc2);
        assert_eq!(u.write(DATA, b'x'), Some(b'x'));
        assert!(u.irq(), "the transmitter is empty again");
    }

    #[test]
    fn a_higher_reason_hides_the_transmitter_and_does_not_clear_it() {
        let mut u = ready(ier::ALL);
        u.receive(b"a");
        u.receive_break();
        u.read(DATA);
        assert_eq!(u.read(IIR), 0xc6, "break");
        assert_eq!(u.read(LSR) & (lsr::BREAK | lsr::ERROR_IN_FIFO), lsr::BREAK | lsr::ERROR_IN_FIFO);
        assert_eq!(u.read(LSR) & (lsr::BREAK | lsr::ERROR_IN_FIFO), 0);
        assert_eq!(u.read(IIR), 0xc4);
        u.read(DATA);
        assert_eq!(u.read(IIR), 0xc2);
        assert_eq!(u.read(IIR), 0xc1);
    }

    #[test]
    fn trigger_level_and_timeout() {
        let mut u = ready(ier::RECEIVED);
        u.write(FCR, 0x81);
        assert_eq!(u.receive(b"1234567"), 7);
        assert_eq!(u.read(IIR), 0xcc, "fewer than eight: time-out");
        u.receive(b"8");
        assert_eq!(u.read(IIR), 0xc4);
        for expected in b"12345678" {
            assert!(u.irq());
            assert_eq!(u.read(DATA), *expected);
        }
        assert!(!u.irq());
        assert_eq!(u.read(DATA), b'8', "the last byte stays in the buffer");
        assert_eq!(u.read(LSR), 0x60);
    }

    #[test]
    fn the_fifo_takes_sixteen_and_the_buffer_one() {
        let mut u = Uart::new();
        assert_eq!(u.receive(&[7; 40]), 1);
        u.write(FCR, 0x01);
        assert_eq!(u.read(LSR) & lsr::DATA_READY, 0, "switching the FIFOs clears them");
        assert_eq!(u.receive(&[7; 40]), 16);
        assert_eq!((u.room(), u.receive(&[7])), (0, 0));
        u.write(FCR, 0x03);
        assert_eq!(u.room(), 16);
        u.receive(&[7; 3]);
        u.write(FCR, 0x00);
        assert_eq!(u.read(LSR) & lsr::DATA_READY, 0);
        assert_eq!(u.read(IIR), 0x01);
    }

    #[test]
    fn loopback_receives_overruns_and_stays_inside() {
        let mut u = ready(ier::LINE_STATUS);
        set_loopback(&mut u);
        for byte in 0..17 {
            assert_eq!(u.write(DATA, byte), None);
        }
        assert_eq!(u.room(), 0, "the outside is cut off");
        assert_eq!(u.read(IIR), 0xc6);
        assert!(!u.irq(), "OUT2 is off in loopback");
        assert_eq!(u.read(LSR), 0x63, "overrun");
        assert_eq!(u.read(LSR), 0x61);
        for byte in 0..16 {
            assert_eq!(u.read(DATA), byte, "the FIFO kept what it had");
        }
        u.write(FCR, 0);
        u.write(DATA, 1);
        u.write(DATA, 2);
        assert_eq!(u.read(DATA), 2, "the single buffer is overwritten");
    }

    #[test]
    fn modem_status_deltas() {
        let mut u = ready(ier::MODEM_STATUS);
        assert_eq!(u.read(MSR), 0xb0);
        set_loopback(&mut u);
        u.write(MCR, mcr::LOOPBACK | mcr::OUT1);
        assert_eq!(u.read(MSR), msr::RI, "a rising ring indicator is no event");
        u.write(MCR, mcr::LOOPBACK | mcr::DTR);
        assert_eq!(u.read(IIR), 0xc0);
        assert_eq!(u.read(MSR), msr::DSR | 0x02 | msr::RI_DELTA);
        assert_eq!(u.read(IIR), 0xc1);
    }

    #[test]
    fn divisor_latch_and_out2() {
        let mut u = ready(ier::RECEIVED);
        u.write(LCR, 0x83);
        u.write(0, 0x34);
        u.write(1, 0x12);
        assert_eq!((u.read(0), u.read(1), u.read(LCR)), (0x34, 0x12, 0x83));
        u.write(LCR, 0x03);
        assert_eq!(u.read(IER), ier::RECEIVED);
        u.receive(b"x");
        assert!(u.irq());
        u.write(MCR, 0);
        assert!(!u.irq());
        assert_eq!(u.read(IIR), 0xc4, "the reason shows all the same");
    }

    proptest! {
        #[test]
        fn bytes_arrive_once_and_in_order(
            chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), 0..20_usize), 0..30),
        ) {
            let mut u = ready(ier::RECEIVED);
            let (mut sent, mut got) = (vec![], vec![]);
            for (chunk, reads) in chunks {
                let accepted = u.receive(&chunk);
                sent.extend_from_slice(&chunk[..accepted]);
                for _ in 0..reads {
                    if u.read(LSR) & lsr::DATA_READY != 0 {
                        prop_assert!(u.irq());
                        got.push(u.read(DATA));
                    }
                }
            }
            while u.read(LSR) & lsr::DATA_READY != 0 {
                got.push(u.read(DATA));
            }
            prop_assert_eq!(got, sent);
            prop_assert!(!u.irq());
        }
    }
}
