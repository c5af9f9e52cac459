//! Exits and entries: what a vCPU returns, and what it is answered.
//!
//! [`VmExit`] is the one vocabulary of every backend. A backend decodes its native exit into it; the run
//! loop in `squib-vmm` routes it to a device and answers with a [`VmEntry`]. See `docs/design/exits.md`.

use smallvec::SmallVec;

/// The payload of a port or memory-mapped access. Up to 8 bytes stay inline, which covers every access
/// that one instruction makes on the supported architectures.
pub type ExitData = SmallVec<[u8; 8]>;

/// The low `width` bytes of `value`, at most 8, as an access carries them.
#[inline]
pub fn exit_data(value: u64, width: usize) -> ExitData {
    ExitData::from_buf_and_len(value.to_le_bytes(), width.min(8))
}

/// The number that the 1 to 8 bytes of an access are; `None` of no bytes, or more.
///
/// Every write comes through here, so it has no call, as a copy of some length would be, and no jump through a table.
#[inline]
pub fn exit_value(data: &[u8]) -> Option<u64> {
    let len = data.len();
    // What most devices' registers are wide.
    if let [byte] = data {
        return Some((*byte).into());
    }
    if let Ok(word) = data.try_into() {
        return Some(u32::from_le_bytes(word).into());
    }
    let place = |index: usize| 8 * (index as u32 & 7);
    match (data.first_chunk(), data.last_chunk()) {
        // Two halves, which overlap in what is shorter than 8 bytes.
        (Some(low), Some(high)) if len <= 8 => {
            let (low, high) = (u32::from_le_bytes(*low), u32::from_le_bytes(*high));
            Some(u64::from(low) | u64::from(high) << place(len - 4))
        }
        (None, None) => {
            let byte = |index: usize| data.get(index).map(|byte| u64::from(*byte) << place(index));
            Some(byte(0)? | byte(len / 2)? | byte(len - 1)?)
        }
        _ => None,
    }
}

/// Why a vCPU came back from [`Vcpu::run`](crate::Vcpu::run).
///
/// The variants up to [`VmExit::InternalError`] are the portable core. Those after it carry what real
/// hypervisors additionally report; which of them a backend produces is listed in
/// [`BackendCapabilities::exits`](crate::BackendCapabilities::exits).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum VmExit {
    /// The guest accessed guest-physical memory that no RAM backs.
    Mmio {
        /// Guest-physical address of the first byte.
        addr: u64,
        /// `true` when the guest wrote, `false` when it reads and waits for [`VmEntry::Read`].
        write: bool,
        /// 1 to 8 bytes, little-endian: what the guest wrote, or as many zero bytes as it wants to read.
        data: ExitData,
    },

    /// The guest accessed an I/O port. Only x86 has ports.
    Pio {
        /// Port number.
        port: u16,
        /// `true` for `OUT`, `false` for `IN`, which waits for [`VmEntry::Read`].
        write: bool,
        /// 1, 2 or 4 bytes, little-endian. A string instruction makes one exit for each element.
        data: ExitData,
    },

    /// The guest asked its hypervisor for something: `VMCALL`/`VMMCALL` on x86, `HVC` on aarch64. The
    /// answer goes back in [`VmEntry::Hypercall`].
    Hypercall {
        /// Function number (RAX on x86, X0 on aarch64).
        func: u64,
        /// Argument registers in the order of the calling convention, unused ones zero.
        args: [u64; 6],
    },

    /// `WFI`: the vCPU has nothing to do until an interrupt.
    Wfi,
    /// `WFE`: the vCPU has nothing to do until an event.
    Wfe,
    /// `HLT`: the vCPU has nothing to do until an interrupt.
    Hlt,
    /// The guest asked for a system reset.
    Reset,
    /// The guest powered itself off.
    Shutdown,

    /// A breakpoint or single step that the debugger, not the guest, asked for.
    Debug(DebugInfo),

    /// The hypervisor failed in a way that no other variant describes. The text is for people; a program
    /// treats the VM as lost.
    InternalError(String),

    /// [`CancelHandle::cancel`](crate::CancelHandle::cancel) was called. Guest state is consistent, and the
    /// next `run` goes on where this one stopped.
    Cancelled,

    /// A [`VmEntry::Complete`] has been carried out: the access is finished, no further instruction ran.
    Completed,

    /// The instruction budget set by [`Vcpu::set_budget`](crate::Vcpu::set_budget) is used up.
    BudgetSpent,

    /// The guest read a model-specific register that the backend leaves to the user. Answered by
    /// [`VmEntry::Msr`] or [`VmEntry::MsrFault`].
    MsrRead {
        /// Register index (ECX).
        index: u32,
        /// Why it came here.
        reason: MsrReason,
    },

    /// The guest wrote a model-specific register that the backend leaves to the user. Answered by
    /// [`VmEntry::Resume`] or [`VmEntry::MsrFault`].
    MsrWrite {
        /// Register index (ECX).
        index: u32,
        /// The value in EDX:EAX.
        value: u64,
        /// Why it came here.
        reason: MsrReason,
    },

    /// A level-triggered interrupt was acknowledged, and the I/O APIC outside the backend must hear of it.
    Eoi {
        /// The vector that ended.
        vector: u8,
    },

    /// The guest can take an external interrupt now; asked for with
    /// [`Vcpu::request_interrupt_window`](crate::Vcpu::request_interrupt_window).
    InterruptWindow,

    /// The guest's exception handling failed three deep (Intel SDM vol. 3, 6.15 "Interrupt 8"). Hardware
    /// would reset; whether to do so is the run loop's decision.
    TripleFault,

    /// An access that the backend could neither map nor emulate.
    MemoryFault {
        /// First guest-physical address.
        addr: u64,
        /// Length in bytes.
        size: u64,
        /// The backend's own flags, unchanged.
        flags: u64,
    },

    /// The dirty ring must be harvested before the vCPU can go on.
    DirtyRingFull,

    /// The platform firmware interface was used (PSCI, KVM's system events).
    SystemEvent {
        /// What happened.
        kind: SystemEventKind,
        /// Further words that came with it.
        data: SmallVec<[u64; 2]>,
    },

    /// The processor refused the vCPU's state.
    FailedEntry {
        /// Reason as the hardware gives it.
        reason: u64,
        /// Number of the host CPU that refused.
        cpu: u32,
    },

    /// The backend met guest behaviour that it says it does not support.
    Unsupported {
        /// What it was, for people.
        what: String,
        /// Address of the instruction.
        rip: u64,
    },

    /// An exit that this version does not know, by its native number.
    Unknown {
        /// The backend's number for it.
        reason: u32,
    },
}

/// What a debug exit says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DebugInfo {
    /// Address of the instruction at which the vCPU stopped.
    pub pc: u64,
    /// Architecture-specific syndrome: DR6 in the low and the exception vector in the high 32 bits on x86,
    /// ESR_ELx on aarch64.
    pub syndrome: u64,
}

impl DebugInfo {
    /// A debug exit at `pc`.
    pub fn new(pc: u64, syndrome: u64) -> Self {
        Self { pc, syndrome }
    }
}

/// Why a model-specific-register access left the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MsrReason {
    /// The backend does not know the register.
    Unknown,
    /// The backend knows it, but the access is invalid.
    Invalid,
    /// A filter set by the user sent it here.
    Filter,
}

/// What a [`VmExit::SystemEvent`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SystemEventKind {
    /// Power off.
    Shutdown,
    /// Reset.
    Reset,
    /// The guest says that it crashed.
    Crash,
    /// The guest wants to be woken.
    Wakeup,
    /// Suspend to memory.
    Suspend,
    /// Any other, by number.
    Other(u32),
}

/// The answer to the last exit, given to [`Vcpu::run`](crate::Vcpu::run).
///
/// A backend that waits for one answer and is given another returns
/// [`ErrorCode::BadEntry`](crate::ErrorCode::BadEntry) and stays as it was, so the caller can try again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmEntry {
    /// Nothing to say: go on. An unanswered read completes with all bits set, as an empty bus does.
    Resume,
    /// The bytes that a [`VmExit::Mmio`] or [`VmExit::Pio`] read asked for, of exactly that length.
    Read(ExitData),
    /// The return value of a [`VmExit::Hypercall`].
    Hypercall(u64),
    /// The value of the register that [`VmExit::MsrRead`] asked for.
    Msr(u64),
    /// The MSR access of the last exit raises #GP(0).
    MsrFault,
    /// Finish the last access with what its device has answered, run no further instruction, and return
    /// [`VmExit::Completed`]. Needed before a pause or a snapshot: until then half an instruction is
    /// outside of the registers. If the instruction's access has further parts (it crosses a page, or is a
    /// string), the next is returned as its exit instead; answer that with `Complete` too.
    Complete(Option<ExitData>),
}

/// The kind of an exit without its payload: index of statistics and capability sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum ExitKind {
    /// See [`VmExit::Mmio`].
    Mmio,
    /// See [`VmExit::Pio`].
    Pio,
    /// See [`VmExit::Hypercall`].
    Hypercall,
    /// See [`VmExit::Wfi`].
    Wfi,
    /// See [`VmExit::Wfe`].
    Wfe,
    /// See [`VmExit::Hlt`].
    Hlt,
    /// See [`VmExit::Reset`].
    Reset,
    /// See [`VmExit::Shutdown`].
    Shutdown,
    /// See [`VmExit::Debug`].
    Debug,
    /// See [`VmExit::InternalError`].
    InternalError,
    /// See [`VmExit::Cancelled`].
    Cancelled,
    /// See [`VmExit::Completed`].
    Completed,
    /// See [`VmExit::BudgetSpent`].
    BudgetSpent,
    /// See [`VmExit::MsrRead`].
    MsrRead,
    /// See [`VmExit::MsrWrite`].
    MsrWrite,
    /// See [`VmExit::Eoi`].
    Eoi,
    /// See [`VmExit::InterruptWindow`].
    InterruptWindow,
    /// See [`VmExit::TripleFault`].
    TripleFault,
    /// See [`VmExit::MemoryFault`].
    MemoryFault,
    /// See [`VmExit::DirtyRingFull`].
    DirtyRingFull,
    /// See [`VmExit::SystemEvent`].
    SystemEvent,
    /// See [`VmExit::FailedEntry`].
    FailedEntry,
    /// See [`VmExit::Unsupported`].
    Unsupported,
    /// See [`VmExit::Unknown`].
    Unknown,
}

impl ExitKind {
    /// Every kind, in order of its number.
    pub const ALL: [Self; 24] = [
        Self::Mmio,
        Self::Pio,
        Self::Hypercall,
        Self::Wfi,
        Self::Wfe,
        Self::Hlt,
        Self::Reset,
        Self::Shutdown,
        Self::Debug,
        Self::InternalError,
        Self::Cancelled,
        Self::Completed,
        Self::BudgetSpent,
        Self::MsrRead,
        Self::MsrWrite,
        Self::Eoi,
        Self::InterruptWindow,
        Self::TripleFault,
        Self::MemoryFault,
        Self::DirtyRingFull,
        Self::SystemEvent,
        Self::FailedEntry,
        Self::Unsupported,
        Self::Unknown,
    ];

    /// The tag that TypeScript and `--stats` use: lower camel case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mmio => "mmio",
            Self::Pio => "pio",
            Self::Hypercall => "hypercall",
            Self::Wfi => "wfi",
            Self::Wfe => "wfe",
            Self::Hlt => "hlt",
            Self::Reset => "reset",
            Self::Shutdown => "shutdown",
            Self::Debug => "debug",
            Self::InternalError => "internalError",
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
            Self::BudgetSpent => "budgetSpent",
            Self::MsrRead => "msrRead",
            Self::MsrWrite => "msrWrite",
            Self::Eoi => "eoi",
            Self::InterruptWindow => "interruptWindow",
            Self::TripleFault => "tripleFault",
            Self::MemoryFault => "memoryFault",
            Self::DirtyRingFull => "dirtyRingFull",
            Self::SystemEvent => "systemEvent",
            Self::FailedEntry => "failedEntry",
            Self::Unsupported => "unsupported",
            Self::Unknown => "unknown",
        }
    }
}

impl VmExit {
    /// This exit's kind.
    pub const fn kind(&self) -> ExitKind {
        match self {
            Self::Mmio { .. } => ExitKind::Mmio,
            Self::Pio { .. } => ExitKind::Pio,
            Self::Hypercall { .. } => ExitKind::Hypercall,
            Self::Wfi => ExitKind::Wfi,
            Self::Wfe => ExitKind::Wfe,
            Self::Hlt => ExitKind::Hlt,
            Self::Reset => ExitKind::Reset,
            Self::Shutdown => ExitKind::Shutdown,
            Self::Debug(_) => ExitKind::Debug,
            Self::InternalError(_) => ExitKind::InternalError,
            Self::Cancelled => ExitKind::Cancelled,
            Self::Completed => ExitKind::Completed,
            Self::BudgetSpent => ExitKind::BudgetSpent,
            Self::MsrRead { .. } => ExitKind::MsrRead,
            Self::MsrWrite { .. } => ExitKind::MsrWrite,
            Self::Eoi { .. } => ExitKind::Eoi,
            Self::InterruptWindow => ExitKind::InterruptWindow,
            Self::TripleFault => ExitKind::TripleFault,
            Self::MemoryFault { .. } => ExitKind::MemoryFault,
            Self::DirtyRingFull => ExitKind::DirtyRingFull,
            Self::SystemEvent { .. } => ExitKind::SystemEvent,
            Self::FailedEntry { .. } => ExitKind::FailedEntry,
            Self::Unsupported { .. } => ExitKind::Unsupported,
            Self::Unknown { .. } => ExitKind::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_one_access_stay_inline() {
        for len in 1..=8 {
            assert!(!ExitData::from_elem(0xab, len).spilled());
        }
    }

    #[test]
    fn payloads_are_little_endian_numbers() {
        let value = 0x8877_6655_4433_2211;
        for width in 1..=8 {
            let data = exit_data(value, width);
            assert_eq!(data[..], value.to_le_bytes()[..width]);
            assert_eq!(exit_value(&data), Some(value & u64::MAX >> (64 - 8 * width)));
        }
        assert_eq!((exit_data(value, 0).len(), exit_data(value, 9).len()), (0, 8));
        assert_eq!((exit_value(&[]), exit_value(&[0; 9])), (None, None));
    }

    #[test]
    fn exits_clone_and_print() {
        let exit = VmExit::Debug(DebugInfo::new(0x1000, 1));
        assert_eq!(format!("{:?}", exit.clone()), "Debug(DebugInfo { pc: 4096, syndrome: 1 })");
    }

    #[test]
    fn kinds_are_numbered_in_order_and_named_once() {
        for (i, kind) in ExitKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, i);
            assert_eq!(ExitKind::ALL.iter().filter(|k| k.name() == kind.name()).count(), 1);
        }
    }

    #[test]
    fn an_exit_fits_in_a_cache_line() {
        assert!(size_of::<VmExit>() <= 64, "{}", size_of::<VmExit>());
    }
}
