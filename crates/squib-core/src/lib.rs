//! The portable exit enum, the backend traits, guest memory, registers and errors of squib.
//!
//! Everything else in the workspace depends on this crate, and this crate on no other. It touches no
//! operating-system facility: time, randomness and waiting come in through [`host`].

pub mod arm64;
pub mod backend;
pub mod coalesced;
pub mod doorbell;
pub mod error;
pub mod exit;
pub mod host;
pub mod interrupt;
pub mod memory;
pub mod x86;

pub use backend::{
    Architecture, BackendCapabilities, BackendKind, CancelHandle, DebugStops, DirtyTracking, ExitSet,
    HypervisorBackend, IrqchipKind, Vcpu, Vm, VmConfig,
};
pub use coalesced::CoalescedWrites;
pub use doorbell::{AddressSpace, Attachment, Doorbell, DoorbellRegister};
pub use error::{Error, ErrorCode, Result};
pub use exit::{
    DebugInfo, ExitData, ExitKind, MsrReason, SystemEventKind, VmEntry, VmExit, exit_data, exit_value,
};
pub use host::{Clock, Entropy, Waker};
pub use interrupt::{InterruptSource, InterruptTrigger};
pub use memory::{CodeWriteObserver, GuestMemory, Region};
