//! Intel 8042 keyboard controller (IBM PC AT Technical Reference, "Keyboard Controller") with nothing plugged
//! in.
//!
//! What is left of it is what guests still use: the reset line, the A20 gate, and quick answers that there is
//! neither keyboard nor mouse. Port 0x92 of later chipsets, which does the first two faster, is here too.

/// Port of the data register.
pub const PORT_DATA: u16 = 0x60;
/// Port of the status (read) and command (write) register.
pub const PORT_COMMAND: u16 = 0x64;
/// Port of system control A.
pub const PORT_SYSTEM_CONTROL: u16 = 0x92;

/// Status register.
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_LAST_WAS_COMMAND: u8 = 1 << 3;
const STATUS_NOT_LOCKED: u8 = 1 << 4;
const STATUS_AUXILIARY: u8 = 1 << 5;
const STATUS_TIMEOUT: u8 = 1 << 6;

/// Command byte.
const CONFIG_KEYBOARD_INTERRUPT: u8 = 1 << 0;
const CONFIG_AUXILIARY_INTERRUPT: u8 = 1 << 1;
const CONFIG_SYSTEM: u8 = 1 << 2;
const CONFIG_KEYBOARD_DISABLED: u8 = 1 << 4;
const CONFIG_AUXILIARY_DISABLED: u8 = 1 << 5;

/// Output port.
const OUTPUT_NO_RESET: u8 = 1 << 0;
const OUTPUT_A20: u8 = 1 << 1;

const SELF_TEST_PASSED: u8 = 0x55;
/// Interface test: the clock line is stuck low, so nothing is plugged in.
const CLOCK_STUCK_LOW: u8 = 1;
/// What the controller puts into the buffer when a device does not answer.
const NO_ANSWER: u8 = 0xfe;

/// What a write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum I8042Action {
    /// Reset the processor, which on a PC means the machine.
    Reset,
    /// Open (`true`) or close address line 20.
    A20(bool),
}

/// A command that waits for its parameter at the data port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameter {
    Memory(u8),
    OutputPort,
    KeyboardOutput,
    AuxiliaryOutput,
    Auxiliary,
}

/// The keyboard controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct I8042 {
    /// RAM; byte 0 is the command byte.
    memory: [u8; 32],
    output_port: u8,
    output: Option<u8>,
    output_status: u8,
    last_was_command: bool,
    parameter: Option<Parameter>,
}

impl Default for I8042 {
    fn default() -> Self {
        let mut memory = [0; 32];
        memory[0] = CONFIG_SYSTEM | CONFIG_KEYBOARD_DISABLED | CONFIG_AUXILIARY_DISABLED;
        Self {
            memory,
            output_port: OUTPUT_NO_RESET | OUTPUT_A20,
            output: None,
            output_status: 0,
            last_was_command: false,
            parameter: None,
        }
    }
}

impl I8042 {
    /// A controller as firmware leaves it: self-test passed, address line 20 open.
    pub fn new() -> Self {
        Self::default()
    }

    /// Power-up reset.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether address line 20 is open.
    pub fn a20(&self) -> bool {
        self.output_port & OUTPUT_A20 != 0
    }

    /// The keyboard's interrupt, IRQ 1.
    pub fn keyboard_irq(&self) -> bool {
        self.interrupts(CONFIG_KEYBOARD_INTERRUPT, 0)
    }

    /// The mouse's interrupt, IRQ 12.
    pub fn auxiliary_irq(&self) -> bool {
        self.interrupts(CONFIG_AUXILIARY_INTERRUPT, STATUS_AUXILIARY)
    }

    fn interrupts(&self, enable: u8, source: u8) -> bool {
        self.output.is_some()
            && self.memory[0] & enable != 0
            && self.output_status & STATUS_AUXILIARY == source
    }

    /// Reads port 0x60, 0x64 or 0x92; others read as ones.
    pub fn read(&mut self, port: u16) -> u8 {
        match port {
            PORT_DATA => {
                self.output_status = 0;
                self.output.take().unwrap_or(0)
            }
            PORT_COMMAND => {
                let full = if self.output.is_some() { STATUS_OUTPUT_FULL } else { 0 };
                let command = if self.last_was_command { STATUS_LAST_WAS_COMMAND } else { 0 };
                STATUS_NOT_LOCKED | self.memory[0] & STATUS_SYSTEM | command | full | self.output_status
            }
            PORT_SYSTEM_CONTROL => self.output_port & OUTPUT_A20,
            _ => 0xff,
        }
    }

    /// Writes port 0x60, 0x64 or 0x92; others are ignored.
    pub fn write(&mut self, port: u16, value: u8) -> Option<I8042Action> {
        match port {
            PORT_DATA => {
                self.last_was_command = false;
                self.write_data(value)
            }
            PORT_COMMAND => {
                self.last_was_command = true;
                self.parameter = None;
                self.command(value)
            }
            PORT_SYSTEM_CONTROL if value & 1 != 0 => Some(I8042Action::Reset),
            PORT_SYSTEM_CONTROL => self.set_output_port(self.output_port & !OUTPUT_A20 | value & OUTPUT_A20),
            _ => None,
        }
    }

    fn command(&mut self, command: u8) -> Option<I8042Action> {
        match command {
            0x20..=0x3f => self.answer(self.memory[usize::from(command & 0x1f)]),
            0x60..=0x7f => self.parameter = Some(Parameter::Memory(command & 0x1f)),
            0xa7 => self.memory[0] |= CONFIG_AUXILIARY_DISABLED,
            0xa8 => self.memory[0] &= !CONFIG_AUXILIARY_DISABLED,
            0xa9 | 0xab => self.answer(CLOCK_STUCK_LOW),
            0xaa => {
                self.memory[0] |= CONFIG_SYSTEM;
                self.answer(SELF_TEST_PASSED);
            }
            0xad => self.memory[0] |= CONFIG_KEYBOARD_DISABLED,
            0xae => self.memory[0] &= !CONFIG_KEYBOARD_DISABLED,
            0xd0 => self.answer(self.output_port),
            0xd1 => self.parameter = Some(Parameter::OutputPort),
            0xd2 => self.parameter = Some(Parameter::KeyboardOutput),
            0xd3 => self.parameter = Some(Parameter::AuxiliaryOutput),
            0xd4 => self.parameter = Some(Parameter::Auxiliary),
            // Pulses those lines of the output port whose bits are clear; line 0 is reset.
            0xf0..=0xff if command & OUTPUT_NO_RESET == 0 => return Some(I8042Action::Reset),
            _ => {}
        }
        None
    }

    fn write_data(&mut self, value: u8) -> Option<I8042Action> {
        match self.parameter.take() {
            Some(Parameter::Memory(index)) => self.memory[usize::from(index & 0x1f)] = value,
            Some(Parameter::OutputPort) => return self.set_output_port(value),
            Some(Parameter::KeyboardOutput) => self.answer(value),
            Some(Parameter::AuxiliaryOutput) => {
                self.answer(value);
                self.output_status = STATUS_AUXILIARY;
            }
            Some(Parameter::Auxiliary) => {
                self.answer(NO_ANSWER);
                self.output_status = STATUS_AUXILIARY | STATUS_TIMEOUT;
            }
            None => {
                self.answer(NO_ANSWER);
                self.output_status = STATUS_TIMEOUT;
            }
        }
        None
    }

    fn answer(&mut self, byte: u8) {
        self.output = Some(byte);
        self.output_status = 0;
    }

    fn set_output_port(&mut self, value: u8) -> Option<I8042Action> {
        let changed = self.output_port ^ value;
        self.output_port = value | OUTPUT_NO_RESET;
        if value & OUTPUT_NO_RESET == 0 {
            Some(I8042Action::Reset)
        } else if changed & OUTPUT_A20 != 0 {
            Some(I8042Action::A20(self.a20()))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(c: &mut I8042, command: u8) -> u8 {
        assert_eq!(c.write(PORT_COMMAND, command), None);
        assert_eq!(c.read(PORT_COMMAND) & STATUS_OUTPUT_FULL, STATUS_OUTPUT_FULL);
        c.read(PORT_DATA)
    }

    #[test]
    fn resets_by_command_pulse_output_port_and_port_92() {
        let mut c = I8042::new();
        assert_eq!(c.write(PORT_COMMAND, 0xfe), Some(I8042Action::Reset));
        assert_eq!(c.write(PORT_COMMAND, 0xff), None);
        assert_eq!(c.write(PORT_COMMAND, 0xd1), None);
        assert_eq!(c.write(PORT_DATA, 0x02), Some(I8042Action::Reset));
        assert_eq!(c.write(PORT_SYSTEM_CONTROL, 1), Some(I8042Action::Reset));
    }

    #[test]
    fn a20_by_both_ways() {
        let mut c = I8042::new();
        assert!(c.a20());
        c.write(PORT_COMMAND, 0xd1);
        assert_eq!(c.write(PORT_DATA, 0xdd), Some(I8042Action::A20(false)));
        assert_eq!(ask(&mut c, 0xd0), 0xdd);
        assert_eq!(c.read(PORT_SYSTEM_CONTROL), 0);
        assert_eq!(c.write(PORT_SYSTEM_CONTROL, 2), Some(I8042Action::A20(true)));
        assert_eq!(c.write(PORT_SYSTEM_CONTROL, 2), None);
        assert!(c.a20());
    }

    #[test]
    fn nobody_is_plugged_in() {
        let mut c = I8042::new();
        assert_eq!(c.read(PORT_COMMAND), STATUS_NOT_LOCKED | STATUS_SYSTEM);
        assert_eq!(ask(&mut c, 0xaa), 0x55);
        assert_eq!(ask(&mut c, 0xab), 1);
        assert_eq!(ask(&mut c, 0xa9), 1);
        c.write(PORT_DATA, 0xf2);
        assert_eq!(c.read(PORT_COMMAND) & (STATUS_TIMEOUT | STATUS_OUTPUT_FULL), 0x41);
        assert_eq!(c.read(PORT_DATA), 0xfe);
        assert_eq!(c.read(PORT_COMMAND) & (STATUS_TIMEOUT | STATUS_OUTPUT_FULL), 0);
    }

    #[test]
    fn command_byte_and_interrupts() {
        let mut c = I8042::new();
        c.write(PORT_COMMAND, 0x60);
        c.write(PORT_DATA, 0x07);
        assert_eq!(ask(&mut c, 0x20), 0x07);
        c.write(PORT_COMMAND, 0xd3);
        c.write(PORT_DATA, 0x5a);
        assert_eq!((c.keyboard_irq(), c.auxiliary_irq()), (false, true));
        assert_eq!(c.read(PORT_DATA), 0x5a);
        c.write(PORT_COMMAND, 0xd2);
        c.write(PORT_DATA, 0xa5);
        assert_eq!((c.keyboard_irq(), c.auxiliary_irq()), (true, false));
        assert_eq!(c.read(PORT_DATA), 0xa5);
        assert_eq!((c.keyboard_irq(), c.auxiliary_irq()), (false, false));
    }
}
