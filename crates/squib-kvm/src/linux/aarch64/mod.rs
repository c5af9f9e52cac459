//! aarch64: what its hosts offer, the GIC that KVM has inside, registers, and what a probe runs.

mod board;
#[cfg(feature = "gdb")]
mod debug;
pub(super) mod guests;
mod host;
mod registers;
mod state;
mod vcpu;

pub(super) use board::Board;
pub(super) use host::{Host, NEEDED, capabilities, create_vm};
pub(super) use vcpu::{NO_SUCH_HYPERCALL, State, debug_info, program_counter};
