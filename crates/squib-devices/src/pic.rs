//! The PC's pair of 8259A interrupt controllers (Intel 8259A data sheet, order number 231468) with the
//! edge/level registers of PCI chipsets (ELCR).
//!
//! An edge stays latched when its line falls before the acknowledge: devices may pulse their lines. The 8259A
//! proper would give a spurious vector then. Level-triggered inputs do give it.

/// Port of the first 8259A's command register; the data register follows.
pub const PORT_MASTER: u16 = 0x20;
/// Port of the second 8259A's command register; the data register follows.
pub const PORT_SLAVE: u16 = 0xa0;
/// Port of the first edge/level register; the second follows.
pub const PORT_ELCR: u16 = 0x4d0;
/// The input of the first that takes the second's output.
const CASCADE: u8 = 2;
/// The input that a spurious interrupt seems to come from.
const SPURIOUS: u8 = 7;

/// ICW1 and OCW bits.
const ICW1: u8 = 1 << 4;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW1_LEVEL: u8 = 1 << 3;
const ICW1_NEEDS_ICW4: u8 = 1 << 0;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;

/// What the next write to the data port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chip {
    is_master: bool,
    lines: u8,
    /// Interrupt requests. For level-triggered inputs it follows the line.
    irr: u8,
    imr: u8,
    isr: u8,
    elcr: u8,
    vector_base: u8,
    /// The input that has the lowest priority.
    lowest: u8,
    expects: Expects,
    single: bool,
    level_triggered: bool,
    needs_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    reads_isr: bool,
    poll: bool,
}

impl Chip {
    fn new(is_master: bool) -> Self {
        Self {
            is_master,
            lines: 0,
            irr: 0,
            // The data sheet leaves the state before ICW1 open; masked, it is harmless to guests that never
            // look here.
            imr: 0xff,
            isr: 0,
            elcr: 0,
            vector_base: 0,
            lowest: 7,
            expects: Expects::Mask,
            single: false,
            level_triggered: false,
            needs_icw4: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            reads_isr: false,
            poll: false,
        }
    }

    fn level_inputs(&self) -> u8 {
        // The master follows the slave's output, which falls at each acknowledge.
        let cascade = u8::from(self.is_master) << CASCADE;
        if self.level_triggered { 0xff } else { self.elcr | cascade }
    }

    fn set_line(&mut self, input: u8, asserted: bool) {
        let bit = 1 << (input & 7);
        let rising = asserted && self.lines & bit == 0;
        self.lines = if asserted { self.lines | bit } else { self.lines & !bit };
        if self.level_inputs() & bit != 0 {
            self.irr = self.irr & !bit | self.lines & bit;
        } else if rising {
            self.irr |= bit;
        }
    }

    /// The most urgent input in `set`.
    fn first(&self, set: u8) -> Option<u8> {
        let top = (self.lowest + 1) & 7;
        (set != 0).then(|| (set.rotate_right(u32::from(top)).trailing_zeros() as u8 + top) & 7)
    }

    /// How far `input` is from the highest priority.
    fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest + 1) & 7
    }

    /// The input that interrupts now: the most urgent request above everything in service.
    fn pending(&self) -> Option<u8> {
        let request = self.first(self.irr & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        // The slave may interrupt again while one of its interrupts is in service.
        if self.special_fully_nested && self.is_master {
            in_service &= !(1 << CASCADE);
        }
        match self.first(in_service) {
            Some(served) if self.rank(served) <= self.rank(request) => None,
            _ => Some(request),
        }
    }

    /// Puts `input` in service.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.level_inputs() & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            *self = Self {
                lines: self.lines,
                elcr: self.elcr,
                vector_base: self.vector_base,
                imr: 0,
                expects: Expects::Icw2,
                single: value & ICW1_SINGLE != 0,
                level_triggered: value & ICW1_LEVEL != 0,
                needs_icw4: value & ICW1_NEEDS_ICW4 != 0,
                ..Self::new(self.is_master)
            };
            self.irr = self.lines & self.level_inputs();
        } else if value & OCW3 != 0 {
            self.poll = value & 4 != 0;
            if value & 2 != 0 {
                self.reads_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_ocw2(value >> 5, value & 7);
        }
    }

    /// Commands R, SL, EOI for input `level` (data sheet, figure 8 "OCW2").
    fn write_ocw2(&mut self, command: u8, level: u8) {
        const EOI: u8 = 1;
        const SPECIFIC: u8 = 2;
        const ROTATE: u8 = 4;
        let ended = match command {
            0 | ROTATE => {
                self.rotate_on_auto_eoi = command == ROTATE;
                return;
            }
            _ if command & EOI == 0 => (command & ROTATE != 0).then_some(level),
            _ if command & SPECIFIC != 0 => Some(level),
            // A non-specific EOI in special mask mode leaves alone what is masked.
            _ if self.special_mask => self.first(self.isr & !self.imr),
            _ => self.first(self.isr),
        };
        let Some(ended) = ended else { return };
        if command & EOI != 0 {
            self.isr &= !(1 << ended);
        }
        if command & ROTATE != 0 {
            self.lowest = ended;
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expects = match self.expects {
            Expects::Mask => {
                self.imr = value;
                return;
            }
            Expects::Icw2 => {
                self.vector_base = value & 0xf8;
                if !self.single {
                    Expects::Icw3
                } else if self.needs_icw4 {
                    Expects::Icw4
                } else {
                    Expects::Mask
                }
            }
            // How the two are wired is fixed.
            Expects::Icw3 if self.needs_icw4 => Expects::Icw4,
            Expects::Icw3 => Expects::Mask,
            Expects::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                Expects::Mask
            }
        };
    }

    /// A read after the poll command: acts as an acknowledge.
    fn read_poll(&mut self) -> u8 {
        self.poll = false;
        match self.pending() {
            Some(input) => {
                self.acknowledge(input);
                0x80 | input
            }
            None => 0,
        }
    }

    fn read(&mut self, data_port: bool) -> u8 {
        if self.poll {
            self.read_poll()
        } else if data_port {
            self.imr
        } else if self.reads_isr {
            self.isr
        } else {
            self.irr
        }
    }
}

/// Two 8259A in cascade: inputs 0–7 are the first's, 8–15 the second's, whose output is input 2 of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PicPair {
    master: Chip,
    slave: Chip,
}

impl Default for PicPair {
    fn default() -> Self {
        Self { master: Chip::new(true), slave: Chip::new(false) }
    }
}

impl PicPair {
    /// Power-up reset. The levels of the lines, which others drive, stay.
    pub fn reset(&mut self) {
        let (master, slave) = (self.master.lines & !(1 << CASCADE), self.slave.lines);
        *self = Self::default();
        self.master.lines = master;
        self.slave.lines = slave;
    }

    /// Drives input `irq`; 2 and inputs above 15 do not exist and are ignored.
    pub fn set_line(&mut self, irq: u32, asserted: bool) {
        match irq {
            2 | 16.. => return,
            8.. => self.slave.set_line((irq - 8) as u8, asserted),
            _ => self.master.set_line(irq as u8, asserted),
        }
        self.cascade();
    }

    /// Whether an interrupt on `irq` would go nowhere.
    pub fn is_masked(&self, irq: u32) -> bool {
        match irq {
            0..8 => self.master.imr >> irq & 1 != 0,
            8..16 => self.slave.imr >> (irq - 8) & 1 != 0 || self.master.imr >> CASCADE & 1 != 0,
            _ => true,
        }
    }

    fn cascade(&mut self) {
        self.master.set_line(CASCADE, self.slave.pending().is_some());
    }

    /// The interrupt output to the processor (INT).
    pub fn irq(&self) -> bool {
        self.master.pending().is_some()
    }

    /// The processor's interrupt acknowledge: the vector, which is input 7's when nothing is pending any
    /// more.
    pub fn acknowledge(&mut self) -> u8 {
        let input = self.master.pending();
        let vector = match input {
            Some(CASCADE) => {
                self.master.acknowledge(CASCADE);
                let input = self.slave.pending();
                if let Some(input) = input {
                    self.slave.acknowledge(input);
                }
                self.slave.vector_base | input.unwrap_or(SPURIOUS)
            }
            Some(input) => {
                self.master.acknowledge(input);
                self.master.vector_base | input
            }
            None => self.master.vector_base | SPURIOUS,
        };
        self.cascade();
        vector
    }

    /// Reads one of the six ports; others read as ones.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            PORT_ELCR => return self.master.elcr,
            0x4d1 => return self.slave.elcr,
            _ => {}
        }
        let Some(chip) = self.chip(port) else { return 0xff };
        let value = chip.read(port & 1 != 0);
        self.cascade();
        value
    }

    /// Writes one of the six ports; others are ignored.
    pub fn write(&mut self, port: u16, value: u8) {
        // The timer, the keyboard, the cascade, the clock and the coprocessor are always edge-triggered.
        match port {
            PORT_ELCR => self.master.elcr = value & 0xf8,
            0x4d1 => self.slave.elcr = value & 0xde,
            _ => {
                let Some(chip) = self.chip(port) else { return };
                if port & 1 != 0 {
                    chip.write_data(value);
                } else {
                    chip.write_command(value);
                }
            }
        }
        self.cascade();
    }

    fn chip(&mut self, port: u16) -> Option<&mut Chip> {
        match port & !1 {
            PORT_MASTER => Some(&mut self.master),
            PORT_SLAVE => Some(&mut self.slave),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both initialised as Linux does: vectors 0x30 and 0x38, nothing masked.
    fn ready(icw4: u8) -> PicPair {
        let mut p = PicPair::default();
        for (port, bytes) in [(0x20, [0x11, 0x30, 0x04, icw4]), (0xa0, [0x11, 0x38, 0x02, icw4])] {
            p.write(port, bytes[0]);
            for byte in &bytes[1..] {
                p.write(port + 1, *byte);
            }
        }
        p
    }

    fn pulse(p: &mut PicPair, irq: u32) {
        p.set_line(irq, true);
        p.set_line(irq, false);
    }

    fn isr(p: &mut PicPair, port: u16) -> u8 {
        p.write(port, 0x0b);
        p.read(port)
    }

    fn irr(p: &mut PicPair, port: u16) -> u8 {
        p.write(port, 0x0a);
        p.read(port)
    }

    #[test]
    fn silent_before_initialisation() {
        let mut p = PicPair::default();
        p.set_line(0, true);
        assert!(!p.irq());
    }

    #[test]
    fn fixed_priority_and_nesting() {
        let mut p = ready(1);
        pulse(&mut p, 5);
        pulse(&mut p, 3);
        assert_eq!(irr(&mut p, 0x20), 0x28);
        assert_eq!(p.acknowledge(), 0x33);
        assert!(!p.irq(), "5 is below 3");
        pulse(&mut p, 1);
        assert_eq!(p.acknowledge(), 0x31);
        assert_eq!(isr(&mut p, 0x20), 0x0a);
        p.write(0x20, 0x20);
        assert!(!p.irq());
        p.write(0x20, 0x63);
        assert_eq!(p.acknowledge(), 0x35);
    }

    #[test]
    fn the_slave_comes_through_input_2() {
        let mut p = ready(1);
        pulse(&mut p, 12);
        pulse(&mut p, 3);
        assert_eq!(p.acknowledge(), 0x3c);
        assert_eq!((isr(&mut p, 0x20), isr(&mut p, 0xa0)), (0x04, 0x10));
        pulse(&mut p, 9);
        assert!(!p.irq(), "input 2 is in service");
        p.write(0xa0, 0x20);
        assert!(!p.irq());
        p.write(0x20, 0x20);
        assert_eq!(p.acknowledge(), 0x39);
    }

    #[test]
    fn special_fully_nested_lets_the_slave_interrupt_itself() {
        let mut p = ready(0x11);
        pulse(&mut p, 12);
        p.acknowledge();
        pulse(&mut p, 14);
        assert!(!p.irq(), "lower on the slave");
        pulse(&mut p, 9);
        assert_eq!(p.acknowledge(), 0x39);
    }

    #[test]
    fn spurious_vectors() {
        let mut p = ready(1);
        assert_eq!(p.acknowledge(), 0x37);
        assert_eq!(isr(&mut p, 0x20), 0, "nothing in service");
        p.write(PORT_ELCR, 0x20);
        pulse(&mut p, 5);
        assert_eq!(p.acknowledge(), 0x37, "a level that fell");
    }

    #[test]
    fn level_inputs_interrupt_again() {
        let mut p = ready(1);
        p.write(0x4d1, 0xff);
        p.write(PORT_ELCR, 0xff);
        assert_eq!((p.read(PORT_ELCR), p.read(0x4d1)), (0xf8, 0xde), "some are always edge-triggered");
        p.set_line(10, true);
        assert_eq!(p.acknowledge(), 0x3a);
        assert!(!p.irq());
        p.write(0xa0, 0x20);
        p.write(0x20, 0x20);
        assert_eq!(p.acknowledge(), 0x3a);
        p.set_line(10, false);
        p.write(0xa0, 0x20);
        p.write(0x20, 0x20);
        assert!(!p.irq());
    }

    #[test]
    fn an_edge_waits_behind_the_mask() {
        let mut p = ready(1);
        p.write(0x21, 0xff);
        assert_eq!(p.read(0x21), 0xff);
        pulse(&mut p, 4);
        p.set_line(4, true);
        assert!(!p.irq() && p.is_masked(4) && p.is_masked(12));
        p.write(0x21, 0xef);
        assert!(!p.is_masked(4));
        assert_eq!(p.acknowledge(), 0x34);
        p.write(0x20, 0x20);
        assert!(!p.irq(), "one edge");
    }

    #[test]
    fn automatic_end_of_interrupt_with_rotation() {
        let mut p = ready(3);
        for expected in [0x31, 0x31] {
            pulse(&mut p, 1);
            pulse(&mut p, 4);
            assert_eq!(p.acknowledge(), expected);
            assert_eq!(p.acknowledge(), 0x34);
        }
        p.write(0x20, 0x80);
        pulse(&mut p, 1);
        p.acknowledge();
        pulse(&mut p, 1);
        pulse(&mut p, 4);
        assert_eq!(p.acknowledge(), 0x34, "1 has become the lowest");
    }

    #[test]
    fn the_slave_may_interrupt_again_at_once() {
        let mut p = ready(3);
        pulse(&mut p, 12);
        pulse(&mut p, 9);
        assert_eq!((p.acknowledge(), p.acknowledge(), p.irq()), (0x39, 0x3c, false));
    }

    #[test]
    fn rotation_commands() {
        let mut p = ready(1);
        p.write(0x20, 0xc3);
        pulse(&mut p, 3);
        pulse(&mut p, 5);
        assert_eq!(p.acknowledge(), 0x35, "set priority: 3 is the lowest");
        p.write(0x20, 0xa0);
        assert_eq!(isr(&mut p, 0x20), 0);
        pulse(&mut p, 5);
        assert_eq!(p.acknowledge(), 0x33, "rotate on non-specific EOI: 5 is the lowest");
        p.write(0x20, 0xe3);
        pulse(&mut p, 3);
        assert_eq!(p.acknowledge(), 0x35, "rotate on specific EOI: 3 is the lowest");
        p.write(0x20, 0x40);
        assert_eq!(isr(&mut p, 0x20), 0x20, "no operation");
    }

    #[test]
    fn special_mask_mode_lets_lower_inputs_through() {
        let mut p = ready(1);
        pulse(&mut p, 1);
        p.acknowledge();
        pulse(&mut p, 6);
        assert!(!p.irq());
        p.write(0x21, 0x02);
        p.write(0x20, 0x68);
        assert_eq!(p.acknowledge(), 0x36);
        p.write(0x20, 0x20);
        assert_eq!(isr(&mut p, 0x20), 0x02, "what is masked stays in service");
        p.write(0x20, 0x48);
        assert!(!p.irq());
    }

    #[test]
    fn poll_mode_acknowledges() {
        let mut p = ready(1);
        p.write(0x20, 0x0c);
        assert_eq!(p.read(0x20), 0);
        pulse(&mut p, 6);
        p.write(0x20, 0x0c);
        assert_eq!(p.read(0x20), 0x86);
        assert_eq!((isr(&mut p, 0x20), p.irq()), (0x40, false));
    }

    #[test]
    fn initialisation_clears_and_may_be_short() {
        let mut p = ready(1);
        pulse(&mut p, 1);
        p.acknowledge();
        pulse(&mut p, 0);
        p.write(0x20, 0x13);
        p.write(0x21, 0x47);
        p.write(0x21, 0x01);
        p.write(0x21, 0x0f);
        assert_eq!((isr(&mut p, 0x20), p.read(0x21), p.irq()), (0, 0x0f, false));
        pulse(&mut p, 4);
        assert_eq!(p.acknowledge(), 0x44, "single: no ICW3; three low bits of the base are the input");
        p.write(0x20, 0x1a);
        p.write(0x21, 0x50);
        p.write(0x21, 0x33);
        assert_eq!(p.read(0x21), 0x33, "neither ICW3 nor ICW4");
        p.set_line(7, true);
        assert_eq!(p.acknowledge(), 0x57, "level-triggered by ICW1");
        p.write(0x20, 0x20);
        assert!(p.irq());
    }

    #[test]
    fn what_does_not_exist() {
        let mut p = ready(1);
        for irq in [2, 16, u32::MAX] {
            p.set_line(irq, true);
        }
        assert!(!p.irq() && p.is_masked(16));
        p.write(0x22, 0x20);
        assert_eq!(p.read(0x22), 0xff);
    }
}
