//! What FNSTENV, FLDENV, FNSAVE and FRSTOR move (SDM vol. 1, 8.1.10, figures 8-9 to 8-12).

use super::{Pointers, X87};
use crate::fp::f80::{Class, F80};

/// The layout of an environment: operand size and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// 14 bytes, real and virtual-8086 mode.
    Real16,
    /// 14 bytes, protected mode.
    Protected16,
    /// 28 bytes, real and virtual-8086 mode.
    Real32,
    /// 28 bytes, protected and 64-bit mode.
    Protected32,
}

impl Layout {
    /// Bytes of an environment.
    pub const fn environment_bytes(self) -> usize {
        match self {
            Self::Real16 | Self::Protected16 => 14,
            Self::Real32 | Self::Protected32 => 28,
        }
    }

    /// Bytes of an environment and the eight registers.
    pub const fn save_bytes(self) -> usize {
        self.environment_bytes() + 80
    }

    /// Bytes of one of the seven fields of an environment, in which the operand is accessed and to which it is aligned (Intel SDM
    /// vol. 3, table 6-7).
    pub const fn slot(self) -> usize {
        self.environment_bytes() / 7
    }
}

/// Bytes of the longest image.
pub const MAX_SIZE: usize = 108;

/// The tag word's field of an empty register.
const EMPTY: u16 = 3;

impl X87 {
    /// The full tag word: for each physical register 0 normal, 1 zero, 2 special, 3 empty.
    pub fn tag_word(&self) -> u16 {
        (0..8).fold(0, |word, i| {
            let tag = match self.registers[i].class() {
                _ if self.valid >> i & 1 == 0 => EMPTY,
                Class::Normal => 0,
                Class::Zero => 1,
                _ => 2,
            };
            word | tag << (2 * i)
        })
    }

    /// Loads the full tag word, of which only "empty" counts.
    pub fn set_tag_word(&mut self, word: u16) {
        self.valid = (0..8).fold(0, |valid, i| valid | u8::from(word >> (2 * i) & 3 != EMPTY) << i);
    }

    /// What FNSTENV stores: [`Layout::environment_bytes`] of it. FNSTENV then masks all exceptions, see
    /// [`mask_all`](Self::mask_all).
    pub fn environment(&self, layout: Layout) -> [u8; 28] {
        let Pointers { opcode, ip, dp } = self.pointers;
        let (ip, dp, opcode) = (ip as u32, dp as u32, u32::from(opcode & 0x7ff));
        let unused = match layout {
            Layout::Real32 | Layout::Protected32 => 0xffff_0000,
            Layout::Real16 | Layout::Protected16 => 0,
        };
        let [ip, cs, dp, ds] = match layout {
            Layout::Protected32 => [ip, opcode << 16, dp, unused],
            Layout::Protected16 => [ip, 0, dp, 0],
            Layout::Real16 => [ip, ip >> 4 & 0xf000 | opcode, dp, dp >> 4 & 0xf000],
            Layout::Real32 => [
                unused | ip & 0xffff,
                ip >> 4 & 0x0fff_f000 | opcode,
                unused | dp & 0xffff,
                dp >> 4 & 0x0fff_f000,
            ],
        };
        let words = [
            unused | u32::from(self.control()),
            unused | u32::from(self.status()),
            unused | u32::from(self.tag_word()),
            ip,
            cs,
            dp,
            ds,
        ];
        let mut bytes = [0; 28];
        let slot = layout.slot();
        for (word, to) in words.iter().zip(bytes.chunks_exact_mut(slot)) {
            to.copy_from_slice(&word.to_le_bytes()[..slot]);
        }
        bytes
    }

    /// FLDENV: loads an environment from [`Layout::environment_bytes`]; what is missing counts as zeros.
    pub fn load_environment(&mut self, layout: Layout, bytes: &[u8]) {
        let slot = layout.slot();
        let mut words = [0u32; 7];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(slot)) {
            let mut wide = [0; 4];
            wide[..slot].copy_from_slice(from);
            *word = u32::from_le_bytes(wide);
        }
        let [control, status, tags, ip, cs, dp, ds] = words;
        self.set_control(control as u16);
        self.set_status(status as u16);
        self.set_tag_word(tags as u16);
        self.pointers = match layout {
            Layout::Protected32 => {
                Pointers { opcode: (cs >> 16) as u16 & 0x7ff, ip: ip.into(), dp: dp.into() }
            }
            // It has no field for the opcode.
            Layout::Protected16 => Pointers { opcode: 0, ip: ip.into(), dp: dp.into() },
            Layout::Real16 | Layout::Real32 => Pointers {
                opcode: cs as u16 & 0x7ff,
                ip: u64::from(ip & 0xffff | (cs & 0x0fff_f000) << 4),
                dp: u64::from(dp & 0xffff | (ds & 0x0fff_f000) << 4),
            },
        };
    }

    /// What FNSTENV does after it has stored the environment.
    pub const fn mask_all(&mut self) {
        self.set_control(self.control() | 0x3f);
    }

    /// What FNSAVE stores: [`Layout::save_bytes`] of it. FNSAVE then [initializes](Self::initialize) the
    /// unit.
    pub fn save(&self, layout: Layout) -> [u8; MAX_SIZE] {
        let mut bytes = [0; MAX_SIZE];
        let start = layout.environment_bytes();
        bytes[..28].copy_from_slice(&self.environment(layout));
        for (i, to) in (0..8).zip(bytes[start..].chunks_exact_mut(10)) {
            to.copy_from_slice(&self.raw(i).to_bits().to_le_bytes()[..10]);
        }
        bytes
    }

    /// FRSTOR: loads [`Layout::save_bytes`]; registers that are missing stay.
    pub fn restore(&mut self, layout: Layout, bytes: &[u8]) {
        self.load_environment(layout, bytes);
        let registers = bytes.get(layout.environment_bytes()..).unwrap_or(&[]);
        for (i, from) in (0..8).zip(registers.chunks_exact(10)) {
            let mut wide = [0; 16];
            wide[..10].copy_from_slice(from);
            self.set_raw(i, F80::from_bits(u128::from_le_bytes(wide)));
        }
    }
}
