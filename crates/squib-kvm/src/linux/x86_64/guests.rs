//! What a probe runs and asks for.

use std::sync::Arc;

use kvm_bindings::*;
use squib_core::x86::{Registers, Segment, SystemRegisters, bits};
use squib_core::{GuestMemory, Result, Vcpu, VmExit};

const CODE: u64 = 0x1000;
const PAGE_TABLES: [u64; 3] = [0x2000, 0x3000, 0x4000];
const MEMORY: u64 = 0x8000;
const PORT: u8 = 0x80;
/// What the guests write to [`PORT`].
const SIGN: u8 = 0x2a;

/// `mov al, SIGN; out PORT, al`, the same in real and 64-bit mode.
const WRITE_SIGN: [u8; 4] = [0xb0, SIGN, 0xe6, PORT];
/// `pxor xmm0, xmm0`, and then the sign.
const SSE: [u8; 8] = [0x66, 0x0f, 0xef, 0xc0, 0xb0, SIGN, 0xe6, PORT];
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
    mode: Mode,
    code: &'static [u8],
}

#[derive(Clone, Copy)]
enum Mode {
    Real,
    Long,
}

/// What is tried, in order.
pub(in crate::linux) const PROGRAMS: [Program; 3] = [
    Program {
        name: "run real-mode code",
        guest: "a real-mode guest",
        at_speed: false,
        mode: Mode::Real,
        code: &WRITE_SIGN,
    },
    Program {
        name: "run 64-bit code",
        guest: "a 64-bit guest",
        at_speed: false,
        mode: Mode::Long,
        code: &WRITE_SIGN,
    },
    Program {
        name: "run SSE instructions",
        guest: "a 64-bit guest with SSE",
        at_speed: true,
        mode: Mode::Long,
        code: &SSE,
    },
];

/// `inc rax; jmp` back to it.
pub(in crate::linux) const COUNT: Program = Program {
    name: "count",
    guest: "a 64-bit guest",
    at_speed: true,
    mode: Mode::Long,
    code: &[0x48, 0xff, 0xc0, 0xeb, 0xfb],
};

/// The kernel's capabilities that a report tells of.
pub(in crate::linux) const CAPABILITIES: [(&str, u32); 34] = [
    ("COALESCED_MMIO", KVM_CAP_COALESCED_MMIO),
    ("COALESCED_PIO", KVM_CAP_COALESCED_PIO),
    ("DEBUGREGS", KVM_CAP_DEBUGREGS),
    ("DIRTY_LOG_RING", KVM_CAP_DIRTY_LOG_RING),
    ("DIRTY_LOG_RING_ACQ_REL", KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
    ("EXIT_HYPERCALL", KVM_CAP_EXIT_HYPERCALL),
    ("EXT_CPUID", KVM_CAP_EXT_CPUID),
    ("GET_TSC_KHZ", KVM_CAP_GET_TSC_KHZ),
    ("IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT),
    ("IOEVENTFD", KVM_CAP_IOEVENTFD),
    ("IRQCHIP", KVM_CAP_IRQCHIP),
    ("IRQFD", KVM_CAP_IRQFD),
    ("IRQ_ROUTING", KVM_CAP_IRQ_ROUTING),
    ("MAX_VCPUS", KVM_CAP_MAX_VCPUS),
    ("MEMORY_FAULT_INFO", KVM_CAP_MEMORY_FAULT_INFO),
    ("MP_STATE", KVM_CAP_MP_STATE),
    ("NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS),
    ("PIT2", KVM_CAP_PIT2),
    ("READONLY_MEM", KVM_CAP_READONLY_MEM),
    ("SET_GUEST_DEBUG", KVM_CAP_SET_GUEST_DEBUG),
    ("SET_IDENTITY_MAP_ADDR", KVM_CAP_SET_IDENTITY_MAP_ADDR),
    ("SET_TSS_ADDR", KVM_CAP_SET_TSS_ADDR),
    ("SIGNAL_MSI", KVM_CAP_SIGNAL_MSI),
    ("SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP),
    ("SYNC_REGS", KVM_CAP_SYNC_REGS),
    ("SYSTEM_EVENT_DATA", KVM_CAP_SYSTEM_EVENT_DATA),
    ("TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER),
    ("USER_MEMORY", KVM_CAP_USER_MEMORY),
    ("USER_NMI", KVM_CAP_USER_NMI),
    ("VCPU_EVENTS", KVM_CAP_VCPU_EVENTS),
    ("X86_USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR),
    ("XCRS", KVM_CAP_XCRS),
    ("XSAVE", KVM_CAP_XSAVE),
    ("XSAVE2", KVM_CAP_XSAVE2),
];

/// RAM with page tables in it.
pub(in crate::linux) fn memory() -> Result<Arc<GuestMemory>> {
    let memory = GuestMemory::new(MEMORY)?;
    let [pml4, pdpt, directory] = PAGE_TABLES;
    // Present and writable; the last maps 2 MiB one to one.
    for (at, entry) in [(pml4, pdpt | 3), (pdpt, directory | 3), (directory, 0x83)] {
        memory.write(at, &entry.to_le_bytes())?;
    }
    Ok(memory)
}

/// Puts the vCPU at the start of `program`.
pub(in crate::linux) fn enter(memory: &GuestMemory, vcpu: &mut dyn Vcpu, program: &Program) -> Result<()> {
    memory.write(CODE, program.code)?;
    let x86 = vcpu.x86()?;
    let mut system = x86.system_registers()?;
    match program.mode {
        Mode::Real => system.cs = Segment::real_mode(0),
        Mode::Long => enter_long_mode(&mut system, PAGE_TABLES[0]),
    }
    x86.set_system_registers(&system)?;
    x86.set_registers(&Registers { rip: CODE, rflags: bits::RFLAGS_FIXED, ..Registers::default() })
}

/// Whether this is how a program says that it has run.
pub(in crate::linux) fn is_sign(exit: &VmExit) -> bool {
    matches!(exit, VmExit::Pio { port, write: true, data } if *port == u16::from(PORT) && data[..] == [SIGN])
}

/// Instructions that [`COUNT`] has executed.
pub(in crate::linux) fn counted(vcpu: &mut dyn Vcpu) -> Result<u64> {
    Ok(vcpu.x86()?.registers()?.rax * COUNT_INSTRUCTIONS)
}

fn enter_long_mode(system: &mut SystemRegisters, page_table: u64) {
    system.cs = Segment::flat_code(8, true);
    for segment in [&mut system.ds, &mut system.es, &mut system.fs, &mut system.gs, &mut system.ss] {
        *segment = Segment::flat_data(16);
    }
    system.cr0 = bits::CR0_PE | bits::CR0_MP | bits::CR0_ET | bits::CR0_NE | bits::CR0_PG;
    system.cr3 = page_table;
    system.cr4 = bits::CR4_PAE | bits::CR4_OSFXSR | bits::CR4_OSXMMEXCPT;
    system.efer = bits::EFER_LME | bits::EFER_LMA;
}
