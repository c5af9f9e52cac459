//! The registers that an exit is decoded from and answered in.

use squib_core::Result;

/// A register of an aarch64 vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Register {
    /// X0 to X30.
    X(u8),
    /// The address of the next instruction.
    Pc,
    /// PSTATE in the form of SPSR_EL2 (Arm ARM, C5.2.19).
    Pstate,
    /// VBAR_EL1: where the guest's exception vectors are.
    VbarEl1,
    /// ELR_EL1: where an exception to EL1 came from.
    ElrEl1,
    /// SPSR_EL1: PSTATE when it came.
    SpsrEl1,
    /// ESR_EL1: what it was.
    EsrEl1,
}

/// A vCPU's registers. `X(31)` and above do not occur: that number means the zero register, and is settled before.
pub trait Registers {
    /// The value of `register`.
    ///
    /// # Errors
    /// What the hypervisor says.
    fn read(&mut self, register: Register) -> Result<u64>;

    /// Sets `register`.
    ///
    /// # Errors
    /// What the hypervisor says.
    fn write(&mut self, register: Register, value: u64) -> Result<()>;
}

/// The number that means the zero register where a syndrome or an instruction names a general-purpose register.
const ZERO: u8 = 31;

/// General-purpose register `number`, 0 to 31.
pub(crate) fn x(registers: &mut impl Registers, number: u8) -> Result<u64> {
    if number >= ZERO { Ok(0) } else { registers.read(Register::X(number)) }
}

/// Sets general-purpose register `number`, 0 to 31.
pub(crate) fn set_x(registers: &mut impl Registers, number: u8, value: u64) -> Result<()> {
    if number >= ZERO { Ok(()) } else { registers.write(Register::X(number), value) }
}

/// Goes on behind an instruction of `len` bytes.
pub(crate) fn advance(registers: &mut impl Registers, len: u64) -> Result<()> {
    let pc = registers.read(Register::Pc)?;
    registers.write(Register::Pc, pc.wrapping_add(len))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Registers in an array; X(n) begins as `0x8877_6655_4433_22_00 + n`, PC as 0x1000.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct Bank {
        pub(crate) x: [u64; 31],
        pub(crate) pc: u64,
        pub(crate) pstate: u64,
        pub(crate) vbar: u64,
        pub(crate) elr: u64,
        pub(crate) spsr: u64,
        pub(crate) esr: u64,
    }

    impl Bank {
        pub(crate) fn new() -> Self {
            let x = std::array::from_fn(|n| 0x8877_6655_4433_2200 + n as u64);
            Self { x, pc: 0x1000, pstate: 0x3c5, vbar: 0x8_0000, elr: 0, spsr: 0, esr: 0 }
        }

        fn at(&mut self, register: Register) -> &mut u64 {
            match register {
                Register::X(n) => &mut self.x[usize::from(n)],
                Register::Pc => &mut self.pc,
                Register::Pstate => &mut self.pstate,
                Register::VbarEl1 => &mut self.vbar,
                Register::ElrEl1 => &mut self.elr,
                Register::SpsrEl1 => &mut self.spsr,
                Register::EsrEl1 => &mut self.esr,
            }
        }
    }

    impl Registers for Bank {
        fn read(&mut self, register: Register) -> Result<u64> {
            Ok(*self.at(register))
        }

        fn write(&mut self, register: Register, value: u64) -> Result<()> {
            *self.at(register) = value;
            Ok(())
        }
    }
}
