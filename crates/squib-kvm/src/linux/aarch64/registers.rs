//! One register in or out of KVM (KVM API, 4.68 `KVM_SET_ONE_REG`).

use std::mem::offset_of;

use kvm_bindings::*;
use kvm_ioctls::VcpuFd;
use squib_core::arm64::SystemRegister;
use squib_core::arm64::system_registers::{CNTV_CVAL_EL0, CNTVCT_EL0, ELR_EL1, SPSR_EL1};

/// A register of `struct kvm_regs`, by its offset there, in bytes.
const fn core(size: u64, offset: usize) -> u64 {
    KVM_REG_ARM64 | size | KVM_REG_ARM_CORE as u64 | (offset / size_of::<u32>()) as u64
}

pub(super) const SP_EL0: u64 = core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, regs.sp));
pub(super) const SP_EL1: u64 = core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, sp_el1));
pub(super) const PC: u64 = core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, regs.pc));
pub(super) const PSTATE: u64 = core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, regs.pstate));
pub(super) const FPSR: u64 = core(KVM_REG_SIZE_U32, offset_of!(kvm_regs, fp_regs.fpsr));
pub(super) const FPCR: u64 = core(KVM_REG_SIZE_U32, offset_of!(kvm_regs, fp_regs.fpcr));

/// X0 to X30.
pub(super) const fn x(number: usize) -> u64 {
    core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, regs.regs) + number * size_of::<u64>())
}

/// V0 to V31.
pub(super) const fn v(number: usize) -> u64 {
    core(KVM_REG_SIZE_U128, offset_of!(kvm_regs, fp_regs.vregs) + number * size_of::<u128>())
}

/// Bits of a number that say which register of its kind it is, and the rest of it for a system register.
const SYSTEM_MASK: u64 = 0xffff;
const SYSTEM: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64;

/// Registers that KVM keeps elsewhere than where their encoding says: two of them are core registers, and of the virtual
/// timer it has the counter and the comparator the wrong way round (include/uapi/asm/kvm.h).
const MOVED: [(SystemRegister, u64); 4] = [
    (ELR_EL1, core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, elr_el1))),
    (SPSR_EL1, core(KVM_REG_SIZE_U64, offset_of!(kvm_regs, spsr))),
    (CNTVCT_EL0, SYSTEM | CNTV_CVAL_EL0.0 as u64),
    (CNTV_CVAL_EL0, SYSTEM | CNTVCT_EL0.0 as u64),
];

/// KVM's number of a system register.
pub(super) fn system(register: SystemRegister) -> u64 {
    let moved = MOVED.iter().find(|(moved, _)| *moved == register);
    moved.map_or(SYSTEM | u64::from(register.0), |(_, number)| *number)
}

/// The system register with this number of KVM's, if it is one.
pub(super) fn system_register(number: u64) -> Option<SystemRegister> {
    if let Some((register, _)) = MOVED.iter().find(|(_, moved)| *moved == number) {
        return Some(*register);
    }
    (number & !SYSTEM_MASK == SYSTEM).then_some(SystemRegister(number as u16))
}

pub(super) fn get<const N: usize>(vcpu: &VcpuFd, number: u64) -> Result<[u8; N], kvm_ioctls::Error> {
    let mut bytes = [0; N];
    vcpu.get_one_reg(number, &mut bytes).map(|_| bytes)
}

pub(super) fn get_u64(vcpu: &VcpuFd, number: u64) -> Result<u64, kvm_ioctls::Error> {
    get(vcpu, number).map(u64::from_le_bytes)
}

pub(super) fn set(vcpu: &VcpuFd, number: u64, bytes: &[u8]) -> Result<(), kvm_ioctls::Error> {
    vcpu.set_one_reg(number, bytes).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        // Documentation/virt/kvm/api.rst, 4.68, "arm64 core".
        assert_eq!(x(0), 0x6030_0000_0010_0000);
        assert_eq!(x(30), 0x6030_0000_0010_003c);
        assert_eq!(SP_EL0, 0x6030_0000_0010_003e);
        assert_eq!(PC, 0x6030_0000_0010_0040);
        assert_eq!(PSTATE, 0x6030_0000_0010_0042);
        assert_eq!(SP_EL1, 0x6030_0000_0010_0044);
        assert_eq!(system(ELR_EL1), 0x6030_0000_0010_0046);
        assert_eq!(system(SPSR_EL1), 0x6030_0000_0010_0048);
        assert_eq!(v(0), 0x6040_0000_0010_0054);
        assert_eq!(v(31), 0x6040_0000_0010_00d0);
        assert_eq!(FPSR, 0x6020_0000_0010_00d4);
        assert_eq!(FPCR, 0x6020_0000_0010_00d5);
        // KVM_REG_ARM_TIMER_CNT and KVM_REG_ARM_TIMER_CVAL.
        assert_eq!(system(CNTVCT_EL0), 0x6030_0000_0013_df1a);
        assert_eq!(system(CNTV_CVAL_EL0), 0x6030_0000_0013_df02);
    }

    #[test]
    fn numbers_lead_back() {
        for register in (0..=u16::MAX).map(SystemRegister) {
            assert_eq!(system_register(system(register)), Some(register));
        }
        assert_eq!(system_register(x(0)), None);
        assert_eq!(system_register(v(0)), None);
    }
}
