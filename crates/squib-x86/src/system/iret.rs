//! IRET, IRETD and IRETQ (Intel SDM vol. 2, "IRET/IRETD/IRETQ").

use squib_core::x86::bits::*;

use super::descriptor::{self, code, is_null};
use super::stack::{Stack, within};
use super::{debug, is_canonical, rflags, segment, unsupported};
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
    let flags = returned(env, size, flags);
    let state = env.state();
    let cs = segment::real_mode(&old, selector);
    state.seg[sreg::CS] = Seg { attr: cs.attr | 8, ..cs };
    state.rip = ip;
    state.r[4] = stack.pointer(state.r[4]);
    rflags::set(env, flags);
    env.mode_changed();
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
    let cs_selector = stack.pop_selector(env, size)?;
    let flags = stack.pop(env, size)?;
    if !long && cpl == 0 && size == Size::B4 && flags & RFLAGS_VM != 0 {
        return Err(unsupported(env, "IRET to virtual-8086 mode"));
    }
    let target = CodeTarget::returned(env, cs_selector)?;
    let mut new_stack = None;
    if target.cpl > cpl || from_64 {
        let sp = stack.pop(env, size)?;
        let selector = stack.pop_selector(env, size)?;
        new_stack = Some((returned_stack(env, selector, &target)?, sp));
    }
    target.check_rip(rip)?;
    let flags = returned(env, size, flags);

    return_to(env, &target, cs_selector, rip, new_stack, &stack, 0)?;
    rflags::set(env, flags);
    Ok(())
}

/// RFLAGS as IRET leaves it. The next instruction clears RF, for which only an armed breakpoint has to wait.
fn returned<E: Env + ?Sized>(env: &E, size: Size, flags: u64) -> u64 {
    let flags = rflags::returned(env, size, flags);
    if debug::armed(env.state_ref()) { flags } else { flags & !RFLAGS_RF }
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
        let level =
            if descriptor.is_conforming() { descriptor.dpl() <= cpl } else { descriptor.dpl() == cpl };
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

/// Goes to checked segments: what IRET and RET far end with. `new_stack` is the stack segment and pointer of another
/// privilege level, from which `release` bytes are dropped too.
pub(super) fn return_to<E: Env + ?Sized>(
    env: &mut E,
    target: &CodeTarget,
    cs_selector: u16,
    rip: u64,
    new_stack: Option<(StackTarget, u64)>,
    popped: &Stack,
    release: u16,
) -> Result<(), Stop> {
    let cs = target.descriptor.mark_accessed(env)?.segment(cs_selector);
    let new_stack = match new_stack {
        Some((StackTarget::Descriptor(d, selector), sp)) => {
            Some((d.mark_accessed(env)?.segment(selector), sp))
        }
        Some((StackTarget::Null(selector), sp)) => Some((segment::null_stack(selector, target.cpl), sp)),
        None => None,
    };
    if target.cpl > env.state_ref().cpl {
        segment::drop_privileged(env, target.cpl);
    }
    let state = env.state();
    state.seg[sreg::CS] = cs;
    state.cpl = target.cpl;
    state.rip = rip;
    match new_stack {
        None => state.r[4] = popped.pointer(state.r[4]),
        Some((seg, sp)) => {
            state.seg[sreg::SS] = seg;
            state.update_mode();
            let sp = sp.wrapping_add(release.into());
            state.r[4] = match state.stack_size() {
                Size::B2 => state.r[4] & !0xffff | sp & 0xffff,
                width => width.trunc(sp),
            };
        }
    }
    env.mode_changed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mock::{Mock, STACK, sel};
    use super::*;
    use crate::state::CodeMode;

    /// Puts a frame of `size` words at the stack pointer.
    fn frame(m: &mut Mock, size: usize, words: &[u64]) {
        for (i, w) in words.iter().enumerate() {
            let at = m.state.r[4] + (i * size) as u64;
            m.ram.put(at, size, *w);
        }
    }

    fn fault(r: Result<(), Stop>) -> Exception {
        match r {
            Err(Stop::Fault(e)) => e,
            other => panic!("{other:?}"),
        }
    }

    const FLAGS: u64 = RFLAGS_FIXED | RFLAGS_IF;

    #[test]
    fn to_ring_3_and_what_it_drops() {
        let mut m = Mock::long();
        m.state.seg[sreg::GS].base = 0x1234;
        frame(
            &mut m,
            8,
            &[0x401000, sel::USER_CODE.into(), FLAGS | RFLAGS_CF, 0x7fff_f000, sel::USER_DATA.into()],
        );
        iret(&mut m, Size::B8).unwrap();
        let s = &m.state;
        assert_eq!((s.cpl, s.rip, s.r[4], s.mode), (3, 0x401000, 0x7fff_f000, CodeMode::Bits64));
        assert_eq!((s.seg[sreg::CS].selector, s.seg[sreg::SS].selector), (sel::USER_CODE, sel::USER_DATA));
        assert_eq!(s.rflags(), FLAGS | RFLAGS_CF);
        assert!(s.seg[sreg::DS].has(Seg::UNUSABLE) && s.seg[sreg::GS].has(Seg::UNUSABLE));
        assert_eq!(s.seg[sreg::GS].base, 0x1234);
        assert!(m.left.contains(&Leave::Recheck), "interrupts are on again");
    }

    #[test]
    fn to_compatibility_mode() {
        let mut m = Mock::long();
        let frame_of = [0xffff_ffff, sel::USER_CODE32.into(), FLAGS, 0x1_2345_6789, sel::USER_DATA.into()];
        frame(&mut m, 8, &frame_of);
        iret(&mut m, Size::B8).unwrap();
        assert_eq!((m.state.mode, m.state.rip, m.state.r[4]), (CodeMode::Bits32, 0xffff_ffff, 0x2345_6789));
        let mut m = Mock::long();
        frame(&mut m, 8, &[0x1_0000_0000, sel::USER_CODE32.into(), FLAGS, 0, sel::USER_DATA.into()]);
        assert_eq!(fault(m.attempt(|m| iret(m, Size::B8))), Exception::GP0, "beyond the limit");
    }

    #[test]
    fn in_64_bit_mode_the_stack_is_always_popped() {
        let mut m = Mock::long();
        frame(&mut m, 8, &[0x1000, sel::CODE.into(), RFLAGS_FIXED, 0x6000, 0]);
        iret(&mut m, Size::B8).unwrap();
        assert_eq!((m.state.r[4], m.state.seg[sreg::SS].selector), (0x6000, 0));
        let mut m = Mock::long();
        frame(&mut m, 8, &[0x1000, sel::USER_CODE.into(), RFLAGS_FIXED, 0x6000, 3]);
        assert_eq!(fault(m.attempt(|m| iret(m, Size::B8))), Exception::GP0, "ring 3 needs a stack segment");
    }

    #[test]
    fn segments_are_checked() {
        let cs = [
            (0u16, Exception::GP0),
            (sel::DATA, Exception::gp(0x10)),
            (0x100, Exception::gp(0x100)),
            (sel::USER_CODE & !3, Exception::gp(0x28)),
            (sel::CODE | 3, Exception::gp(8)),
        ];
        for (selector, expected) in cs {
            let mut m = Mock::long();
            frame(&mut m, 8, &[0x1000, selector.into(), FLAGS, 0x6000, sel::DATA.into()]);
            assert_eq!(fault(m.attempt(|m| iret(m, Size::B8))), expected, "CS {selector:#x}");
        }
        let mut m = Mock::long().user();
        frame(&mut m, 8, &[0x1000, sel::CODE.into(), FLAGS, 0x6000, sel::DATA.into()]);
        assert_eq!(fault(m.attempt(|m| iret(m, Size::B8))), Exception::gp(8), "never inwards");
        let ss = [
            (sel::DATA, Exception::gp(0x10)),
            (sel::USER_DATA & !3, Exception::gp(0x20)),
            (sel::READ_ONLY | 3, Exception::gp(0x50)),
        ];
        for (selector, expected) in ss {
            let mut m = Mock::long();
            frame(&mut m, 8, &[0x1000, sel::USER_CODE.into(), FLAGS, 0x6000, selector.into()]);
            assert_eq!(fault(m.attempt(|m| iret(m, Size::B8))), expected, "SS {selector:#x}");
        }
        let mut m = Mock::long();
        frame(&mut m, 8, &[1 << 47, sel::USER_CODE.into(), FLAGS, 0x6000, sel::USER_DATA.into()]);
        assert_eq!(fault(m.attempt(|m| iret(m, Size::B8))), Exception::GP0, "RIP is not canonical");
    }

    #[test]
    fn ring_3_keeps_its_iopl_and_if() {
        let mut m = Mock::long().user();
        frame(
            &mut m,
            8,
            &[
                0x1000,
                sel::USER_CODE.into(),
                FLAGS | RFLAGS_IOPL | RFLAGS_VIP | RFLAGS_RF,
                0x6000,
                sel::USER_DATA.into(),
            ],
        );
        m.state.dr7 |= 1;
        iret(&mut m, Size::B8).unwrap();
        assert_eq!(m.state.rflags(), RFLAGS_FIXED | RFLAGS_RF);
    }

    #[test]
    fn nested_task_is_no_return() {
        let mut m = Mock::long();
        m.state.sys_flags |= RFLAGS_NT;
        assert_eq!(fault(m.attempt(|m| iret(m, Size::B8))), Exception::GP0);
        let mut m = Mock::protected();
        m.state.sys_flags |= RFLAGS_NT;
        assert_eq!(m.attempt(|m| iret(m, Size::B4)), Err(Stop::Exit));
    }

    #[test]
    fn nmis_are_unblocked_even_by_a_fault() {
        for selector in [sel::CODE, sel::DATA] {
            let mut m = Mock::long();
            m.state.nmi_masked = true;
            frame(&mut m, 8, &[0x1000, selector.into(), FLAGS, 0x6000, 0]);
            let result = iret(&mut m, Size::B8);
            assert_eq!(result.is_ok(), selector == sel::CODE);
            assert!(!m.state.nmi_masked && m.left.contains(&Leave::Recheck));
        }
    }

    #[test]
    fn protected_mode_forms() {
        let mut m = Mock::protected();
        frame(&mut m, 4, &[0x1000, sel::CODE.into(), FLAGS]);
        iret(&mut m, Size::B4).unwrap();
        assert_eq!((m.state.rip, m.state.r[4], m.state.cpl), (0x1000, STACK + 12, 0));
        frame(&mut m, 2, &[0x1000, sel::USER_CODE.into(), FLAGS, 0x5678, sel::USER_DATA.into()]);
        iret(&mut m, Size::B2).unwrap();
        assert_eq!((m.state.rip, m.state.r[4], m.state.cpl), (0x1000, 0x5678, 3));
        let mut m = Mock::protected();
        frame(&mut m, 4, &[0x1000, sel::CODE.into(), FLAGS | RFLAGS_VM]);
        assert_eq!(m.attempt(|m| iret(m, Size::B4)), Err(Stop::Exit));
        assert!(matches!(m.left[..], [Leave::Unsupported(_)]));
    }

    #[test]
    fn real_mode_keeps_the_upper_flags() {
        let mut m = Mock::new();
        m.state.sys_flags |= RFLAGS_ID;
        frame(&mut m, 2, &[0x1234, 0x2000, FLAGS]);
        iret(&mut m, Size::B2).unwrap();
        assert_eq!((m.state.rip, m.state.seg[sreg::CS].base, m.state.r[4]), (0x1234, 0x20000, 6));
        assert_eq!(m.state.rflags(), FLAGS | RFLAGS_ID);
        frame(&mut m, 4, &[0x1_0000, 0x2000, FLAGS]);
        assert_eq!(fault(m.attempt(|m| iret(m, Size::B4))), Exception::GP0);
    }
}
