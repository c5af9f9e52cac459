//! Bits of control registers that only this crate needs; the others are in [`squib_core::x86::bits`].
#![expect(missing_docs, reason = "named as in the manual")]

pub const CR4_VME: u64 = 1 << 0;
pub const CR4_TSD: u64 = 1 << 2;
pub const CR4_DE: u64 = 1 << 3;
pub const CR4_PCE: u64 = 1 << 8;
pub const CR4_UMIP: u64 = 1 << 11;
pub const CR4_FSGSBASE: u64 = 1 << 16;
pub const CR4_PCIDE: u64 = 1 << 17;
pub const CR4_SMEP: u64 = 1 << 20;
pub const CR4_SMAP: u64 = 1 << 21;
pub const CR4_PKE: u64 = 1 << 22;
