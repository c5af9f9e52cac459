//! IRET, IRETD and IRETQ (Intel SDM vol. 2, "IRET/IRETD/IRETQ").

use squib_core::x86::bits::*;

use super::descriptor::{self, code, is_null};
use super::stack::{Stack, within};
use super::{is_canonical, rflags, segment, unsupported};
use crate::env::{Env, Leave};
use crate::fault::{Exception, Stop};
use crate::size::Size;
use crate::state::{Seg, sreg};

/// IRET with this operand size. Unblocks NMIs, even where it faults (Intel SDM vol. 3, 6.7.1).
///
/// # Errors
/// #GP, #NP, #SS, #PF.
pub fn iret<E: Env + ?Sized>(env: &mut E, size: Size) -> Result<(), Stop> {
    let state = env.state_ref();
    if state.v86() {
        return Err(unsupported(env, "IRET in virtual-8086 mode"));
    }
    let result = if state.protected() { protected(env, size) } else { real_mode(env, size) };
    if result != Err(Stop::Exit) && env.state_ref().nmi_masked {
        env.state().nmi_masked = false;
        env.leave(Leave::Recheck);
    }
    result
}

fn real_mode<E: Env + ?Sized>(env: &mut E, size: Size) -> Result<(), Stop> {
    let mut stack = Stack::current(env);
    let ip = stack.pop(env, size)?;
    let selector = stack.pop(env, size)? as u16;
    let flags = stack.pop(env, size)?;
    let old = env.state_ref().seg[sreg::CS];
    if ip > old.limit.into() {
        return Err(Exception::GP0.into());
    }
    let flags = rflags::returned(env, size, flags);
    let state = env.state();
    let cs = segment::real_mode(&old, selector);
    state.seg[sreg::CS] = Seg { attr: cs.attr | 8, ..cs };
    state.rip = ip;
    state.r[4] = stack.pointer(state.r[4]);
    rflags::set(env, flags);
    Ok(())
}

fn protected<E: Env + ?Sized>(env: &mut E, size: Size) -> Result<(), Stop> {
    let state = env.state_ref();
    let (cpl, long, from_64) = (state.cpl, state.long_mode(), rflags::in_64(env));
    if state.sys_flags & RFLAGS_NT != 0 {
        if long {
            return Err(Exception::GP0.into());
        }
        return Err(unsupported(env, "a task return by IRET"));
    }
    let mut stack = Stack::current(env);
    let rip = stack.pop(env, size)?;
    let cs_selector = stack.pop(env, size)? as u16;
    let flags = stack.pop(env, size)?;
    if !long && cpl == 0 && size == Size::B4 && flags & RFLAGS_VM != 0 {
        return Err(unsupported(env, "IRET to virtual-8086 mode"));
    }
    let target = CodeTarget::returned(env, cs_selector)?;
    let outer = target.cpl > cpl;
    let mut new_stack = None;
    if outer || from_64 {
        let sp = stack.pop(env, size)?;
        let selector = stack.pop(env, size)? as u16;
        new_stack = Some((returned_stack(env, selector, &target)?, sp));
    }
    target.check_rip(rip)?;
    let flags = rflags::returned(env, size, flags);

    let cs = target.descriptor.mark_accessed(env)?.segment(cs_selector);
    let ss = match new_stack {
        Some((StackTarget::Descriptor(d, selector), sp)) => Some((d.mark_accessed(env)?.segment(selector), sp)),
        Some((StackTarget::Null(selector), sp)) => Some((segment::null_stack(selector, target.cpl), sp)),
        None => None,
    };
    if outer {
        segment::drop_privileged(env, target.cpl);
    }
    leave_to(env, cs, target.cpl, rip, ss, &stack, 0);
    rflags::set(env, flags);
    Ok(())
}

/// The code segment that a return goes to.
pub(super) struct CodeTarget {
    pub(super) descriptor: descriptor::Descriptor,
    pub(super) cpl: u8,
    /// 64-bit code.
    pub(super) is_64: bool,
}

impl CodeTarget {
    /// Checks a return to `selector`: never to a more privileged level.
    pub(super) fn returned<E: Env + ?Sized>(env: &mut E, selector: u16) -> Result<Self, Stop> {
        if is_null(selector) {
            return Err(Exception::GP0.into());
        }
        let bad = Exception::gp(code(selector));
        let descriptor = descriptor::read(env, selector, Exception::gp, 0)?;
        let state = env.state_ref();
        let cpl = selector as u8 & 3;
        let level = if descriptor.is_conforming() { descriptor.dpl() <= cpl } else { descriptor.dpl() == cpl };
        let mixed = state.long_mode() && descriptor.is_long() && descriptor.is_big();
        if !descriptor.is_code() || cpl < state.cpl || !level || mixed {
            return Err(bad.into());
        }
        if !descriptor.is_present() {
            return Err(Exception::np(code(selector)).into());
        }
        Ok(Self { descriptor, cpl, is_64: state.long_mode() && descriptor.is_long() })
    }

    /// Checks that code can run at `rip`.
    pub(super) fn check_rip(&self, rip: u64) -> Result<(), Stop> {
        let fits = if self.is_64 { is_canonical(rip) } else { within(&self.descriptor.segment(0), rip, 1) };
        if fits { Ok(()) } else { Err(Exception::GP0.into()) }
    }
}

/// The stack segment that a return goes to.
pub(super) enum StackTarget {
    Descriptor(descriptor::Descriptor, u16),
    Null(u16),
}

/// Checks the stack segment of a return to `target`.
pub(super) fn returned_stack<E: Env + ?Sized>(
    env: &mut E,
    selector: u16,
    target: &CodeTarget,
) -> Result<StackTarget, Stop> {
    if is_null(selector) {
        if target.is_64 && target.cpl != 3 && selector as u8 & 3 == target.cpl {
            return Ok(StackTarget::Null(selector));
        }
        return Err(Exception::GP0.into());
    }
    let d = segment::stack_descriptor(env, selector, target.cpl, Exception::gp, 0)?;
    Ok(StackTarget::Descriptor(d, selector))
}

/// Goes to `cs:rip` at `cpl`. The stack is the one that was popped from, or the new one in `ss`; `extra` bytes of
/// parameters are released from it.
pub(super) fn leave_to<E: Env + ?Sized>(
    env: &mut E,
    cs: Seg,
    cpl: u8,
    rip: u64,
    ss: Option<(Seg, u64)>,
    popped: &Stack,
    extra: u64,
) {
    let state = env.state();
    state.seg[sreg::CS] = cs;
    state.cpl = cpl;
    state.rip = rip;
    match ss {
        None => {
            let mut stack = *popped;
            stack.skip(extra);
            state.r[4] = stack.pointer(state.r[4]);
        }
        Some((seg, sp)) => {
            state.seg[sreg::SS] = seg;
            state.update_mode();
            let width = state.stack_size();
            let sp = sp.wrapping_add(extra);
            state.r[4] = match width {
                Size::B2 => state.r[4] & !0xffff | sp & 0xffff,
                _ => width.trunc(sp),
            };
        }
    }
    env.mode_changed();
}
