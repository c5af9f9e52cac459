//! Power-off and reset of a hardware-reduced ACPI platform: sleep control, sleep status and reset registers
//! (ACPI 6.5, 4.8.3.6 "Reset Register", 4.8.3.7 "Sleep Control and Status Registers").
//!
//! Three ports of one byte each. The FADT names them, and the DSDT's `_S5` gives [`SLEEP_TYPE_S5`].

/// Offset of the sleep control register.
pub const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register.
pub const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register.
pub const RESET: u16 = 2;
/// Ports from the base on.
pub const PORTS: u16 = 3;

/// Sleep type that powers off.
pub const SLEEP_TYPE_S5: u8 = 5;
/// What a write to the reset register must be to reset.
pub const RESET_VALUE: u8 = 1;

/// Sleep control: SLP_TYP is bits 4:2, SLP_EN bit 5.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
const SLEEP_ENABLE: u8 = 1 << 5;

/// What a write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// Power off.
    PowerOff,
    /// Reset.
    Reset,
}

/// The three registers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcpiPm {
    sleep_type: u8,
}

impl AcpiPm {
    /// System reset.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Reads a register. SLP_EN and the reset register are write-only and read as zero; the wake status never
    /// sets, as nothing sleeps. Offsets that do not exist read as ones.
    pub fn read(&self, offset: u16) -> u8 {
        match offset {
            SLEEP_CONTROL => self.sleep_type << SLEEP_TYPE_SHIFT,
            SLEEP_STATUS | RESET => 0,
            _ => 0xff,
        }
    }

    /// Writes a register. Sleep types other than [`SLEEP_TYPE_S5`], of which the DSDT tells nothing, do
    /// nothing.
    pub fn write(&mut self, offset: u16, value: u8) -> Option<PowerAction> {
        match offset {
            SLEEP_CONTROL => {
                self.sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
                let off = value & SLEEP_ENABLE != 0 && self.sleep_type == SLEEP_TYPE_S5;
                off.then_some(PowerAction::PowerOff)
            }
            RESET if value == RESET_VALUE => Some(PowerAction::Reset),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_enabled_s5_powers_off() {
        let mut pm = AcpiPm::default();
        assert_eq!(pm.write(SLEEP_CONTROL, 5 << 2), None);
        assert_eq!(pm.read(SLEEP_CONTROL), 5 << 2);
        for sleep_type in 0..8 {
            let expected = (sleep_type == SLEEP_TYPE_S5).then_some(PowerAction::PowerOff);
            assert_eq!(pm.write(SLEEP_CONTROL, SLEEP_ENABLE | sleep_type << 2), expected);
            assert_eq!(pm.read(SLEEP_CONTROL), sleep_type << 2);
        }
    }

    #[test]
    fn only_its_value_resets() {
        let mut pm = AcpiPm::default();
        for value in 0..=255 {
            assert_eq!(pm.write(RESET, value), (value == RESET_VALUE).then_some(PowerAction::Reset));
        }
        assert_eq!((pm.read(RESET), pm.read(SLEEP_STATUS), pm.read(3)), (0, 0, 0xff));
        assert_eq!(pm.write(SLEEP_STATUS, 0xff), None);
    }
}
