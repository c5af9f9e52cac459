//! The few instructions that guests here are made of, as words (Arm ARM, C6.2).

use squib_core::arm64::SystemRegister;

pub const WFI: u32 = 0xd503_207f;
pub const ISB: u32 = 0xd503_3fdf;
pub const HVC: u32 = 0xd400_0002;
pub const SMC: u32 = 0xd400_0003;
pub const BRK: u32 = 0xd420_0000;
pub const NOP: u32 = 0xd503_201f;
/// A branch to itself.
pub const SPIN: u32 = 0x1400_0000;
/// `stp x2, x3, [x1]`, which no syndrome describes.
pub const STORE_PAIR: u32 = 0xa900_0c22;
/// `ldr w2, [x1], #4`, of which the same is true.
pub const LOAD_AND_ADD: u32 = 0xb840_4422;

/// The opcodes of a store and a load of 1, 2, 4 and 8 bytes, at an address in a register.
pub const STORES: [u32; 4] = [0x3900_0000, 0x7900_0000, 0xb900_0000, 0xf900_0000];
pub const LOADS: [u32; 4] = [0x3940_0000, 0x7940_0000, 0xb940_0000, 0xf940_0000];
/// Of loads that extend the sign: bytes, and whether to 64 bits.
pub const SIGNED_LOADS: [(u32, usize, bool); 5] = [
    (0x39c0_0000, 1, false),
    (0x3980_0000, 1, true),
    (0x79c0_0000, 2, false),
    (0x7980_0000, 2, true),
    (0xb980_0000, 4, true),
];

/// The load or store `opcode` of register `t`, at the address in register `n`.
pub fn at(opcode: u32, t: u32, n: u32) -> u32 {
    opcode | n << 5 | t
}

/// A store of 4 bytes of register `t`, at the address in register `n`.
pub fn store(t: u32, n: u32) -> u32 {
    at(STORES[2], t, n)
}

/// `add xt, xt, #1`.
pub fn increment(t: u32) -> u32 {
    0x9100_0400 | t << 5 | t
}

/// A branch over `words` instructions from this one on, negative for back.
pub fn branch(words: i32) -> u32 {
    0x1400_0000 | words as u32 & 0x03ff_ffff
}

/// Puts `value` into register `d`.
pub fn set(d: u32, value: u64) -> Vec<u32> {
    let part = |n: u32| (value >> (16 * n)) as u32 & 0xffff;
    let mut code = vec![0xd280_0000 | part(0) << 5 | d];
    code.extend((1..4).filter(|n| part(*n) != 0).map(|n| 0xf280_0000 | n << 21 | part(n) << 5 | d));
    code
}

/// `msr register, xt`.
pub fn write_system(register: SystemRegister, t: u32) -> u32 {
    0xd500_0000 | u32::from(register.0) << 5 | t
}

/// `mrs xt, register`.
pub fn read_system(t: u32, register: SystemRegister) -> u32 {
    0xd520_0000 | u32::from(register.0) << 5 | t
}
