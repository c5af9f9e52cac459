//! What a probe runs and asks for. The guests run with the memory management unit off.

use std::sync::Arc;

use kvm_bindings::*;
use squib_core::arm64::{PSTATE_EL1_MASKED, Registers};
use squib_core::{GuestMemory, Result, Vcpu, VmExit};

const CODE: u64 = 0x4000_0000;
const MEMORY: u64 = 0x1000;
/// Where there is no memory, in X1 when a program starts.
const DEVICE: u64 = 0x0900_0000;
/// What the guests write there, in X0 when a program starts.
const SIGN: u8 = 0x2a;

/// `str w0, [x1]`.
const WRITE_SIGN: [u8; 4] = 0xb900_0020_u32.to_le_bytes();
/// `mov x2, #3 << 20; msr cpacr_el1, x2; isb; ucvtf d0, w0; fcvtzu w0, d0`, and then the sign.
const FLOATING_POINT: [[u8; 4]; 6] = [
    0xd2a0_0602_u32.to_le_bytes(),
    0xd518_1042_u32.to_le_bytes(),
    0xd503_3fdf_u32.to_le_bytes(),
    0x1e63_0000_u32.to_le_bytes(),
    0x1e79_0000_u32.to_le_bytes(),
    WRITE_SIGN,
];
/// `add x0, x0, #1; b` back to it.
const ADD: [[u8; 4]; 2] = [0x9100_0400_u32.to_le_bytes(), 0x17ff_ffff_u32.to_le_bytes()];
/// Instructions in [`COUNT`]'s loop.
const COUNT_INSTRUCTIONS: u64 = 2;

/// A small guest.
pub(in crate::linux) struct Program {
    /// What is tried, for people.
    pub(in crate::linux) name: &'static str,
    /// Who runs it, for people.
    pub(in crate::linux) guest: &'static str,
    /// Whether a KVM that only interprets may fail here: speed is measured before.
    pub(in crate::linux) at_speed: bool,
    code: &'static [u8],
}

/// What is tried, in order.
pub(in crate::linux) const PROGRAMS: [Program; 2] = [
    Program { name: "run 64-bit code", guest: "a 64-bit guest", at_speed: false, code: &WRITE_SIGN },
    Program {
        name: "run floating-point instructions",
        guest: "a guest with floating-point instructions",
        at_speed: true,
        code: FLOATING_POINT.as_flattened(),
    },
];

/// Counts in X0.
pub(in crate::linux) const COUNT: Program =
    Program { name: "count", guest: "a 64-bit guest", at_speed: true, code: ADD.as_flattened() };

/// The kernel's capabilities that a report tells of.
pub(in crate::linux) const CAPABILITIES: [(&str, u32); 18] = [
    ("ARM_NISV_TO_USER", KVM_CAP_ARM_NISV_TO_USER),
    ("ARM_PSCI_0_2", KVM_CAP_ARM_PSCI_0_2),
    ("ARM_VM_IPA_SIZE", KVM_CAP_ARM_VM_IPA_SIZE),
    ("COALESCED_MMIO", KVM_CAP_COALESCED_MMIO),
    ("DIRTY_LOG_RING_ACQ_REL", KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
    ("GUEST_DEBUG_HW_BPS", KVM_CAP_GUEST_DEBUG_HW_BPS),
    ("IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT),
    ("IOEVENTFD", KVM_CAP_IOEVENTFD),
    ("IRQCHIP", KVM_CAP_IRQCHIP),
    ("IRQFD", KVM_CAP_IRQFD),
    ("MAX_VCPUS", KVM_CAP_MAX_VCPUS),
    ("MEMORY_FAULT_INFO", KVM_CAP_MEMORY_FAULT_INFO),
    ("MP_STATE", KVM_CAP_MP_STATE),
    ("NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS),
    ("ONE_REG", KVM_CAP_ONE_REG),
    ("READONLY_MEM", KVM_CAP_READONLY_MEM),
    ("SET_GUEST_DEBUG", KVM_CAP_SET_GUEST_DEBUG),
    ("SYSTEM_EVENT_DATA", KVM_CAP_SYSTEM_EVENT_DATA),
];

/// RAM, still empty.
pub(in crate::linux) fn memory() -> Result<Arc<GuestMemory>> {
    GuestMemory::with_regions(&[(CODE, MEMORY)])
}

/// Puts the vCPU at the start of `program`.
pub(in crate::linux) fn enter(memory: &GuestMemory, vcpu: &mut dyn Vcpu, program: &Program) -> Result<()> {
    memory.write(CODE, program.code)?;
    let mut registers = Registers { pc: CODE, pstate: PSTATE_EL1_MASKED, ..Registers::default() };
    (registers.x[0], registers.x[1]) = (SIGN.into(), DEVICE);
    vcpu.arm64()?.set_registers(&registers)
}

/// Whether this is how a program says that it has run.
pub(in crate::linux) fn is_sign(exit: &VmExit) -> bool {
    matches!(exit, VmExit::Mmio { addr: DEVICE, write: true, data } if data[..] == [SIGN, 0, 0, 0])
}

/// Instructions that [`COUNT`] has executed.
pub(in crate::linux) fn counted(vcpu: &mut dyn Vcpu) -> Result<u64> {
    Ok((vcpu.arm64()?.registers()?.x[0] - u64::from(SIGN)) * COUNT_INSTRUCTIONS)
}
