//! The 512-byte area of FXSAVE and FXRSTOR, which is also the legacy region of XSAVE (SDM vol. 1, 10.5.1 and
//! 13.4.1).

use super::{Pointers, X87};
use crate::fp::f80::F80;
use crate::fp::mxcsr::Mxcsr;

/// Bytes of the area.
pub const SIZE: usize = 512;
/// Where MXCSR is; MXCSR_MASK follows.
pub const MXCSR: usize = 24;
/// Where ST(0) is; each register takes 16 bytes.
pub const ST: usize = 32;
/// Where XMM0 is; each register takes 16 bytes.
pub const XMM: usize = 160;

/// How wide FIP and FDP are: with REX.W they have 64 bits, else 32, followed by selectors, which are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// FXSAVE.
    Bits32,
    /// FXSAVE64.
    Bits64,
}

/// Writes the x87 part: bytes 0 to 23 and 32 to 159, of which the reserved ones stay as they are.
pub fn save_x87(unit: &X87, width: Width, area: &mut [u8; SIZE]) {
    let Pointers { opcode, ip, dp } = unit.pointers;
    area[0..2].copy_from_slice(&unit.control().to_le_bytes());
    area[2..4].copy_from_slice(&unit.status().to_le_bytes());
    area[4] = unit.valid();
    area[5] = 0;
    area[6..8].copy_from_slice(&opcode.to_le_bytes());
    area[8..16].copy_from_slice(&ip.to_le_bytes());
    area[16..24].copy_from_slice(&dp.to_le_bytes());
    if width == Width::Bits32 {
        area[12..16].fill(0);
        area[20..24].fill(0);
    }
    for (i, slot) in (0..).zip(area[ST..ST + 128].chunks_exact_mut(16)) {
        slot[..10].copy_from_slice(&unit.raw(i).to_bits().to_le_bytes()[..10]);
        slot[10..].fill(0);
    }
}

/// The x87 state that the area holds.
pub fn restore_x87(area: &[u8; SIZE], width: Width) -> X87 {
    let word = |at: usize| u16::from_le_bytes([area[at], area[at + 1]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 2)) << 16;
    let mut unit = X87::RESET;
    unit.set_control(word(0));
    unit.set_status(word(2));
    unit.set_valid(area[4]);
    unit.pointers.opcode = word(6) & 0x7ff;
    unit.pointers.ip = long(8);
    unit.pointers.dp = long(16);
    if width == Width::Bits64 {
        // Linear addresses are all that the registers have room for (Intel SDM vol. 1, 10.5.1.1).
        let canonical = |low: u64, high: u64| ((low | high << 32) << 16).cast_signed() >> 16;
        unit.pointers.ip = canonical(unit.pointers.ip, long(12)).cast_unsigned();
        unit.pointers.dp = canonical(unit.pointers.dp, long(20)).cast_unsigned();
    }
    for (i, slot) in (0..).zip(area[ST..ST + 128].chunks_exact(16)) {
        let mut bits = [0; 16];
        bits[..10].copy_from_slice(&slot[..10]);
        unit.set_raw(i, F80::from_bits(u128::from_le_bytes(bits)));
    }
    unit
}

/// Writes MXCSR and MXCSR_MASK.
pub fn save_mxcsr(mxcsr: Mxcsr, area: &mut [u8; SIZE]) {
    area[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.bits().to_le_bytes());
    area[MXCSR + 4..MXCSR + 8].copy_from_slice(&Mxcsr::MASK.to_le_bytes());
}

/// MXCSR as the area holds it; `None` where a reserved bit is set (#GP).
pub fn restore_mxcsr(area: &[u8; SIZE]) -> Option<Mxcsr> {
    let mut bits = [0; 4];
    bits.copy_from_slice(&area[MXCSR..MXCSR + 4]);
    Mxcsr::from_bits(u32::from_le_bytes(bits))
}

/// Writes the XMM registers given: 16 in 64-bit mode, else 8.
pub fn save_xmm(registers: &[u128], area: &mut [u8; SIZE]) {
    for (register, slot) in registers.iter().take(16).zip(area[XMM..].chunks_exact_mut(16)) {
        slot.copy_from_slice(&register.to_le_bytes());
    }
}

/// Reads as many XMM registers as are given, at most 16.
pub fn restore_xmm(area: &[u8; SIZE], registers: &mut [u128]) {
    for (register, slot) in registers.iter_mut().take(16).zip(area[XMM..].chunks_exact(16)) {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(slot);
        *register = u128::from_le_bytes(bytes);
    }
}
