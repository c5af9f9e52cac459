//! The rare and ugly instructions: what all tiers call as helpers.
//!
//! Every function is one instruction or one event, generic over [`Env`]. The conventions:
//!
//! - **Nothing before the last fault.** `Err(Stop)` leaves the guest's state as it was, except for accessed and
//!   dirty bits in page tables and accessed bits in descriptors, which hardware sets early too.
//! - **RIP.** `state.rip` is not read. A function that needs the address of the following instruction takes it as
//!   `next_rip`, [`interrupt::raise`] takes that of the instruction at fault. A function that transfers control
//!   sets `state.rip`; every other one leaves it to the caller.
//! - **Privilege.** The functions check CPL, mode and CPUID bits themselves, with the #UD, #NM or #GP that the
//!   manual gives. LOCK prefixes and operand forms that do not exist are the decoder's business.
//! - **Changed modes.** A function that changes privilege, paging, or how code is decoded calls
//!   [`Env::mode_changed`]; one that may have unblocked an interrupt calls
//!   [`Env::leave`]`(`[`Leave::Recheck`]`)`.
//! - **Memory operands** arrive as linear addresses whose segment limits the caller has checked; stacks and
//!   tables are checked here.
//!
//! Sources: Intel SDM vol. 2 (each instruction's "Operation" and exceptions) and vol. 3; where processors of
//! different makers differ, Intel's way, since that is who CPUID names.
//!
//! Left out, as [`Leave::Unsupported`]: hardware task switches and virtual-8086
//! mode. No 64-bit system uses them.

pub mod bits;
pub mod control;
pub mod cpuid;
pub mod debug;
mod descriptor;
pub mod far;
pub mod interrupt;
pub mod io;
pub mod iret;
pub mod keys;
pub mod msr;
pub mod paging;
pub mod privileged;
pub mod rflags;
pub mod segment;
mod stack;
pub mod syscall;
pub mod tables;
pub mod tlb;
pub mod tsc;
pub mod xsave;

#[cfg(test)]
pub(crate) mod mock;
#[cfg(test)]
mod random;

use crate::env::{Env, Leave};
use crate::fault::Stop;

/// Whether a linear address is canonical: bits 47 to 63 are equal (Intel SDM vol. 1, 3.3.7.1).
#[inline(always)]
pub const fn is_canonical(addr: u64) -> bool {
    ((addr << 16) as i64 >> 16) as u64 == addr
}

/// Gives up on something that this CPU documents as unsupported.
fn unsupported<E: Env + ?Sized>(env: &mut E, what: &'static str) -> Stop {
    env.leave(Leave::Unsupported(what));
    Stop::Exit
}
