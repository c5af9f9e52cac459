//! Far jumps, calls and returns (Intel SDM vol. 2, "JMP", "CALL", "RET"; vol. 3, 5.8).

use super::descriptor::{self, Descriptor, code, is_null, kind};
use super::interrupt::{task_stack, task_stack_64};
use super::iret::{CodeTarget, return_to, returned_stack};
use super::stack::Stack;
use super::{segment, unsupported};
use crate::env::Env;
use crate::fault::{Exception, Stop};
use crate::size::Size;
use crate::state::{Seg, sreg};

/// Goes to `selector:ip` in real mode.
fn real_mode<E: Env + ?Sized>(env: &mut E, selector: u16, ip: u64, stack: Option<&Stack>) {
    let state = env.state();
    let cs = segment::real_mode(&state.seg[sreg::CS], selector);
    state.seg[sreg::CS] = Seg { attr: cs.attr | 8, ..cs };
    state.rip = ip;
    if let Some(stack) = stack {
        state.r[4] = stack.pointer(state.r[4]);
    }
    env.mode_changed();
}

/// Checks an offset in real mode.
fn check_real_mode<E: Env + ?Sized>(env: &E, ip: u64) -> Result<(), Stop> {
    let limit = env.state_ref().seg[sreg::CS].limit;
    if ip > limit.into() { Err(Exception::GP0.into()) } else { Ok(()) }
}

fn is_real_mode<E: Env + ?Sized>(env: &E) -> bool {
    let state = env.state_ref();
    !state.protected() || state.v86()
}

/// Where a far jump or call leads.
enum Target {
    /// A code segment, at the operand's offset.
    Code(CodeTarget),
    /// Through a call gate.
    Gate { target: CodeTarget, selector: u16, offset: u64, size: Size, parameters: u8 },
}

/// Reads and checks what `selector` names. A call through a gate may raise the privilege, a jump may not.
fn resolve<E: Env + ?Sized>(env: &mut E, selector: u16, is_call: bool) -> Result<Target, Stop> {
    if is_null(selector) {
        return Err(Exception::GP0.into());
    }
    let d = descriptor::read(env, selector, Exception::gp, 0)?;
    if !d.is_segment() {
        return through_gate(env, d, selector, is_call);
    }
    let state = env.state_ref();
    let (cpl, long) = (state.cpl, state.long_mode());
    let level = if d.is_conforming() { d.dpl() <= cpl } else { d.dpl() == cpl && selector as u8 & 3 <= cpl };
    if !d.is_code() || !level || long && d.is_long() && d.is_big() {
        return Err(Exception::gp(code(selector)).into());
    }
    if !d.is_present() {
        return Err(Exception::np(code(selector)).into());
    }
    Ok(Target::Code(CodeTarget { descriptor: d, cpl, is_64: long && d.is_long() }))
}

fn through_gate<E: Env + ?Sized>(
    env: &mut E,
    gate: Descriptor,
    selector: u16,
    is_call: bool,
) -> Result<Target, Stop> {
    let state = env.state_ref();
    let (cpl, long) = (state.cpl, state.long_mode());
    let bad = Exception::gp(code(selector));
    let known = match gate.kind() {
        kind::CALL_GATE => true,
        kind::CALL_GATE16 | kind::TASK_GATE | kind::TSS | kind::TSS16 => !long,
        _ => false,
    };
    if !known || gate.dpl() < cpl || gate.dpl() < selector as u8 & 3 {
        return Err(bad.into());
    }
    if long && descriptor::locate(env, selector, 16).is_none() {
        return Err(bad.into());
    }
    if !gate.is_present() {
        return Err(Exception::np(code(selector)).into());
    }
    if !matches!(gate.kind(), kind::CALL_GATE | kind::CALL_GATE16) {
        return Err(unsupported(env, "a task switch by a far jump or call"));
    }
    let mut offset = gate.offset();
    if long {
        let upper = gate.upper(env)?;
        offset |= upper << 32;
        if upper >> 40 & 0x1f != 0 {
            return Err(bad.into());
        }
    }
    let target = gate.target();
    if is_null(target) {
        return Err(Exception::GP0.into());
    }
    let cs = descriptor::read(env, target, Exception::gp, 0)?;
    let level = if is_call || cs.is_conforming() { cs.dpl() <= cpl } else { cs.dpl() == cpl };
    if !cs.is_code() || !level || long && (!cs.is_long() || cs.is_big()) {
        return Err(Exception::gp(code(target)).into());
    }
    if !cs.is_present() {
        return Err(Exception::np(code(target)).into());
    }
    let cpl = if cs.is_conforming() { cpl } else { cs.dpl() };
    let size = match gate.kind() {
        kind::CALL_GATE16 => Size::B2,
        _ if long => Size::B8,
        _ => Size::B4,
    };
    let target_code = CodeTarget { descriptor: cs, cpl, is_64: long };
    Ok(Target::Gate { target: target_code, selector: target, offset, size, parameters: gate.parameters() })
}

/// The code segment register for `target`, with its accessed bit set.
fn enter<E: Env + ?Sized>(env: &mut E, target: &CodeTarget, selector: u16) -> Result<Seg, Stop> {
    Ok(target.descriptor.mark_accessed(env)?.segment(selector & !3 | u16::from(target.cpl)))
}

/// JMP to `selector:offset`.
///
/// # Errors
/// #GP, #NP, #PF.
pub fn jump<E: Env + ?Sized>(env: &mut E, selector: u16, offset: u64, size: Size) -> Result<(), Stop> {
    let offset = size.trunc(offset);
    if is_real_mode(env) {
        check_real_mode(env, offset)?;
        real_mode(env, selector, offset, None);
        return Ok(());
    }
    let (target, selector, rip) = match resolve(env, selector, false)? {
        Target::Code(target) => (target, selector, offset),
        Target::Gate { target, selector, offset, .. } => (target, selector, offset),
    };
    target.check_rip(rip)?;
    let cs = enter(env, &target, selector)?;
    let state = env.state();
    state.seg[sreg::CS] = cs;
    state.rip = rip;
    env.mode_changed();
    Ok(())
}

/// CALL to `selector:offset`; `size` is that of the two pushes.
///
/// # Errors
/// #GP, #NP, #SS, #TS, #PF.
pub fn call<E: Env + ?Sized>(
    env: &mut E,
    selector: u16,
    offset: u64,
    size: Size,
    next_rip: u64,
) -> Result<(), Stop> {
    let offset = size.trunc(offset);
    let mut stack = Stack::current(env);
    let old_cs = env.state_ref().seg[sreg::CS].selector.into();
    if is_real_mode(env) {
        check_real_mode(env, offset)?;
        stack.push(env, size, &[old_cs, next_rip])?;
        real_mode(env, selector, offset, Some(&stack));
        return Ok(());
    }
    match resolve(env, selector, true)? {
        Target::Code(target) => {
            let cs = enter(env, &target, selector)?;
            // As near calls do, it writes the return address before it checks its target.
            stack = Stack::seen_by(env, target.is_64);
            stack.push(env, size, &[old_cs, next_rip])?;
            target.check_rip(offset)?;
            arrive(env, cs, target.cpl, offset, None, &stack);
        }
        Target::Gate { target, selector, offset, size, parameters } => {
            target.check_rip(offset)?;
            let old = env.state_ref();
            let mut ss = None;
            // SS and RSP, up to 31 parameters, CS and RIP; the first ones where the privilege changes.
            let mut frame = [0; 35];
            let mut count = 0;
            if target.cpl < old.cpl {
                (frame[0], frame[1]) = (old.seg[sreg::SS].selector.into(), old.r[4]);
                count = 2;
                if target.is_64 {
                    let sp = task_stack_64(env, 4 + 8 * u32::from(target.cpl), 0)?;
                    ss = Some(segment::null_stack(target.cpl.into(), target.cpl));
                    stack = Stack::flat(sp, target.cpl, 0);
                } else {
                    let (seg, sp) = task_stack(env, target.cpl, 0)?;
                    count += usize::from(parameters);
                    for slot in frame[2..count].iter_mut().rev() {
                        *slot = stack.pop(env, size)?;
                    }
                    ss = Some(seg);
                    stack = Stack::switched(seg, sp, code(seg.selector));
                }
            } else {
                stack = Stack::seen_by(env, target.is_64);
            }
            (frame[count], frame[count + 1]) = (old_cs, next_rip);
            let cs = enter(env, &target, selector)?;
            stack.push(env, size, &frame[..count + 2])?;
            arrive(env, cs, target.cpl, offset, ss, &stack);
        }
    }
    Ok(())
}

fn arrive<E: Env + ?Sized>(env: &mut E, cs: Seg, cpl: u8, rip: u64, ss: Option<Seg>, stack: &Stack) {
    let state = env.state();
    state.seg[sreg::CS] = cs;
    state.cpl = cpl;
    if let Some(ss) = ss {
        state.seg[sreg::SS] = ss;
    }
    state.rip = rip;
    state.r[4] = stack.pointer(state.r[4]);
    env.mode_changed();
}

/// RET far with this operand size; `release` bytes of parameters are dropped from both stacks.
///
/// # Errors
/// #GP, #NP, #SS, #PF.
pub fn ret<E: Env + ?Sized>(env: &mut E, size: Size, release: u16) -> Result<(), Stop> {
    let mut stack = Stack::current(env);
    let rip = stack.pop(env, size)?;
    let selector = stack.pop_selector(env, size)?;
    stack.skip(release.into());
    if is_real_mode(env) {
        check_real_mode(env, rip)?;
        real_mode(env, selector, rip, Some(&stack));
        return Ok(());
    }
    let target = CodeTarget::returned(env, selector)?;
    let mut new_stack = None;
    if target.cpl > env.state_ref().cpl {
        let sp = stack.pop(env, size)?;
        let selector = stack.pop(env, size)? as u16;
        new_stack = Some((returned_stack(env, selector, &target)?, sp));
    }
    target.check_rip(rip)?;
    return_to(env, &target, selector, rip, new_stack, &stack, release)
}

#[cfg(test)]
mod tests {
    use super::super::mock::{GDT, Mock, RSP0, STACK, TSS, sel};
    use super::*;
    use crate::env::Leave;
    use crate::state::CodeMode;

    fn err(e: Exception) -> Result<(), Stop> {
        Err(e.into())
    }

    fn put_gate(m: &mut Mock, kind: u64, dpl: u64, target: u16, offset: u64, parameters: u64) {
        let low =
            offset & 0xffff | u64::from(target) << 16 | parameters << 32 | (0x80 | dpl << 5 | kind) << 40;
        m.ram.put(GDT + u64::from(sel::GATE), 8, low | (offset >> 16 & 0xffff) << 48);
        m.ram.put(GDT + u64::from(sel::GATE) + 8, 8, offset >> 32);
    }

    #[test]
    fn real_mode_goes_anywhere_within_the_limit() {
        let mut m = Mock::new();
        m.state.r[4] = 0x100;
        call(&mut m, 0x1234, 0x5678, Size::B2, 0x42).unwrap();
        assert_eq!((m.state.rip, m.state.seg[sreg::CS].base, m.state.r[4]), (0x5678, 0x12340, 0xfc));
        assert_eq!(m.words(0xfc, 2, 2), [0x42, 0xf000]);
        ret(&mut m, Size::B2, 4).unwrap();
        assert_eq!((m.state.rip, m.state.seg[sreg::CS].selector, m.state.r[4]), (0x42, 0xf000, 0x104));
        assert_eq!(m.attempt(|m| jump(m, 0, 0x1_0000, Size::B4)), err(Exception::GP0));
        jump(&mut m, 0, 0x1_0000, Size::B2).unwrap();
        assert_eq!(m.state.rip, 0);
    }

    #[test]
    fn jumps_change_between_code_sizes() {
        let mut m = Mock::long();
        jump(&mut m, sel::CODE32, 0x1000, Size::B4).unwrap();
        assert_eq!(m.state.mode, CodeMode::Bits32);
        jump(&mut m, sel::CODE16, 0x1000, Size::B4).unwrap();
        assert_eq!(m.state.mode, CodeMode::Bits16);
        assert_eq!(m.attempt(|m| jump(m, sel::CODE16, 0x1_0000, Size::B4)), err(Exception::GP0));
        jump(&mut m, sel::CODE, 0xffff_ffff, Size::B4).unwrap();
        assert_eq!((m.state.mode, m.state.rip), (CodeMode::Bits64, 0xffff_ffff));
        assert_eq!(m.attempt(|m| jump(m, sel::CODE, 1 << 47, Size::B8)), err(Exception::GP0));
    }

    #[test]
    fn code_segments_are_checked() {
        let mut m = Mock::long();
        for (selector, e) in [
            (0, Exception::GP0),
            (3, Exception::GP0),
            (sel::DATA, Exception::gp(0x10)),
            (sel::USER_CODE, Exception::gp(0x28)),
            (sel::CODE | 3, Exception::gp(8)),
            (0x100, Exception::gp(0x100)),
            (sel::LDT, Exception::gp(sel::LDT.into())),
        ] {
            assert_eq!(m.attempt(|m| jump(m, selector, 0, Size::B8)), err(e), "{selector:#x}");
            assert_eq!(m.attempt(|m| call(m, selector, 0, Size::B8, 0)), err(e), "{selector:#x}");
        }
        m.ram.put(GDT + u64::from(sel::CODE) + 5, 1, 0x1b);
        assert_eq!(m.attempt(|m| jump(m, sel::CODE, 0, Size::B8)), err(Exception::np(8)));
        let mut m = Mock::long().user();
        jump(&mut m, sel::CONFORMING, 0, Size::B8).unwrap();
        assert_eq!((m.state.cpl, m.state.seg[sreg::CS].selector), (3, sel::CONFORMING | 3));
    }

    #[test]
    fn calls_return() {
        let mut m = Mock::long();
        call(&mut m, sel::CODE32, 0x2000, Size::B8, 0x1234).unwrap();
        assert_eq!((m.state.rip, m.state.r[4], m.state.mode), (0x2000, STACK - 16, CodeMode::Bits32));
        assert_eq!(m.words(STACK - 16, 8, 2), [0x1234, sel::CODE.into()]);
        m.state.r[4] = 0x7000;
        m.ram.put(0x7000, 4, 0x1234);
        m.ram.put(0x7004, 4, sel::CODE.into());
        ret(&mut m, Size::B4, 0).unwrap();
        assert_eq!((m.state.rip, m.state.r[4], m.state.mode), (0x1234, 0x7008, CodeMode::Bits64));
    }

    #[test]
    fn returns_go_outwards_only() {
        let mut m = Mock::protected();
        for (i, word) in
            [0x401000, sel::USER_CODE.into(), 0xdead, 0x7000, sel::USER_DATA.into()].iter().enumerate()
        {
            m.ram.put(STACK + 4 * i as u64, 4, *word);
        }
        ret(&mut m, Size::B4, 4).unwrap();
        assert_eq!((m.state.rip, m.state.cpl, m.state.r[4]), (0x401000, 3, 0x7004));
        assert!(m.state.seg[sreg::DS].has(Seg::UNUSABLE));
        m.ram.put(0x7008, 4, sel::CODE.into());
        assert_eq!(m.attempt(|m| ret(m, Size::B4, 0)), err(Exception::gp(8)));
        let mut m = Mock::protected();
        m.ram.put(STACK + 4, 4, sel::USER_CODE.into());
        m.ram.put(STACK + 12, 4, sel::DATA.into());
        assert_eq!(m.attempt(|m| ret(m, Size::B4, 0)), err(Exception::gp(0x10)), "the stack of another ring");
    }

    #[test]
    fn call_gates_raise_the_privilege() {
        let mut m = Mock::long().user();
        put_gate(&mut m, 12, 3, sel::CODE, 0xffff_8000_0000_1000, 0);
        call(&mut m, sel::GATE, 0xdead, Size::B8, 0x1234).unwrap();
        assert_eq!((m.state.rip, m.state.cpl, m.state.r[4]), (0xffff_8000_0000_1000, 0, RSP0 - 32));
        let expected = [0x1234, sel::USER_CODE.into(), STACK, sel::USER_DATA.into()];
        assert_eq!(m.words(RSP0 - 32, 8, 4), expected);
        let mut m = Mock::protected().user();
        put_gate(&mut m, 12, 3, sel::CODE, 0x1000, 2);
        m.ram.put(STACK, 4, 0xaa);
        m.ram.put(STACK + 4, 4, 0xbb);
        call(&mut m, sel::GATE, 0, Size::B4, 0x1234).unwrap();
        let expected = [0x1234, sel::USER_CODE.into(), 0xaa, 0xbb, STACK, sel::USER_DATA.into()];
        assert_eq!(m.words(RSP0 - 24, 4, 6), expected);
        assert_eq!(m.state.seg[sreg::SS].selector, sel::DATA);
        ret(&mut m, Size::B4, 8).unwrap();
        assert_eq!((m.state.rip, m.state.cpl, m.state.r[4]), (0x1234, 3, STACK + 8));
    }

    #[test]
    fn call_gates_are_checked() {
        for (kind, dpl, target, e) in [
            (12, 0, sel::CODE, Exception::gp(sel::GATE.into())),
            (4, 3, sel::CODE, Exception::gp(sel::GATE.into())),
            (12, 3, 0, Exception::GP0),
            (12, 3, sel::DATA, Exception::gp(0x10)),
            (12, 3, sel::CODE32, Exception::gp(sel::CODE32.into())),
        ] {
            let mut m = Mock::long().user();
            put_gate(&mut m, kind, dpl, target, 0x1000, 0);
            assert_eq!(m.attempt(|m| call(m, sel::GATE, 0, Size::B8, 0)), err(e), "{kind} {dpl} {target:#x}");
        }
        let mut m = Mock::long().user();
        put_gate(&mut m, 12, 3, sel::CODE, 0x1000, 0);
        assert_eq!(
            m.attempt(|m| jump(m, sel::GATE, 0, Size::B8)),
            err(Exception::gp(8)),
            "jumps stay in their ring"
        );
        m.state.tr.limit = 8;
        assert_eq!(m.attempt(|m| call(m, sel::GATE, 0, Size::B8, 0)), err(Exception::ts(sel::TSS.into())));
    }

    #[test]
    fn task_switches_are_left_out() {
        let mut m = Mock::protected();
        assert_eq!(m.attempt(|m| jump(m, sel::TSS, 0, Size::B4)), Err(Stop::Exit));
        assert!(matches!(m.left[..], [Leave::Unsupported(_)]));
        assert_eq!(TSS, m.state.tr.base);
    }
}
