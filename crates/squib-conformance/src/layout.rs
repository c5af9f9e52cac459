//! The address space that cases run in, the same on the host and in the guest.

use std::sync::LazyLock;

use crate::random::mix;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Linear address of the first page. Low, so that 32-bit displacements and 32-bit addresses reach everything.
pub const BASE: u64 = 0x2000_0000;

/// Pages from [`BASE`] on, mapped or not.
pub const PAGES: u64 = 12;

/// What user code may do with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is there.
    None,
    /// Read, write and execute.
    Code,
    /// Read and write.
    Data,
    /// Read.
    ReadOnly,
}

/// The pages from [`BASE`] on, and which of the [`BACKING`] pages each shows.
pub const MAP: [(Access, usize); PAGES as usize] = [
    (Access::None, 0),
    (Access::Code, 0),
    (Access::Code, 1),
    (Access::None, 0),
    (Access::Data, 2),
    (Access::Data, 3),
    (Access::ReadOnly, 4),
    (Access::None, 0),
    (Access::Data, 5),
    (Access::Data, 6),
    (Access::None, 0),
    // The first page of code once more.
    (Access::Data, 0),
];

/// Pages of memory there are.
pub const BACKING: usize = 7;

/// Bytes of memory there are.
pub const MEMORY: usize = BACKING * PAGE as usize;

/// Guest-physical address in front of the pages, of which the last one comes first. Real mode finds them there.
const PHYSICAL: u64 = 0x40000;

/// Guest-physical address of page `backing`.
pub const fn physical(backing: usize) -> u64 {
    PHYSICAL + (BACKING - backing) as u64 * PAGE
}

/// Two pages of code.
pub const CODE: u64 = BASE + PAGE;
/// Two pages of data, followed by one that is read-only.
pub const DATA: u64 = BASE + 4 * PAGE;
/// The read-only page.
pub const READ_ONLY: u64 = BASE + 6 * PAGE;
/// Two pages of stack.
pub const STACK: u64 = BASE + 8 * PAGE;
/// The first page of code, writable at another address.
pub const ALIAS: u64 = BASE + 11 * PAGE;
/// Where cases start, unless they say otherwise.
pub const START: u64 = CODE + 0x100;
/// Base of the FS segment.
pub const FS_BASE: u64 = DATA + 0x800;
/// Base of the GS segment.
pub const GS_BASE: u64 = DATA + PAGE + 0x400;

/// How a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// User code in 64-bit mode.
    Bits64,
    /// User code in compatibility mode.
    Bits32,
    /// Supervisor code in 64-bit mode.
    Ring0,
    /// User code in 32-bit protected mode, with 32-bit paging.
    Protected,
    /// Real mode.
    Real,
}

impl Mode {
    /// Its name in a case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bits64 => "64",
            Self::Bits32 => "32",
            Self::Ring0 => "ring0",
            Self::Protected => "protected",
            Self::Real => "real",
        }
    }

    /// The mode with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        let all = [Self::Bits64, Self::Bits32, Self::Ring0, Self::Protected, Self::Real];
        all.into_iter().find(|m| m.name() == name)
    }

    /// Default size of addresses.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Real => 16,
            Self::Bits32 | Self::Protected => 32,
            Self::Bits64 | Self::Ring0 => 64,
        }
    }

    /// Whether it is one of long mode's.
    pub const fn is_long(self) -> bool {
        matches!(self, Self::Bits64 | Self::Bits32 | Self::Ring0)
    }

    /// Offset in memory of linear address `addr`.
    pub fn offset(self, addr: u64) -> Option<usize> {
        if self != Self::Real {
            return offset(addr);
        }
        let at = addr.checked_sub(PHYSICAL + PAGE).filter(|at| *at < MEMORY as u64)?;
        Some((BACKING - 1 - (at / PAGE) as usize) * PAGE as usize + (at % PAGE) as usize)
    }

    /// Linear address of the byte at `offset` of memory, where it is not the alias.
    pub fn address(self, offset: usize) -> u64 {
        match self {
            Self::Real => physical(offset / PAGE as usize) + offset as u64 % PAGE,
            _ => address(offset),
        }
    }

    /// The base that loading `selector` gives CS. In 64-bit code it does not count.
    pub fn code_base(self, selector: u16) -> u64 {
        if self.bits() == 64 { 0 } else { self.base_of(selector) }
    }

    /// The base that loading `selector` gives FS or GS.
    pub fn base_of(self, selector: u16) -> u64 {
        if self == Self::Real { u64::from(selector) << 4 } else { base_of(selector) }
    }
}

/// Selectors of the global descriptor table, which are Linux's (arch/x86/include/asm/segment.h).
#[expect(missing_docs, reason = "the names say it")]
pub mod selector {
    pub const KERNEL_CODE: u16 = 0x10;
    pub const KERNEL_DATA: u16 = 0x18;
    pub const USER_CODE32: u16 = 0x23;
    pub const USER_DATA: u16 = 0x2b;
    pub const USER_CODE: u16 = 0x33;
    pub const TSS: u16 = 0x40;
    pub const LDT: u16 = 0x50;
    /// The number of the processor is its limit.
    pub const CPU_NUMBER: u16 = 0x7b;
}

/// A descriptor for user code, in the words of Linux's modify_ldt(2).
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// Linear address of byte 0.
    pub base: u64,
    /// The limit field: bytes, or pages of them.
    pub limit: u32,
    /// 0 data, 1 data that expands downwards, 2 code, 3 conforming code.
    pub contents: u8,
    /// Data that cannot be written, or code that cannot be read.
    pub restricted: bool,
    /// D/B.
    pub big: bool,
    /// G.
    pub pages: bool,
    /// P.
    pub present: bool,
}

impl Descriptor {
    /// As it is in a table (Intel SDM vol. 3, figure 3-8): DPL 3, and accessed.
    pub const fn encode(&self) -> u64 {
        let (base, limit) = (self.base, self.limit as u64);
        let kind = 1 | (!self.restricted as u64) << 1 | (self.contents as u64) << 2;
        let access = kind | 1 << 4 | 3 << 5 | (self.present as u64) << 7;
        let high = (self.big as u64) << 2 | (self.pages as u64) << 3;
        limit & 0xffff
            | (base & 0xff_ffff) << 16
            | access << 40
            | (limit >> 16 & 15) << 48
            | high << 52
            | (base >> 24 & 0xff) << 56
    }
}

/// The local descriptor table. Selector `8 * n + 7` is entry `n`.
pub const LDT: [Option<Descriptor>; 14] = {
    let flat = Descriptor {
        base: 0,
        limit: 0xf_ffff,
        contents: 0,
        restricted: false,
        big: true,
        pages: true,
        present: true,
    };
    let bytes = Descriptor { base: DATA, limit: 0x17ff, pages: false, ..flat };
    [
        Some(Descriptor { base: FS_BASE, ..flat }),
        Some(Descriptor { base: GS_BASE, ..flat }),
        Some(bytes),
        Some(Descriptor { restricted: true, ..bytes }),
        Some(Descriptor { contents: 1, ..bytes }),
        Some(Descriptor { contents: 1, big: false, ..bytes }),
        Some(Descriptor { contents: 2, ..flat }),
        Some(Descriptor { contents: 2, restricted: true, ..flat }),
        None,
        Some(Descriptor { present: false, ..bytes }),
        // Linux makes conforming code only when it is not present.
        Some(Descriptor { contents: 3, present: false, ..flat }),
        Some(Descriptor { contents: 2, base: CODE, ..bytes }),
        Some(Descriptor { contents: 2, big: false, ..flat }),
        Some(Descriptor { restricted: true, contents: 1, ..bytes }),
    ]
};

/// Selectors of real mode: two pages of stack, of data and of code, and FS' and GS' in the second one of data.
#[expect(missing_docs, reason = "the names say it")]
pub mod real {
    pub const STACK: u16 = 0x4100;
    pub const DATA: u16 = 0x4400;
    pub const MORE_DATA: u16 = 0x4500;
    pub const CODE: u16 = 0x4700;
    /// Where cases start.
    pub const START: u64 = 0x100;
}

/// FS and GS in compatibility mode: the entries whose bases are those that 64-bit code finds.
pub const FS: u16 = 0x07;
/// See [`FS`].
pub const GS: u16 = 0x0f;

/// Offset in memory of linear address `addr`.
pub fn offset(addr: u64) -> Option<usize> {
    let at = addr.wrapping_sub(BASE);
    let (access, backing) = *MAP.get(usize::try_from(at / PAGE).ok()?)?;
    (access != Access::None).then_some(backing * PAGE as usize + (at % PAGE) as usize)
}

/// Linear address of the byte at `offset` of memory, where it is not the alias.
pub fn address(offset: usize) -> u64 {
    let (page, rest) = (offset / PAGE as usize, offset as u64 % PAGE);
    let index = MAP.iter().position(|(a, b)| *a != Access::None && *b == page).unwrap_or(0);
    BASE + index as u64 * PAGE + rest
}

/// Memory as every case finds it: code pages full of INT3, the others of words that depend on their address.
pub fn pristine() -> &'static [u8] {
    static PRISTINE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
        let mut memory = vec![0xcc; MEMORY].into_boxed_slice();
        for at in (2 * PAGE as usize..MEMORY).step_by(8) {
            memory[at..at + 8].copy_from_slice(&mix(address(at)).to_le_bytes());
        }
        memory
    });
    &PRISTINE
}

/// The base that loading `selector` gives FS or GS.
pub fn base_of(selector: u16) -> u64 {
    let entry = LDT.get(usize::from(selector / 8)).copied().flatten();
    entry.filter(|_| selector & 4 != 0).map_or(0, |d| d.base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_addresses_are_inverse() {
        for at in [0, 1, 4095, 4096, 8192, MEMORY - 1] {
            assert_eq!(offset(address(at)), Some(at));
        }
        assert_eq!(offset(ALIAS + 5), offset(CODE + 5));
        assert_eq!([BASE, DATA - 1, BASE - 1, STACK - 1, u64::MAX].map(offset), [None; 5]);
        assert_eq!(offset(READ_ONLY), Some(4 * PAGE as usize));
        for at in [0, 1, 4095, 4096, MEMORY - 1] {
            assert_eq!(Mode::Real.offset(Mode::Real.address(at)), Some(at));
        }
        assert_eq!(Mode::Real.address(0), u64::from(real::CODE) << 4);
        assert_eq!([0x40fff, 0x48000].map(|addr| Mode::Real.offset(addr)), [None; 2]);
    }
}
