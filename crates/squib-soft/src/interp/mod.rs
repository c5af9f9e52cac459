//! The interpreter: threaded handlers over dense operations.
//!
//! [`emitter`] gives the vocabulary of meaning its interpretation; [`handlers`] are that meaning, instantiated for
//! the forms and sizes that programs are made of; [`select`] chooses one for a decoded instruction, and what it does
//! not know runs by the full description.

pub mod emitter;
pub mod handlers;
pub mod select;
