//! Exits and entries as tagged objects.

use napi::bindgen_prelude::{BigInt, Uint8Array};
use napi_derive::napi;
use squib_core::{ErrorCode, ExitData, MsrReason, SystemEventKind, VmEntry, VmExit};

use crate::error::{Result, refuse};
use crate::number::word;

/// Most bytes of one access. An entry with more cannot answer any exit.
const MAX_ACCESS: usize = 8;

/// Why a vCPU came back: `squib_core::VmExit` as a union of objects told apart by `kind`.
#[napi(js_name = "VmExit", discriminant = "kind", discriminant_case = "camelCase", object_from_js = false)]
pub enum JsExit {
    /// The guest accessed guest-physical memory that no RAM and no device claims.
    Mmio {
        /// Guest-physical address of the first byte.
        addr: u64,
        /// Whether the guest wrote; else it reads and waits for a `read` entry.
        write: bool,
        /// What the guest wrote, or as many zero bytes as it wants to read.
        data: Uint8Array,
    },
    /// The guest accessed an I/O port that no device claims.
    Pio {
        /// Port number.
        port: u16,
        /// Whether the guest wrote; else it reads and waits for a `read` entry.
        write: bool,
        /// What the guest wrote, or as many zero bytes as it wants to read: 1, 2 or 4.
        data: Uint8Array,
    },
    /// The guest asked its hypervisor for something; a `hypercall` entry answers.
    Hypercall {
        /// Function number; on aarch64 X0.
        func: u64,
        /// The six argument registers; on aarch64 X1 to X6.
        args: Vec<u64>,
    },
    /// `WFI`: the vCPU waits for an interrupt.
    Wfi,
    /// `WFE`: the vCPU waits for an event.
    Wfe,
    /// `HLT`: the vCPU waits for an interrupt.
    Hlt,
    /// The guest asked for a system reset.
    Reset,
    /// The guest powered itself off.
    Shutdown,
    /// A breakpoint or single step that the debugger asked for.
    Debug {
        /// Address of the instruction.
        pc: u64,
        /// DR6 in the low, the exception vector in the high 32 bits; on aarch64 ESR_ELx.
        syndrome: u64,
    },
    /// The hypervisor failed; the VM is lost.
    InternalError {
        /// For people.
        message: String,
    },
    /// The vCPU was cancelled. The next run goes on where this one stopped.
    Cancelled,
    /// A `complete` entry has been carried out.
    Completed,
    /// The instruction budget is used up.
    BudgetSpent,
    /// The guest read a model-specific register; an `msr` or `msrFault` entry answers.
    MsrRead {
        /// Register index.
        index: u32,
        /// Why it came here.
        #[napi(ts_type = "MsrReason")]
        reason: JsMsrReason,
    },
    /// The guest wrote a model-specific register; a `resume` or `msrFault` entry answers.
    MsrWrite {
        /// Register index.
        index: u32,
        /// The value.
        value: u64,
        /// Why it came here.
        #[napi(ts_type = "MsrReason")]
        reason: JsMsrReason,
    },
    /// A level-triggered interrupt was acknowledged.
    Eoi {
        /// The vector that ended.
        vector: u8,
    },
    /// The guest can take an external interrupt now.
    InterruptWindow,
    /// The guest's exception handling failed three deep.
    TripleFault,
    /// An access that the backend could neither map nor emulate.
    MemoryFault {
        /// First guest-physical address.
        addr: u64,
        /// Length in bytes.
        size: u64,
        /// The backend's own flags.
        flags: u64,
    },
    /// The dirty ring must be harvested.
    DirtyRingFull,
    /// The platform's firmware interface was used.
    SystemEvent {
        /// What happened.
        #[napi(ts_type = "SystemEventKind")]
        event: JsSystemEvent,
        /// The backend's number of an event that has no name; else 0.
        number: u32,
        /// Further words that came with it.
        data: Vec<u64>,
    },
    /// The processor refused the vCPU's state.
    FailedEntry {
        /// Reason as the hardware gives it.
        reason: u64,
        /// Number of the host CPU.
        cpu: u32,
    },
    /// Guest behaviour that the backend says it does not support.
    Unsupported {
        /// For people.
        what: String,
        /// Address of the instruction.
        rip: u64,
    },
    /// An exit that this version does not know.
    Unknown {
        /// The backend's number for it.
        reason: u32,
    },
}

impl From<VmExit> for JsExit {
    fn from(exit: VmExit) -> Self {
        match exit {
            VmExit::Mmio { addr, write, data } => Self::Mmio { addr, write, data: bytes(&data) },
            VmExit::Pio { port, write, data } => Self::Pio { port, write, data: bytes(&data) },
            VmExit::Hypercall { func, args } => Self::Hypercall { func, args: args.to_vec() },
            VmExit::Wfi => Self::Wfi,
            VmExit::Wfe => Self::Wfe,
            VmExit::Hlt => Self::Hlt,
            VmExit::Reset => Self::Reset,
            VmExit::Shutdown => Self::Shutdown,
            VmExit::Debug(info) => Self::Debug { pc: info.pc, syndrome: info.syndrome },
            VmExit::InternalError(message) => Self::InternalError { message },
            VmExit::Cancelled => Self::Cancelled,
            VmExit::Completed => Self::Completed,
            VmExit::BudgetSpent => Self::BudgetSpent,
            VmExit::MsrRead { index, reason } => Self::MsrRead { index, reason: reason.into() },
            VmExit::MsrWrite { index, value, reason } => {
                Self::MsrWrite { index, value, reason: reason.into() }
            }
            VmExit::Eoi { vector } => Self::Eoi { vector },
            VmExit::InterruptWindow => Self::InterruptWindow,
            VmExit::TripleFault => Self::TripleFault,
            VmExit::MemoryFault { addr, size, flags } => Self::MemoryFault { addr, size, flags },
            VmExit::DirtyRingFull => Self::DirtyRingFull,
            VmExit::SystemEvent { kind, data } => {
                let number = if let SystemEventKind::Other(number) = kind { number } else { 0 };
                Self::SystemEvent { event: kind.into(), number, data: data.to_vec() }
            }
            VmExit::FailedEntry { reason, cpu } => Self::FailedEntry { reason, cpu },
            VmExit::Unsupported { what, rip } => Self::Unsupported { what, rip },
            VmExit::Unknown { reason } => Self::Unknown { reason },
            other => {
                Self::InternalError { message: format!("the binding has no name for the exit {other:?}") }
            }
        }
    }
}

fn bytes(data: &ExitData) -> Uint8Array {
    Uint8Array::with_data_copied(data)
}

/// Why a model-specific-register access left the backend.
#[napi(js_name = "MsrReason", string_enum = "lowercase")]
#[derive(Debug)]
pub enum JsMsrReason {
    /// The backend does not know the register.
    Unknown,
    /// The backend knows it, but the access is invalid.
    Invalid,
    /// A filter sent it here.
    Filter,
}

impl From<MsrReason> for JsMsrReason {
    fn from(reason: MsrReason) -> Self {
        match reason {
            MsrReason::Invalid => Self::Invalid,
            MsrReason::Filter => Self::Filter,
            _ => Self::Unknown,
        }
    }
}

/// What a system event is about.
#[napi(js_name = "SystemEventKind", string_enum = "lowercase")]
#[derive(Debug)]
pub enum JsSystemEvent {
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
    Other,
}

impl From<SystemEventKind> for JsSystemEvent {
    fn from(kind: SystemEventKind) -> Self {
        match kind {
            SystemEventKind::Shutdown => Self::Shutdown,
            SystemEventKind::Reset => Self::Reset,
            SystemEventKind::Crash => Self::Crash,
            SystemEventKind::Wakeup => Self::Wakeup,
            SystemEventKind::Suspend => Self::Suspend,
            _ => Self::Other,
        }
    }
}

/// The answer to the last exit: `squib_core::VmEntry` as a union of objects told apart by `kind`.
#[napi(js_name = "VmEntry", discriminant = "kind", discriminant_case = "camelCase", object_to_js = false)]
pub enum JsEntry {
    /// Go on. An unanswered read completes with all bits set.
    Resume,
    /// The bytes that a read asked for, of exactly that length.
    Read {
        /// The bytes, little-endian.
        data: Uint8Array,
    },
    /// The return value of a hypercall.
    Hypercall {
        /// Goes into the return register.
        value: BigInt,
    },
    /// The value of the register that `msrRead` asked for.
    Msr {
        /// Goes into EDX:EAX.
        value: BigInt,
    },
    /// The MSR access raises #GP(0).
    MsrFault,
    /// Finish the last access without running a further instruction; the exit is `completed`.
    Complete {
        /// The answer, where the access is a read.
        data: Option<Uint8Array>,
    },
}

impl JsEntry {
    /// The entry for a vCPU.
    ///
    /// # Errors
    /// `BadEntry` for more bytes than any access has or a value that 64 bits cannot hold.
    pub(crate) fn into_entry(self) -> Result<VmEntry> {
        Ok(match self {
            Self::Resume => VmEntry::Resume,
            Self::Read { data } => VmEntry::Read(exit_data(&data)?),
            Self::Hypercall { value } => VmEntry::Hypercall(word(&value, ErrorCode::BadEntry)?),
            Self::Msr { value } => VmEntry::Msr(word(&value, ErrorCode::BadEntry)?),
            Self::MsrFault => VmEntry::MsrFault,
            Self::Complete { data } => VmEntry::Complete(data.map(|d| exit_data(&d)).transpose()?),
        })
    }
}

fn exit_data(data: &[u8]) -> Result<ExitData> {
    if data.len() > MAX_ACCESS {
        let message = format!("an access has at most {MAX_ACCESS} bytes, and this answer has {}", data.len());
        return refuse(ErrorCode::BadEntry, message);
    }
    Ok(ExitData::from_slice(data))
}
