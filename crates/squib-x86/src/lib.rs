//! What x86-64 instructions mean, written once for every tier.
//!
//! - [`insn`] decodes bytes into an [`Insn`](insn::Insn).
//! - [`sem`] says what each instruction does, as functions generic over an [`Emit`](emit::Emit)ter: the
//!   interpreter's emitter does it at once, the [`listing`] emitter writes it down, a compiler's makes code of it.
//! - [`system`] holds the rare and ugly instructions, shared by all tiers as helpers over an [`Env`](env::Env).
//! - [`simd`], [`fp`] and [`x87`] are the arithmetic that integers do not have.
//!
//! See `docs/design/meaning.md`.

pub mod address;
pub mod decimal;
pub mod emit;
pub mod env;
pub mod fault;
pub mod flags;
pub mod float;
pub mod fp;
pub mod helper;
pub mod insn;
pub mod listing;
pub mod model;
pub mod offer;
pub mod sem;
pub mod simd;
pub mod size;
pub mod state;
pub mod string;
pub mod system;
pub mod x87;

pub use fault::{Exception, Stop};
pub use flags::{Cond, FlagOp, LazyFlags};
pub use size::Size;
pub use state::{CodeMode, CpuState};
