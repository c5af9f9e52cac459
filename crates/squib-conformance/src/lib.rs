//! squib's CPU against the host's.
//!
//! [`generate`] makes random instructions with random operands, alone and in short sequences. A [`case::Case`] runs on
//! the host CPU ([`host`]) and on the soft backend ([`soft`]), by its specialised paths and without them, in the same
//! address space ([`layout`]); [`compare`] says where what they leave differs, but for what the manuals leave undefined
//! ([`undefined`]). [`shrink`] makes a failing case small, and [`case`] prints it as one line that can be run again.
//!
//! See `docs/conformance.md`.

pub mod campaign;
pub mod case;
pub mod compare;
pub mod forms;
pub mod generate;
pub mod host;
pub mod layout;
pub mod random;
pub mod shrink;
pub mod soft;
pub mod state;
pub mod undefined;
mod values;
