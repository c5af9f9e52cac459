//! Who may change which bit of RFLAGS: POPF, CLI, STI, CLAC, STAC, and what IRET shares with them
//! (Intel SDM vol. 3, 2.3).

use squib_core::x86::bits::*;

use crate::env::{Env, Leave};
use crate::fault::{Exception, Stop};
use crate::flags::STATUS;
use crate::model::Feature;
use crate::size::Size;
use crate::state::{CodeMode, Shadow};

/// The bits that an operand of this size changes at the current privilege level, by POPF.
fn writable<E: Env + ?Sized>(env: &E, size: Size) -> u64 {
    let state = env.state_ref();
    let wide = if size == Size::B2 { 0 } else { RFLAGS_AC | RFLAGS_ID };
    let interrupt = if state.cpl <= state.iopl() { RFLAGS_IF } else { 0 };
    let level = if state.cpl == 0 { RFLAGS_IOPL } else { 0 };
    STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | wide | interrupt | level
}

/// Sets RFLAGS, and tells who must hear of it.
pub(super) fn set<E: Env + ?Sized>(env: &mut E, value: u64) {
    let state = env.state();
    let (old, new) = (state.sys_flags, value);
    state.set_rflags(value);
    if (old ^ new) & (RFLAGS_AC | RFLAGS_VM) != 0 {
        env.mode_changed();
    }
    if !old & new & (RFLAGS_IF | RFLAGS_TF) != 0 {
        env.leave(Leave::Recheck);
    }
}

/// POPF with the value that was on the stack. TF acts from the following instruction on.
pub fn popf<E: Env + ?Sized>(env: &mut E, size: Size, value: u64) {
    let mask = writable(env, size);
    let kept = env.state_ref().rflags() & !RFLAGS_RF;
    set(env, kept & !mask | value & mask);
}

/// RFLAGS as IRET leaves it, from what it popped and what was there.
pub(super) fn returned<E: Env + ?Sized>(env: &E, size: Size, value: u64) -> u64 {
    let state = env.state_ref();
    let mut mask = writable(env, size);
    if size != Size::B2 {
        mask |= RFLAGS_RF | if state.cpl == 0 && state.protected() { RFLAGS_VIF | RFLAGS_VIP } else { 0 };
    }
    state.rflags() & !mask | value & mask
}

/// CLI.
///
/// # Errors
/// #GP(0) where CPL is above IOPL.
pub fn cli<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    may_change_if(env)?;
    env.state().sys_flags &= !RFLAGS_IF;
    Ok(())
}

/// STI. Interrupts that it enables wait for one more instruction.
///
/// # Errors
/// #GP(0) where CPL is above IOPL.
pub fn sti<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    may_change_if(env)?;
    let state = env.state();
    if state.sys_flags & RFLAGS_IF == 0 {
        state.sys_flags |= RFLAGS_IF;
        state.shadow = Shadow::Sti;
        env.leave(Leave::Recheck);
    }
    Ok(())
}

fn may_change_if<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    let state = env.state_ref();
    if state.cpl > state.iopl() { Err(Exception::GP0.into()) } else { Ok(()) }
}

/// CLAC (`set` is `false`) and STAC.
///
/// # Errors
/// #UD where the model has no SMAP or CPL is not 0.
pub fn set_ac<E: Env + ?Sized>(env: &mut E, set: bool) -> Result<(), Stop> {
    if env.state_ref().cpl != 0 || !env.model().has(Feature::SMAP) {
        return Err(Exception::UD.into());
    }
    let flags = &mut env.state().sys_flags;
    let new = if set { *flags | RFLAGS_AC } else { *flags & !RFLAGS_AC };
    if new != *flags {
        *flags = new;
        env.mode_changed();
    }
    Ok(())
}

/// Whether the current code is 64-bit.
pub(super) fn in_64<E: Env + ?Sized>(env: &E) -> bool {
    env.state_ref().mode == CodeMode::Bits64
}

/// Sets ZF and leaves the other status flags.
pub(super) fn set_zf<E: Env + ?Sized>(env: &mut E, zf: bool) {
    let state = env.state();
    let flags = state.lazy.bits() & !RFLAGS_ZF;
    state.lazy = crate::flags::LazyFlags::fixed(flags | if zf { RFLAGS_ZF } else { 0 });
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::*;

    #[test]
    fn popf_keeps_what_the_privilege_does_not_reach() {
        let mut m = Mock::long();
        popf(&mut m, Size::B8, u64::MAX);
        let all =
            STATUS | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID;
        assert_eq!(m.state.rflags(), all | RFLAGS_FIXED);
        assert!(m.left.contains(&Leave::Recheck));
        let mut m = Mock::long().user();
        popf(&mut m, Size::B8, u64::MAX);
        assert_eq!(m.state.rflags(), all & !(RFLAGS_IF | RFLAGS_IOPL) | RFLAGS_FIXED);
        m.state.sys_flags |= RFLAGS_RF | RFLAGS_VIP;
        popf(&mut m, Size::B2, 0);
        assert_eq!(m.state.rflags(), RFLAGS_FIXED | RFLAGS_AC | RFLAGS_ID | RFLAGS_VIP);
    }

    #[test]
    fn cli_and_sti_obey_iopl() {
        let mut m = Mock::long().user();
        assert_eq!(m.attempt(sti), Err(Exception::GP0.into()));
        assert_eq!(m.attempt(cli), Err(Exception::GP0.into()));
        m.state.sys_flags |= RFLAGS_IOPL;
        sti(&mut m).unwrap();
        assert!(m.state.shadow == Shadow::Sti && m.state.sys_flags & RFLAGS_IF != 0);
        m.state.shadow = Shadow::None;
        sti(&mut m).unwrap();
        assert_eq!(m.state.shadow, Shadow::None, "only the STI that enables interrupts holds them off");
        cli(&mut m).unwrap();
        assert_eq!(m.state.sys_flags & RFLAGS_IF, 0);
    }

    #[test]
    fn stac_is_for_the_supervisor() {
        let mut m = Mock::long();
        set_ac(&mut m, true).unwrap();
        assert_ne!(m.state.sys_flags & RFLAGS_AC, 0);
        assert_eq!(m.modes_changed, 1);
        let mut m = Mock::long().user();
        assert_eq!(m.attempt(|m| set_ac(m, true)), Err(Exception::UD.into()));
    }
}
