//! x86-64: what its hosts offer, the board that KVM has inside, registers, CPUID, and what a probe runs.

mod board;
mod cpuid;
#[cfg(feature = "gdb")]
mod debug;
pub(super) mod guests;
mod host;
mod ioeoi;
mod routes;
mod state;
mod sync_regs;
mod sys;
mod vcpu;

pub(super) use board::Board;
pub(super) use host::{Host, NEEDED, capabilities, create_vm};
pub(super) use vcpu::{NO_SUCH_HYPERCALL, State, debug_info, program_counter};
