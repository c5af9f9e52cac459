//! squib's CPU against the host's.
//!
//! [`generate`] makes random instructions with random operands, alone and in short sequences, of the [`forms`] that both
//! processors have ([`features`]). A [`case::Case`] runs on the host CPU ([`host`]) and on backends ([`guest`]), in the same
//! address space with the same descriptors ([`layout`]); [`compare`] says where what they leave differs, but for what the
//! manuals leave undefined ([`undefined`]) and what is AMD's choice ([`vendor`]) in the instructions that have run
//! ([`mod@trace`]). [`mod@bench`] does so for one case, [`campaign`] for many; [`shrink`] makes a failing case small.
//! [`suite`] runs the test files on every tier, and [`vectors`] plays what a host once said.
//!
//! See `docs/conformance.md`.

pub mod bench;
pub mod campaign;
pub mod case;
pub mod compare;
pub mod features;
pub mod forms;
pub mod generate;
pub mod guest;
pub mod host;
pub mod layout;
pub mod random;
pub mod report;
pub mod shrink;
pub mod state;
pub mod suite;
pub mod system;
pub mod trace;
pub mod undefined;
mod values;
pub mod vectors;
pub mod vendor;
