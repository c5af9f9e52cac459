//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (Intel SDM vol. 2; vol. 3, 5.8.7 and 5.8.8).

use squib_core::x86::bits::*;

use super::is_canonical;
use super::rflags::{self, in_64};
use crate::env::Env;
use crate::fault::{Exception, Stop};
use crate::size::Size;
use crate::state::{Seg, Shadow, sreg};

/// R11 as SYSRET puts it into RFLAGS.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

/// A flat code segment of these instructions, which read no descriptor.
fn code(selector: u16, cpl: u8, long: bool) -> Seg {
    let size = if long { Seg::L } else { Seg::DB };
    Seg {
        base: 0,
        limit: u32::MAX,
        selector,
        attr: Seg::G | size | Seg::P | u16::from(cpl) << 5 | Seg::S | 0xb,
    }
}

/// A flat stack segment of these instructions.
fn data(selector: u16, cpl: u8) -> Seg {
    Seg {
        base: 0,
        limit: u32::MAX,
        selector,
        attr: Seg::G | Seg::DB | Seg::P | u16::from(cpl) << 5 | Seg::S | 3,
    }
}

/// Changes to a flat code and stack segment.
fn switch<E: Env + ?Sized>(env: &mut E, cs: u16, ss: u16, cpl: u8, long: bool) {
    let state = env.state();
    state.seg[sreg::CS] = code(cs, cpl, long);
    state.seg[sreg::SS] = data(ss, cpl);
    state.cpl = cpl;
    env.mode_changed();
}

/// Sets RFLAGS at the end of SYSCALL and SYSRET, where TF counts as it is then and not as it was before.
fn set_flags<E: Env + ?Sized>(env: &mut E, flags: u64) {
    rflags::set(env, flags);
    if flags & RFLAGS_TF != 0 {
        env.step_trap();
    }
}

/// SYSCALL.
///
/// # Errors
/// #UD outside of 64-bit mode or without EFER.SCE.
pub fn syscall<E: Env + ?Sized>(env: &mut E, next_rip: u64) -> Result<(), Stop> {
    if !in_64(env) || env.state_ref().efer & EFER_SCE == 0 {
        return Err(Exception::UD.into());
    }
    let state = env.state();
    let flags = state.rflags() & !RFLAGS_RF;
    let (star, fmask) = (state.msr.star, state.msr.fmask);
    state.r[1] = next_rip;
    state.r[11] = flags;
    state.rip = state.msr.lstar;
    let selector = (star >> 32) as u16 & 0xfffc;
    switch(env, selector, selector.wrapping_add(8), 0, true);
    set_flags(env, flags & !fmask);
    Ok(())
}

/// SYSRET; a 64-bit operand returns to 64-bit code, a 32-bit one to compatibility mode.
///
/// # Errors
/// #UD outside of 64-bit mode or without EFER.SCE; #GP(0) above ring 0 or where RCX is not canonical.
pub fn sysret<E: Env + ?Sized>(env: &mut E, size: Size) -> Result<(), Stop> {
    if !in_64(env) || env.state_ref().efer & EFER_SCE == 0 {
        return Err(Exception::UD.into());
    }
    let long = size == Size::B8;
    let state = env.state();
    let target = if long { state.r[1] } else { state.r[1] & 0xffff_ffff };
    if state.cpl != 0 || !is_canonical(target) {
        return Err(Exception::GP0.into());
    }
    let flags = state.r[11] & SYSRET_FLAGS;
    let base = (state.msr.star >> 48) as u16;
    state.rip = target;
    let cs = if long { base.wrapping_add(16) } else { base };
    switch(env, cs | 3, base.wrapping_add(8) | 3, 3, long);
    set_flags(env, flags);
    Ok(())
}

/// SYSENTER.
///
/// # Errors
/// #GP(0) in real mode or where IA32_SYSENTER_CS is null.
pub fn sysenter<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    let state = env.state();
    let selector = state.msr.sysenter_cs as u16 & 0xfffc;
    if !state.protected() || selector == 0 {
        return Err(Exception::GP0.into());
    }
    let long = state.long_mode();
    let width = if long { Size::B8 } else { Size::B4 };
    state.r[4] = width.trunc(state.msr.sysenter_esp);
    state.rip = width.trunc(state.msr.sysenter_eip);
    state.shadow = Shadow::None;
    state.sys_flags &= !(RFLAGS_VM | RFLAGS_IF);
    switch(env, selector, selector.wrapping_add(8), 0, long);
    Ok(())
}

/// SYSEXIT.
///
/// # Errors
/// #GP(0) in real mode, above ring 0, where IA32_SYSENTER_CS is null, and for RCX or RDX that are not canonical.
pub fn sysexit<E: Env + ?Sized>(env: &mut E, size: Size) -> Result<(), Stop> {
    let state = env.state();
    let base = state.msr.sysenter_cs as u16 & 0xfffc;
    let long = size == Size::B8;
    let (rip, rsp) = (state.r[2], state.r[1]);
    let canonical = !long || is_canonical(rip) && is_canonical(rsp);
    if !state.protected() || state.cpl != 0 || base == 0 || !canonical {
        return Err(Exception::GP0.into());
    }
    let width = if long { Size::B8 } else { Size::B4 };
    state.rip = width.trunc(rip);
    state.r[4] = width.trunc(rsp);
    let (cs, ss) = if long { (32, 40) } else { (16, 24) };
    switch(env, base.wrapping_add(cs) | 3, base.wrapping_add(ss) | 3, 3, long);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::*;
    use crate::env::Leave;
    use crate::state::CodeMode;

    const ENTRY: u64 = 0xffff_ffff_8000_0000;

    fn user() -> Mock {
        let mut m = Mock::long().user();
        m.state.msr.star = 0x23 << 48 | 0x10 << 32;
        m.state.msr.lstar = ENTRY;
        m.state.msr.fmask = RFLAGS_IF | RFLAGS_TF;
        m
    }

    #[test]
    fn there_and_back() {
        let mut m = user();
        m.state.sys_flags |= RFLAGS_IF | RFLAGS_RF;
        let before = m.state.rflags() & !RFLAGS_RF;
        syscall(&mut m, 0x401002).unwrap();
        let s = &m.state;
        assert_eq!((s.rip, s.r[1], s.r[11], s.cpl), (ENTRY, 0x401002, before, 0));
        assert_eq!((s.seg[sreg::CS].selector, s.seg[sreg::SS].selector), (0x10, 0x18));
        assert_eq!(s.sys_flags & (RFLAGS_IF | RFLAGS_RF), 0);
        assert!(s.seg[sreg::CS].is_code() && s.seg[sreg::SS].is_writable());
        sysret(&mut m, Size::B8).unwrap();
        let s = &m.state;
        assert_eq!((s.rip, s.cpl, s.mode, s.rflags()), (0x401002, 3, CodeMode::Bits64, before));
        assert_eq!((s.seg[sreg::CS].selector, s.seg[sreg::SS].selector), (0x33, 0x2b));
        assert_eq!(s.seg[sreg::SS].dpl(), 3);
        assert!(m.left.contains(&Leave::Recheck));
    }

    #[test]
    fn sysret_to_compatibility_mode() {
        let mut m = user();
        syscall(&mut m, 0xdead_0000_0000).unwrap();
        sysret(&mut m, Size::B4).unwrap();
        assert_eq!((m.state.rip, m.state.mode), (0, CodeMode::Bits32));
        assert_eq!(m.state.seg[sreg::CS].selector, 0x23);
        assert_eq!(m.attempt(|m| syscall(m, 0)), Err(Exception::UD.into()), "not from compatibility mode");
    }

    #[test]
    fn refusals() {
        let mut m = user();
        assert_eq!(m.attempt(|m| sysret(m, Size::B8)), Err(Exception::GP0.into()));
        syscall(&mut m, 0).unwrap();
        m.state.r[1] = 1 << 47;
        assert_eq!(m.attempt(|m| sysret(m, Size::B8)), Err(Exception::GP0.into()));
        m.state.efer &= !EFER_SCE;
        assert_eq!(m.attempt(|m| sysret(m, Size::B8)), Err(Exception::UD.into()));
        assert_eq!(m.attempt(|m| syscall(m, 0)), Err(Exception::UD.into()));
    }

    #[test]
    fn sysenter_and_sysexit() {
        for mut m in [Mock::long().user(), Mock::protected().user()] {
            let long = m.state.long_mode();
            assert_eq!(m.attempt(sysenter), Err(Exception::GP0.into()), "a null selector");
            m.state.msr.sysenter_cs = 0x10;
            m.state.msr.sysenter_eip = ENTRY;
            m.state.msr.sysenter_esp = ENTRY + 8;
            m.state.sys_flags |= RFLAGS_IF;
            let size = if long { Size::B8 } else { Size::B4 };
            sysenter(&mut m).unwrap();
            assert_eq!(
                (m.state.rip, m.state.r[4], m.state.cpl),
                (size.trunc(ENTRY), size.trunc(ENTRY + 8), 0)
            );
            assert_eq!((m.state.seg[sreg::CS].selector, m.state.seg[sreg::SS].selector), (0x10, 0x18));
            assert_eq!(m.state.sys_flags & RFLAGS_IF, 0);
            (m.state.r[1], m.state.r[2]) = (0x7000, 0x40_1000);
            sysexit(&mut m, size).unwrap();
            assert_eq!((m.state.rip, m.state.r[4], m.state.cpl), (0x40_1000, 0x7000, 3));
            assert_eq!(m.state.seg[sreg::CS].selector, if long { 0x33 } else { 0x23 });
            assert_eq!(m.attempt(|m| sysexit(m, size)), Err(Exception::GP0.into()), "from ring 3");
        }
        assert_eq!(Mock::new().attempt(sysenter), Err(Exception::GP0.into()));
    }
}
