//! The PC's pair of 8259A interrupt controllers (Intel 8259A data sheet, order number 231468) with the edge/level
//! registers of PCI chipsets (ELCR).
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
            // The data sheet leaves the state before ICW1 open; masked, it is harmless to guests that never look here.
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

    /// The processor's interrupt acknowledge: the vector, which is input 7's when nothing is pending any more.
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
