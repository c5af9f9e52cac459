//! Exceptions that the hypervisor gives to the guest.

use squib_core::Result;

use crate::registers::{Register, Registers};

/// ESR_EL1 of an instruction that does not exist: class 0, 32 bits long (Arm ARM, D24.2.37).
const UNDEFINED: u64 = 1 << 25;

/// PSTATE of an exception handler: EL1 with its own stack pointer; D, A, I and F masked (Arm ARM, C5.2.19).
const HANDLER: u64 = 0x3c5;

/// PSTATE bits: AArch32; exception level; own stack pointer.
const AARCH32: u64 = 1 << 4;
const LEVEL: u64 = 3 << 2;
const OWN_STACK: u64 = 1 << 0;

/// Makes the guest take the exception of an undefined instruction at PC (Arm ARM, D1.3).
pub(crate) fn take_undefined(registers: &mut impl Registers) -> Result<()> {
    let (pc, pstate) = (registers.read(Register::Pc)?, registers.read(Register::Pstate)?);
    let vector = registers.read(Register::VbarEl1)?.wrapping_add(vector_offset(pstate));
    for (register, value) in [
        (Register::ElrEl1, pc),
        (Register::SpsrEl1, pstate),
        (Register::EsrEl1, UNDEFINED),
        (Register::Pstate, HANDLER),
        (Register::Pc, vector),
    ] {
        registers.write(register, value)?;
    }
    Ok(())
}

/// Where the vector of a synchronous exception lies in the table (Arm ARM, table D1-6).
fn vector_offset(pstate: u64) -> u64 {
    match (pstate & AARCH32 != 0, pstate & LEVEL == 0, pstate & OWN_STACK != 0) {
        (true, ..) => 0x600,
        (false, true, _) => 0x400,
        (false, false, true) => 0x200,
        (false, false, false) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::tests::Bank;

    #[test]
    fn the_guest_lands_in_its_vector() {
        for (pstate, offset) in [(0x3c5, 0x200), (0x3c4, 0), (0x8000_0000, 0x400), (0x1d0, 0x600)] {
            let mut bank = Bank { pstate, ..Bank::new() };
            take_undefined(&mut bank).unwrap();
            assert_eq!((bank.pc, bank.elr, bank.spsr), (0x8_0000 + offset, 0x1000, pstate));
            assert_eq!((bank.esr, bank.pstate), (0x0200_0000, 0x3c5));
            assert_eq!(bank.x, Bank::new().x);
        }
    }
}
