//! Stacks that system instructions push on and pop from: the current one, or one of another privilege level.

use super::is_canonical;
use crate::env::{Env, Rights};
use crate::fault::{Exception, Stop};
use crate::size::Size;
use crate::state::{Seg, sreg};

/// Whether `len` bytes at `offset` are within a segment's limit (Intel SDM vol. 3, 5.3).
pub(super) fn within(seg: &Seg, offset: u64, len: u64) -> bool {
    let last = offset + (len - 1);
    let limit = u64::from(seg.limit);
    if seg.expands_down() {
        let top = if seg.has(Seg::DB) { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit || offset <= limit && seg.is_flat()
    }
}

/// A stack being pushed on or popped from. Nothing becomes visible before the caller writes [`Stack::sp`] back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack {
    seg: Seg,
    /// Width of the stack pointer.
    width: Size,
    /// Stack pointer, within its width.
    sp: u64,
    rights: Rights,
    /// Error code of its #SS.
    error: u32,
}

impl Stack {
    /// The stack that SS:RSP names.
    pub(super) fn current<E: Env + ?Sized>(env: &E) -> Self {
        let state = env.state_ref();
        let width = state.stack_size();
        Self {
            seg: state.seg[sreg::SS],
            width,
            sp: width.trunc(state.r[4]),
            rights: Rights::Current,
            error: 0,
        }
    }

    /// The stack that SS:RSP names to the code that control goes to: 64-bit code (`is_64`), or other.
    pub(super) fn seen_by<E: Env + ?Sized>(env: &E, is_64: bool) -> Self {
        let state = env.state_ref();
        let seg = state.seg[sreg::SS];
        let width = match (is_64, seg.has(Seg::DB)) {
            (true, _) => Size::B8,
            (false, true) => Size::B4,
            (false, false) => Size::B2,
        };
        Self { seg, width, sp: width.trunc(state.r[4]), rights: Rights::Current, error: 0 }
    }

    /// A stack segment of protected mode, to be used with the rights of its own privilege level.
    pub(super) fn switched(seg: Seg, sp: u64, error: u32) -> Self {
        let width = if seg.has(Seg::DB) { Size::B4 } else { Size::B2 };
        Self { seg, width, sp: width.trunc(sp), rights: rights_of(seg.dpl()), error }
    }

    /// A flat 64-bit stack of privilege level `cpl`.
    pub(super) fn flat(sp: u64, cpl: u8, error: u32) -> Self {
        Self { seg: Seg::default(), width: Size::B8, sp, rights: rights_of(cpl), error }
    }

    /// The same stack used with the rights of privilege level `cpl`, its #SS with this error code.
    pub(super) fn for_delivery(mut self, cpl: u8, error: u32) -> Self {
        self.rights = rights_of(cpl);
        self.error = error;
        self
    }

    /// The stack pointer as it goes into `rsp`: a 16-bit pointer leaves the upper bits as they are.
    pub(super) fn pointer(&self, rsp: u64) -> u64 {
        match self.width {
            Size::B2 => rsp & !0xffff | self.sp,
            _ => self.sp,
        }
    }

    fn linear(&self, sp: u64, len: u64) -> Result<u64, Stop> {
        let fits = match self.width {
            Size::B8 => is_canonical(sp) && is_canonical(sp.wrapping_add(len - 1)),
            _ => within(&self.seg, sp, len),
        };
        if !fits {
            return Err(Exception::ss(self.error).into());
        }
        Ok(match self.width {
            Size::B8 => sp,
            _ => self.seg.base.wrapping_add(sp) & 0xffff_ffff,
        })
    }

    /// Pushes `values`, the first one first. All checks come before the first write.
    ///
    /// # Errors
    /// #SS, #PF.
    pub(super) fn push<E: Env + ?Sized>(
        &mut self,
        env: &mut E,
        size: Size,
        values: &[u64],
    ) -> Result<(), Stop> {
        let step = size.bytes();
        let below = |n: usize| self.width.trunc(self.sp.wrapping_sub(step * n as u64));
        if self.width == Size::B8 {
            let at = self.linear(below(values.len()), step * values.len() as u64)?;
            env.probe_write(at, step * values.len() as u64, self.rights)?;
        } else {
            for n in 1..=values.len() {
                env.probe_write(self.linear(below(n), step)?, step, self.rights)?;
            }
        }
        for (i, value) in values.iter().enumerate() {
            env.write(self.linear(below(i + 1), step)?, size, size.trunc(*value), self.rights)?;
        }
        self.sp = below(values.len());
        Ok(())
    }

    /// Pops one value.
    ///
    /// # Errors
    /// #SS, #PF.
    pub(super) fn pop<E: Env + ?Sized>(&mut self, env: &mut E, size: Size) -> Result<u64, Stop> {
        let value = env.read(self.linear(self.sp, size.bytes())?, size, self.rights)?;
        self.skip(size.bytes());
        Ok(value)
    }

    /// Pops a selector, of whose slot only the lower half is read.
    ///
    /// # Errors
    /// #SS, #PF.
    pub(super) fn pop_selector<E: Env + ?Sized>(&mut self, env: &mut E, size: Size) -> Result<u16, Stop> {
        let value = env.read(self.linear(self.sp, 2)?, Size::B2, self.rights)?;
        self.skip(size.bytes());
        Ok(value as u16)
    }

    /// Moves the pointer up.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.sp = self.width.trunc(self.sp.wrapping_add(bytes));
    }
}

fn rights_of(cpl: u8) -> Rights {
    if cpl == 3 { Rights::User } else { Rights::System }
}
