//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (Intel SDM vol. 2; vol. 3, 5.8.7 and 5.8.8; AMD APM vol. 3).

use squib_core::x86::bits::*;

use super::is_canonical;
use super::rflags::{self, in_64};
use crate::env::Env;
use crate::fault::{Exception, Stop};
use crate::model::Vendor;
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

/// SYSCALL. AMD's enters a kernel from compatibility mode by CSTAR, and from legacy protected mode by STAR.
///
/// # Errors
/// #UD without EFER.SCE, in real mode, and on Intel's processors outside of 64-bit mode.
pub fn syscall<E: Env + ?Sized>(env: &mut E, next_rip: u64) -> Result<(), Stop> {
    let (from_64, amd) = (in_64(env), env.model().vendor == Vendor::Amd);
    let state = env.state_ref();
    if state.efer & EFER_SCE == 0 || !from_64 && !amd || !state.protected() || state.v86() {
        return Err(Exception::UD.into());
    }
    let state = env.state();
    let flags = state.rflags() & !RFLAGS_RF;
    let (star, fmask, long) = (state.msr.star, state.msr.fmask, state.long_mode());
    state.r[1] = next_rip;
    state.rip = match (long, from_64) {
        (true, true) => state.msr.lstar,
        (true, false) => state.msr.cstar,
        (false, _) => star & 0xffff_ffff,
    };
    if long {
        state.r[11] = flags;
    }
    let selector = (star >> 32) as u16 & 0xfffc;
    switch(env, selector, selector.wrapping_add(8), 0, long);
    set_flags(env, flags & !if long { fmask } else { RFLAGS_IF | RFLAGS_VM });
    Ok(())
}

/// SYSRET; a 64-bit operand returns to 64-bit code, a 32-bit one to code of 32 bits. AMD's works in every protected mode, leaves
/// SS but for the selector as it is, and looks at the target only there.
///
/// # Errors
/// #UD without EFER.SCE, and on Intel's processors outside of 64-bit mode; #GP(0) above ring 0, in real mode, and on
/// Intel's processors where RCX is not canonical.
pub fn sysret<E: Env + ?Sized>(env: &mut E, size: Size) -> Result<(), Stop> {
    let (from_64, amd) = (in_64(env), env.model().vendor == Vendor::Amd);
    let state = env.state();
    if state.efer & EFER_SCE == 0 || !from_64 && !amd {
        return Err(Exception::UD.into());
    }
    let long = size == Size::B8;
    let target = if long { state.r[1] } else { state.r[1] & 0xffff_ffff };
    if !state.protected() || state.v86() || state.cpl != 0 || !amd && !is_canonical(target) {
        return Err(Exception::GP0.into());
    }
    let flags = if from_64 { state.r[11] & SYSRET_FLAGS } else { state.rflags() | RFLAGS_IF };
    let base = (state.msr.star >> 48) as u16;
    let stack = state.seg[sreg::SS];
    state.rip = target;
    let cs = if long { base.wrapping_add(16) } else { base };
    switch(env, cs | 3, base.wrapping_add(8) | 3, 3, long);
    if amd {
        let ss = &mut env.state().seg[sreg::SS];
        *ss = Seg { selector: ss.selector, attr: stack.attr | 3 << 5, ..stack };
        env.mode_changed();
    }
    set_flags(env, flags);
    Ok(())
}

/// SYSENTER and SYSEXIT are not in long mode on AMD's processors.
fn check_sysenter<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    if env.model().vendor == Vendor::Amd && env.state_ref().long_mode() {
        return Err(Exception::UD.into());
    }
    Ok(())
}

/// SYSENTER.
///
/// # Errors
/// #GP(0) in real mode or where IA32_SYSENTER_CS is null; #UD on AMD's processors in long mode.
pub fn sysenter<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    check_sysenter(env)?;
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
/// #GP(0) in real mode, above ring 0, where IA32_SYSENTER_CS is null, and for RCX or RDX that are not canonical; #UD on AMD's
/// processors in long mode.
pub fn sysexit<E: Env + ?Sized>(env: &mut E, size: Size) -> Result<(), Stop> {
    check_sysenter(env)?;
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

    fn amd(mut m: Mock) -> Mock {
        m.model.vendor = Vendor::Amd;
        m.state.msr.star = 0x23 << 48 | 0x10 << 32 | 0x40_0000;
        m.state.msr.cstar = ENTRY + 0x100;
        m.state.efer |= EFER_SCE;
        m
    }

    #[test]
    fn on_amd_compatibility_mode_has_an_entry_of_its_own() {
        let mut m = amd(user());
        syscall(&mut m, 0x401002).unwrap();
        assert_eq!(m.state.rip, ENTRY);
        sysret(&mut m, Size::B4).unwrap();
        m.state.sys_flags |= RFLAGS_IF;
        syscall(&mut m, 0x3002).unwrap();
        let s = &m.state;
        assert_eq!((s.rip, s.r[1], s.cpl, s.mode), (ENTRY + 0x100, 0x3002, 0, CodeMode::Bits64));
        assert_eq!((s.r[11] & RFLAGS_IF, s.sys_flags & RFLAGS_IF), (RFLAGS_IF, 0));
        assert_eq!((s.seg[sreg::CS].selector, s.seg[sreg::SS].selector), (0x10, 0x18));
    }

    #[test]
    fn on_amd_a_return_leaves_the_stack_segment() {
        let mut m = amd(user());
        syscall(&mut m, 0x401002).unwrap();
        m.state.seg[sreg::SS] = Seg { selector: 0x18, attr: Seg::UNUSABLE, ..Seg::default() };
        m.state.r[1] = 1 << 47;
        sysret(&mut m, Size::B8).unwrap();
        let s = &m.state;
        assert_eq!((s.rip, s.cpl), (1 << 47, 3), "the fault comes there");
        let ss = &s.seg[sreg::SS];
        assert_eq!((ss.selector, ss.limit, ss.dpl(), ss.has(Seg::UNUSABLE)), (0x2b, 0, 3, true));
    }

    #[test]
    fn on_amd_legacy_mode_enters_by_star() {
        let mut m = amd(Mock::protected().user());
        (m.state.r[11], m.state.msr.fmask) = (7, RFLAGS_DF);
        m.state.sys_flags |= RFLAGS_IF | RFLAGS_DF;
        syscall(&mut m, 0x3002).unwrap();
        let s = &m.state;
        assert_eq!((s.rip, s.r[1], s.r[11], s.cpl, s.mode), (0x40_0000, 0x3002, 7, 0, CodeMode::Bits32));
        assert_eq!(s.sys_flags & (RFLAGS_IF | RFLAGS_DF), RFLAGS_DF);
        sysret(&mut m, Size::B4).unwrap();
        let s = &m.state;
        assert_eq!((s.rip, s.cpl, s.seg[sreg::CS].selector), (0x3002, 3, 0x23));
        assert_eq!(s.sys_flags & RFLAGS_IF, RFLAGS_IF);
        assert_eq!(m.attempt(|m| sysret(m, Size::B4)), Err(Exception::GP0.into()));
        let mut real = amd(Mock::new());
        assert_eq!(real.attempt(|m| syscall(m, 0)), Err(Exception::UD.into()));
        assert_eq!(real.attempt(|m| sysret(m, Size::B4)), Err(Exception::GP0.into()));
    }

    #[test]
    fn on_amd_long_mode_has_no_sysenter() {
        for (m, there) in [(Mock::long(), false), (Mock::protected(), true)] {
            let mut m = amd(m);
            m.state.msr.sysenter_cs = 0x10;
            let ud = Err(Exception::UD.into());
            assert_eq!(m.attempt(sysenter) != ud, there);
            assert_eq!(m.attempt(|m| sysexit(m, Size::B4)) != ud, there);
        }
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
