//! Descriptors and the tables that hold them (Intel SDM vol. 3, 3.4.5, 3.5 and 5.8.3).

use crate::env::{Env, Rights};
use crate::fault::{Exception, Stop};
use crate::size::Size;
use crate::state::Seg;

/// The error code for a selector: its RPL bits are left out.
pub(super) const fn code(selector: u16) -> u32 {
    selector as u32 & 0xfffc
}

/// Whether a selector is null.
pub(super) const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

/// System descriptor types (Intel SDM vol. 3, table 3-2). Those with two names mean the 64-bit one in IA-32e mode.
pub(super) mod kind {
    pub(in super::super) const TSS16: u8 = 1;
    pub(in super::super) const LDT: u8 = 2;
    pub(in super::super) const TSS16_BUSY: u8 = 3;
    pub(in super::super) const CALL_GATE16: u8 = 4;
    pub(in super::super) const TASK_GATE: u8 = 5;
    pub(in super::super) const INTERRUPT_GATE16: u8 = 6;
    pub(in super::super) const TRAP_GATE16: u8 = 7;
    pub(in super::super) const TSS: u8 = 9;
    pub(in super::super) const TSS_BUSY: u8 = 11;
    pub(in super::super) const CALL_GATE: u8 = 12;
    pub(in super::super) const INTERRUPT_GATE: u8 = 14;
    pub(in super::super) const TRAP_GATE: u8 = 15;
}

/// The first eight bytes of a descriptor, and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    bits: u64,
    address: u64,
}

impl Descriptor {
    /// Type field.
    pub(super) const fn kind(self) -> u8 {
        (self.bits >> 40 & 15) as u8
    }

    /// S: code or data.
    pub(super) const fn is_segment(self) -> bool {
        self.bits >> 44 & 1 != 0
    }

    /// Descriptor privilege level.
    pub(super) const fn dpl(self) -> u8 {
        (self.bits >> 45 & 3) as u8
    }

    /// P.
    pub(super) const fn is_present(self) -> bool {
        self.bits >> 47 & 1 != 0
    }

    /// L.
    pub(super) const fn is_long(self) -> bool {
        self.bits >> 53 & 1 != 0
    }

    /// D/B.
    pub(super) const fn is_big(self) -> bool {
        self.bits >> 54 & 1 != 0
    }

    pub(super) const fn is_code(self) -> bool {
        self.is_segment() && self.kind() & 8 != 0
    }

    /// A code segment that runs at its caller's privilege.
    pub(super) const fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    pub(super) const fn is_writable_data(self) -> bool {
        self.is_segment() && self.kind() & 10 == 2
    }

    /// Data, or code that may be read.
    pub(super) const fn is_readable(self) -> bool {
        self.is_segment() && self.kind() & 10 != 8
    }

    /// Limit in bytes.
    pub(super) const fn limit(self) -> u32 {
        let raw = self.bits as u32 & 0xffff | (self.bits >> 32) as u32 & 0xf_0000;
        if self.bits >> 55 & 1 != 0 { raw << 12 | 0xfff } else { raw }
    }

    /// Bits 40 to 55 in their place of the second word, as LAR gives them.
    pub(super) const fn access_rights(self) -> u32 {
        (self.bits >> 32) as u32 & 0x00ff_ff00
    }

    /// The low 32 bits of the base.
    const fn base(self) -> u64 {
        self.bits >> 16 & 0xff_ffff | self.bits >> 32 & 0xff00_0000
    }

    /// The segment register that this makes.
    pub(super) const fn segment(self, selector: u16) -> Seg {
        let attr = (self.bits >> 40) as u16 & 0xff | (self.bits >> 44) as u16 & 0xf00;
        Seg { base: self.base(), limit: self.limit(), selector, attr }
    }

    /// A gate's target selector.
    pub(super) const fn target(self) -> u16 {
        (self.bits >> 16) as u16
    }

    /// A gate's offset, its low 32 bits (16 where the gate is a 16-bit one).
    pub(super) const fn offset(self) -> u64 {
        let low = self.bits & 0xffff;
        if self.kind() & 8 == 0 { low } else { low | self.bits >> 32 & 0xffff_0000 }
    }

    /// A call gate's parameter count.
    pub(super) const fn parameters(self) -> u8 {
        (self.bits >> 32 & 31) as u8
    }

    /// A 64-bit interrupt gate's interrupt-stack number.
    pub(super) const fn ist(self) -> u8 {
        (self.bits >> 32 & 7) as u8
    }

    /// A descriptor that is not in a descriptor table: an IDT gate.
    pub(super) const fn at(address: u64, bits: u64) -> Self {
        Self { bits, address }
    }

    /// Sets the accessed bit in memory where it is clear, and gives the descriptor with it.
    ///
    /// # Errors
    /// A page fault where the table cannot be written.
    pub(super) fn mark_accessed<E: Env + ?Sized>(mut self, env: &mut E) -> Result<Self, Stop> {
        if self.bits >> 40 & 1 == 0 {
            self.set_type_bit(env, 0)?;
        }
        Ok(self)
    }

    /// Sets the busy bit of a task state descriptor in memory.
    pub(super) fn mark_busy<E: Env + ?Sized>(mut self, env: &mut E) -> Result<Self, Stop> {
        self.set_type_bit(env, 1)?;
        Ok(self)
    }

    fn set_type_bit<E: Env + ?Sized>(&mut self, env: &mut E, bit: u32) -> Result<(), Stop> {
        self.bits |= 1 << (40 + bit);
        env.write(self.address.wrapping_add(5), Size::B1, self.bits >> 40 & 0xff, Rights::System)
    }

    /// The upper half of a 16-byte descriptor.
    pub(super) fn upper<E: Env + ?Sized>(self, env: &mut E) -> Result<u64, Stop> {
        env.read(self.address.wrapping_add(8), Size::B8, Rights::System)
    }
}

/// Where the descriptor of `selector` is, if `len` bytes of it lie in its table.
pub(super) fn locate<E: Env + ?Sized>(env: &E, selector: u16, len: u32) -> Option<u64> {
    let state = env.state_ref();
    let index = u32::from(selector & !7);
    let (base, limit) = if selector & 4 != 0 {
        if state.ldt.has(Seg::UNUSABLE) {
            return None;
        }
        (state.ldt.base, state.ldt.limit)
    } else {
        (state.gdt.base, state.gdt.limit.into())
    };
    (index + len - 1 <= limit).then(|| {
        let at = base.wrapping_add(index.into());
        if state.long_mode() { at } else { at & 0xffff_ffff }
    })
}

/// Reads the descriptor of `selector`.
///
/// # Errors
/// `outside(selector)` where it lies beyond its table's limit; a page fault.
pub(super) fn read<E: Env + ?Sized>(
    env: &mut E,
    selector: u16,
    outside: fn(u32) -> Exception,
    external: u32,
) -> Result<Descriptor, Stop> {
    let address = locate(env, selector, 8).ok_or_else(|| outside(code(selector) | external))?;
    let bits = env.read(address, Size::B8, Rights::System)?;
    Ok(Descriptor { bits, address })
}
