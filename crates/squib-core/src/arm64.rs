//! aarch64 register state in portable types (Arm Architecture Reference Manual, DDI 0487, B1.2 and D17), and the places
//! that squib gives to an interrupt controller inside of a backend.

use std::fmt;

use crate::Result;

/// General-purpose registers, stack pointers, program counter and processor state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// X0 to X30.
    pub x: [u64; 31],
    /// SP_EL0: the stack of programs, and of EL1 while PSTATE.SP is 0.
    pub sp_el0: u64,
    /// SP_EL1.
    pub sp_el1: u64,
    /// Address of the next instruction.
    pub pc: u64,
    /// PSTATE in the form of SPSR_EL1 (C5.2.19).
    pub pstate: u64,
}

/// V0 to V31 and the registers that control them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VectorRegisters {
    /// V0 to V31.
    pub v: [u128; 32],
    /// Floating-point status, 32 bits.
    pub fpsr: u32,
    /// Floating-point control, 32 bits.
    pub fpcr: u32,
}

/// A system register by its encoding: bits 20:5 of the `MRS` that reads it, op0, op1, CRn, CRm, op2 from the top
/// (C5.1.2). Exits use the same number as the index of [`VmExit::MsrRead`](crate::VmExit::MsrRead).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SystemRegister(pub u16);

impl SystemRegister {
    /// The register with these fields: op0 has 2 bits, op1 and op2 have 3, CRn and CRm 4. Higher bits are ignored.
    pub const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self((op0 & 3) << 14 | (op1 & 7) << 11 | (crn & 15) << 7 | (crm & 15) << 3 | op2 & 7)
    }
}

/// As assemblers write a register that they have no name for: `S3_0_C1_C0_0`.
impl fmt::Debug for SystemRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = |shift: u16, mask: u16| self.0 >> shift & mask;
        let (op0, op1, crn, crm, op2) = (field(14, 3), field(11, 7), field(7, 15), field(3, 15), field(0, 7));
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

/// Whether a vCPU runs or waits to be started (PSCI, DEN 0022, 5.1.4 `CPU_ON`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PowerState {
    /// It runs, or waits for an interrupt.
    On,
    /// It runs nothing until another vCPU starts it, or somebody sets its state.
    Off,
}

/// The aarch64 state of a vCPU. Called while the vCPU is not running.
///
/// # Errors
/// Every function gives [`ErrorCode::Hypervisor`](crate::ErrorCode::Hypervisor) when the host fails; setters
/// give [`ErrorCode::InvalidArgument`](crate::ErrorCode::InvalidArgument) for a state that no processor can be
/// in. A setter of several registers stops at the one that is refused.
pub trait Arm64State {
    /// General-purpose registers.
    fn registers(&mut self) -> Result<Registers>;
    /// Sets them.
    fn set_registers(&mut self, regs: &Registers) -> Result<()>;
    /// Vector and floating-point registers.
    fn vector_registers(&mut self) -> Result<VectorRegisters>;
    /// Sets them.
    fn set_vector_registers(&mut self, regs: &VectorRegisters) -> Result<()>;
    /// A system register. [`ErrorCode::Register`](crate::ErrorCode::Register) when there is none.
    fn system_register(&mut self, register: SystemRegister) -> Result<u64>;
    /// Sets one. [`ErrorCode::Register`](crate::ErrorCode::Register) when there is none.
    fn set_system_register(&mut self, register: SystemRegister, value: u64) -> Result<()>;
    /// The system registers that make up the state of a vCPU, ascending.
    fn system_register_list(&mut self) -> Result<Vec<SystemRegister>>;
    /// Whether it runs.
    fn power_state(&mut self) -> Result<PowerState>;
    /// Starts or stops it.
    fn set_power_state(&mut self, state: PowerState) -> Result<()>;
}

/// Encodings of registers that more than one crate needs.
pub mod system_registers {
    #![expect(missing_docs, reason = "named as in the manual")]
    use super::SystemRegister;

    pub const MPIDR_EL1: SystemRegister = SystemRegister::new(3, 0, 0, 0, 5);
    pub const SCTLR_EL1: SystemRegister = SystemRegister::new(3, 0, 1, 0, 0);
    pub const TTBR0_EL1: SystemRegister = SystemRegister::new(3, 0, 2, 0, 0);
    pub const SPSR_EL1: SystemRegister = SystemRegister::new(3, 0, 4, 0, 0);
    pub const ELR_EL1: SystemRegister = SystemRegister::new(3, 0, 4, 0, 1);
    pub const ESR_EL1: SystemRegister = SystemRegister::new(3, 0, 5, 2, 0);
    pub const FAR_EL1: SystemRegister = SystemRegister::new(3, 0, 6, 0, 0);
    pub const VBAR_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 0, 0);
    pub const CNTVCT_EL0: SystemRegister = SystemRegister::new(3, 3, 14, 0, 2);
    pub const CNTV_CTL_EL0: SystemRegister = SystemRegister::new(3, 3, 14, 3, 1);
    pub const CNTV_CVAL_EL0: SystemRegister = SystemRegister::new(3, 3, 14, 3, 2);
}

/// PSTATE of EL1 with its own stack pointer and D, A, I and F masked, as a processor begins (C5.2.19).
pub const PSTATE_EL1_MASKED: u64 = 0x3c5;

/// The generic interrupt controller inside of a backend. Hardware has it anywhere; these are squib's places.
pub mod gic {
    /// Which GIC it is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum GicVersion {
        /// GICv2 (IHI 0048): a distributor and CPU interfaces in memory, 8 vCPUs at most.
        V2,
        /// GICv3 (IHI 0069): a distributor, a redistributor for each vCPU, CPU interfaces in system registers.
        V3,
    }

    /// The distributor.
    pub const DISTRIBUTOR: u64 = 0x0800_0000;
    /// Bytes that are kept for the distributor.
    pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
    /// The CPU interface of a GICv2, the same for every vCPU.
    pub const CPU_INTERFACE: u64 = 0x0801_0000;
    /// Bytes that are kept for the CPU interface.
    pub const CPU_INTERFACE_SIZE: u64 = 0x1_0000;
    /// The redistributors of a GICv3, one behind the other.
    pub const REDISTRIBUTORS: u64 = 0x080a_0000;
    /// Bytes of one vCPU's redistributor.
    pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
    /// Where redistributors end at the latest.
    pub const END: u64 = 0x0900_0000;

    /// Interrupt lines: shared peripheral interrupts 0 to 95, whose interrupt numbers are 32 more.
    pub const LINES: u32 = 96;
    /// The interrupt number of line 0.
    pub const FIRST_LINE: u32 = 32;

    const _: () = assert!(DISTRIBUTOR + DISTRIBUTOR_SIZE <= CPU_INTERFACE);
    const _: () = assert!(CPU_INTERFACE + CPU_INTERFACE_SIZE <= REDISTRIBUTORS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_numbered_as_instructions_encode_them() {
        // MRS X0, SCTLR_EL1 and MRS X0, VBAR_EL1.
        assert_eq!(system_registers::SCTLR_EL1.0, ((0xd538_1000_u32 >> 5) & 0xffff) as u16);
        assert_eq!(system_registers::VBAR_EL1.0, ((0xd538_c000_u32 >> 5) & 0xffff) as u16);
        assert_eq!(format!("{:?}", system_registers::CNTVCT_EL0), "S3_3_C14_C0_2");
        assert_eq!(SystemRegister::new(3, 7, 15, 15, 7).0, 0xffff);
    }
}
