//! Delivery of interrupts and exceptions through the IDT (Intel SDM vol. 3, chapter 6; vol. 2, "INT n").

use squib_core::x86::bits::*;

use super::descriptor::{self, Descriptor, code, is_null, kind};
use super::stack::{Stack, within};
use super::{is_canonical, rflags, segment, unsupported};
use crate::env::{Env, Leave, Rights};
use crate::fault::{Exception, Stop};
use crate::size::Size;
use crate::state::{Seg, Shadow, sreg};

/// Where an event comes from: it decides on privilege checks and the EXT bit of error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// An external interrupt or an NMI.
    External,
    /// INT n, INT3 or INTO.
    Instruction,
    /// An exception, or INT1.
    Exception,
}

/// Something to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    vector: u8,
    source: Source,
    error: Option<u32>,
    /// RF in the pushed flags: the instruction will run again, and its breakpoints must not fire again.
    resume: bool,
}

impl Event {
    /// An external interrupt. An NMI is vector 2 of these, after `state.nmi_masked` was set.
    pub const fn external(vector: u8) -> Self {
        Self { vector, source: Source::External, error: None, resume: false }
    }

    /// INT n, INT3 (vector 3) or INTO (vector 4); the return address is that of the following instruction.
    pub const fn software(vector: u8) -> Self {
        Self { vector, source: Source::Instruction, error: None, resume: false }
    }

    /// INT1, which is software but not subject to the gate's privilege level.
    pub const fn int1() -> Self {
        Self { vector: 1, source: Source::Exception, error: None, resume: false }
    }

    const fn exception(e: Exception) -> Self {
        Self { vector: e.vector, source: Source::Exception, error: e.error, resume: is_fault(e.vector) }
    }

    /// EXT: the event is not the program's doing.
    const fn ext(&self) -> u32 {
        (!matches!(self.source, Source::Instruction)) as u32
    }

    /// The error code that names the event's own gate.
    const fn gate_error(&self) -> u32 {
        (self.vector as u32) << 3 | 2 | self.ext()
    }
}

/// Whether an exception reports the instruction that caused it, for it to be run again (Intel SDM vol. 3, 6.5).
/// #DB is both; its breakpoint faults leave setting RF to the handler.
const fn is_fault(vector: u8) -> bool {
    !matches!(vector, 1 | 3 | 4 | 8 | 18)
}

/// Raises an exception found at the instruction at `rip` (for a trap: the instruction after it). Where its
/// delivery faults, what follows follows: a second exception, a double fault, or shutdown, told by
/// [`Leave::TripleFault`]. Sets CR2 for a page fault; for #DB, whose `address` holds the conditions, DR6.
///
/// # Errors
/// [`Stop::Exit`] only.
pub fn raise<E: Env + ?Sized>(env: &mut E, exception: Exception, rip: u64) -> Result<(), Stop> {
    let mut current = exception;
    // A benign exception, a contributory one, a page fault, a double fault: no chain is longer.
    for _ in 0..5 {
        match current.vector {
            1 => super::debug::record(env.state(), current.address),
            14 => env.state().cr2 = current.address,
            _ => {}
        }
        match deliver(env, Event::exception(current), rip) {
            Ok(()) => return Ok(()),
            Err(Stop::Exit) => return Err(Stop::Exit),
            Err(Stop::Fault(second)) => match combine(current, second) {
                Some(next) => current = next,
                None => break,
            },
        }
    }
    env.state().rip = rip;
    env.leave(Leave::TripleFault);
    Ok(())
}

/// What becomes of two exceptions (Intel SDM vol. 3, table 6-5); `None` is shutdown.
fn combine(first: Exception, second: Exception) -> Option<Exception> {
    let contributory = |v| matches!(v, 0 | 10..=13);
    match (first.vector, second.vector) {
        (8, _) => None,
        (14, 14) => Some(Exception::df(0)),
        (a, b) if (contributory(a) || a == 14) && contributory(b) => Some(Exception::df(0)),
        _ => Some(second),
    }
}

/// Delivers an event: the handler runs next, and returns to `return_rip`.
///
/// # Errors
/// The exception that delivery itself raises; for [`raise`] with the address of the interrupted instruction.
pub fn deliver<E: Env + ?Sized>(env: &mut E, event: Event, return_rip: u64) -> Result<(), Stop> {
    let state = env.state_ref();
    if state.v86() {
        return Err(unsupported(env, "an interrupt in virtual-8086 mode"));
    }
    if !state.protected() {
        real_mode(env, event, return_rip)
    } else if state.long_mode() {
        long_mode(env, event, return_rip)
    } else {
        protected_mode(env, event, return_rip)
    }
}

fn real_mode<E: Env + ?Sized>(env: &mut E, event: Event, return_rip: u64) -> Result<(), Stop> {
    let idt = env.state_ref().idt;
    let offset = u64::from(event.vector) * 4;
    if offset + 3 > idt.limit.into() {
        return Err(Exception::gp(event.gate_error()).into());
    }
    let target = env.read(idt.base.wrapping_add(offset) & 0xffff_ffff, Size::B4, Rights::System)?;
    let state = env.state_ref();
    let mut stack = Stack::current(env);
    stack.push(
        env,
        Size::B2,
        &[state_flags(state, event), state.seg[sreg::CS].selector.into(), return_rip],
    )?;
    let state = env.state();
    let selector = (target >> 16) as u16;
    let cs = segment::real_mode(&state.seg[sreg::CS], selector);
    state.seg[sreg::CS] = Seg { attr: cs.attr | 8, ..cs };
    state.rip = target & 0xffff;
    state.r[4] = stack.pointer(state.r[4]);
    state.shadow = Shadow::None;
    let flags = state.rflags() & !(RFLAGS_IF | RFLAGS_TF | RFLAGS_RF | RFLAGS_AC);
    rflags::set(env, flags);
    env.mode_changed();
    Ok(())
}

/// RFLAGS as an event pushes them.
fn state_flags(state: &crate::CpuState, event: Event) -> u64 {
    state.rflags() | if event.resume { RFLAGS_RF } else { 0 }
}

/// Reads and checks the gate of `event`.
fn gate<E: Env + ?Sized>(env: &mut E, event: Event, stride: u64, kinds: &[u8]) -> Result<Descriptor, Stop> {
    let state = env.state_ref();
    let (cpl, long) = (state.cpl, state.long_mode());
    let offset = u64::from(event.vector) * stride;
    let bad = Exception::gp(event.gate_error());
    if offset + stride - 1 > state.idt.limit.into() {
        return Err(bad.into());
    }
    let at = state.idt.base.wrapping_add(offset);
    let at = if long { at } else { at & 0xffff_ffff };
    let gate = Descriptor::at(at, env.read(at, Size::B8, Rights::System)?);
    let allowed = event.source != Source::Instruction || gate.dpl() >= cpl;
    if gate.is_segment() || !kinds.contains(&gate.kind()) || !allowed {
        return Err(bad.into());
    }
    if !gate.is_present() {
        return Err(Exception::np(event.gate_error()).into());
    }
    Ok(gate)
}

/// Reads and checks the code segment that a gate leads to.
fn handler_segment<E: Env + ?Sized>(env: &mut E, selector: u16, ext: u32) -> Result<Descriptor, Stop> {
    if is_null(selector) {
        return Err(Exception::gp(ext).into());
    }
    let bad = Exception::gp(code(selector) | ext);
    let cs = descriptor::read(env, selector, Exception::gp, ext)?;
    let state = env.state_ref();
    if !cs.is_code() || cs.dpl() > state.cpl || state.long_mode() && (!cs.is_long() || cs.is_big()) {
        return Err(bad.into());
    }
    if !cs.is_present() {
        return Err(Exception::np(code(selector) | ext).into());
    }
    Ok(cs)
}

fn long_mode<E: Env + ?Sized>(env: &mut E, event: Event, return_rip: u64) -> Result<(), Stop> {
    let ext = event.ext();
    let gate = gate(env, event, 16, &[kind::INTERRUPT_GATE, kind::TRAP_GATE])?;
    let offset = gate.offset() | gate.upper(env)? << 32;
    let selector = gate.target();
    let cs = handler_segment(env, selector, ext)?;
    let old = env.state_ref();
    let cpl = if cs.is_conforming() { old.cpl } else { cs.dpl() };
    let (old_cpl, rsp) = (old.cpl, old.r[4]);
    let frame = [
        old.seg[sreg::SS].selector.into(),
        rsp,
        state_flags(old, event),
        old.seg[sreg::CS].selector.into(),
        return_rip,
        event.error.unwrap_or(0).into(),
    ];
    let sp = match gate.ist() {
        0 if cpl == old_cpl => rsp,
        0 => task_stack_64(env, 4 + 8 * u32::from(cpl), ext)?,
        ist => task_stack_64(env, 0x1c + 8 * u32::from(ist), ext)?,
    };
    let mut stack = Stack::flat(sp & !15, cpl, ext);
    let frame = if event.error.is_some() { &frame[..] } else { &frame[..5] };
    if !is_canonical(sp) {
        return Err(Exception::ss(ext).into());
    }
    if !is_canonical(offset) {
        return Err(Exception::gp(ext).into());
    }
    let cs = cs.mark_accessed(env)?.segment(selector & !3 | u16::from(cpl));
    stack.push(env, Size::B8, frame)?;
    let ss = (cpl != old_cpl).then(|| segment::null_stack(cpl.into(), cpl));
    enter(env, Entry { cs, cpl, rip: offset, ss, stack, masks: gate.kind() == kind::INTERRUPT_GATE });
    Ok(())
}

/// A stack pointer from the 64-bit task state (Intel SDM vol. 3, 7.7).
pub(super) fn task_stack_64<E: Env + ?Sized>(env: &mut E, offset: u32, ext: u32) -> Result<u64, Stop> {
    let tr = env.state_ref().tr;
    if offset + 7 > tr.limit {
        return Err(Exception::ts(code(tr.selector) | ext).into());
    }
    env.read(tr.base.wrapping_add(offset.into()), Size::B8, Rights::System)
}

fn protected_mode<E: Env + ?Sized>(env: &mut E, event: Event, return_rip: u64) -> Result<(), Stop> {
    let ext = event.ext();
    let kinds =
        [kind::TASK_GATE, kind::INTERRUPT_GATE16, kind::TRAP_GATE16, kind::INTERRUPT_GATE, kind::TRAP_GATE];
    let gate = gate(env, event, 8, &kinds)?;
    if gate.kind() == kind::TASK_GATE {
        return Err(unsupported(env, "a task gate in the IDT"));
    }
    let size = if gate.kind() & 8 == 0 { Size::B2 } else { Size::B4 };
    let selector = gate.target();
    let cs = handler_segment(env, selector, ext)?;
    let old = env.state_ref();
    let cpl = if cs.is_conforming() { old.cpl } else { cs.dpl() };
    let inner = cpl != old.cpl;
    let frame = [
        old.seg[sreg::SS].selector.into(),
        size.trunc(old.r[4]),
        state_flags(old, event),
        old.seg[sreg::CS].selector.into(),
        return_rip,
        event.error.unwrap_or(0).into(),
    ];
    let mut stack = Stack::current(env).for_delivery(cpl, ext);
    let mut ss = None;
    if inner {
        let (seg, sp) = task_stack(env, cpl, ext)?;
        ss = Some(seg);
        stack = Stack::switched(seg, sp, code(seg.selector) | ext);
    }
    let frame = &frame[if inner { 0 } else { 2 }..if event.error.is_some() { 6 } else { 5 }];
    if !within(&cs.segment(selector), gate.offset(), 1) {
        return Err(Exception::gp(ext).into());
    }
    let cs = cs.mark_accessed(env)?.segment(selector & !3 | u16::from(cpl));
    stack.push(env, size, frame)?;
    let masks = matches!(gate.kind(), kind::INTERRUPT_GATE | kind::INTERRUPT_GATE16);
    enter(env, Entry { cs, cpl, rip: gate.offset(), ss, stack, masks });
    Ok(())
}

/// The stack of privilege level `cpl` in a 16- or 32-bit task state, checked (Intel SDM vol. 3, 7.2.1).
pub(super) fn task_stack<E: Env + ?Sized>(env: &mut E, cpl: u8, ext: u32) -> Result<(Seg, u64), Stop> {
    let tr = env.state_ref().tr;
    let wide = tr.kind() & 8 != 0;
    let (offset, size) =
        if wide { (4 + 8 * u32::from(cpl), Size::B4) } else { (2 + 4 * u32::from(cpl), Size::B2) };
    let len = size.bytes() as u32;
    if offset + len + 1 > tr.limit {
        return Err(Exception::ts(code(tr.selector) | ext).into());
    }
    let at = |o: u32| tr.base.wrapping_add(o.into()) & 0xffff_ffff;
    let sp = env.read(at(offset), size, Rights::System)?;
    let selector = env.read(at(offset + len), Size::B2, Rights::System)? as u16;
    if is_null(selector) {
        return Err(Exception::ts(ext).into());
    }
    let ss = segment::stack_descriptor(env, selector, cpl, Exception::ts, ext)?;
    Ok((ss.mark_accessed(env)?.segment(selector), sp))
}

/// The state that a handler starts in.
struct Entry {
    cs: Seg,
    cpl: u8,
    rip: u64,
    /// The new stack segment, where the stack was switched by privilege.
    ss: Option<Seg>,
    stack: Stack,
    /// IF is cleared.
    masks: bool,
}

fn enter<E: Env + ?Sized>(env: &mut E, e: Entry) {
    let state = env.state();
    let changed = state.cpl != e.cpl || state.seg[sreg::CS] != e.cs || e.ss.is_some();
    state.cpl = e.cpl;
    state.seg[sreg::CS] = e.cs;
    if let Some(ss) = e.ss {
        state.seg[sreg::SS] = ss;
    }
    state.r[4] = e.stack.pointer(state.r[4]);
    state.rip = e.rip;
    state.shadow = Shadow::None;
    let cleared = RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | if e.masks { RFLAGS_IF } else { 0 };
    state.sys_flags &= !cleared;
    if changed {
        env.mode_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::super::mock::{GDT, IDT, IST1, Mock, RSP0, STACK, TSS, sel};
    use super::*;
    use crate::state::CodeMode;

    const HANDLER: u64 = 0xffff_8000_1234_5678;

    fn fault(r: Result<(), Stop>) -> Exception {
        match r {
            Err(Stop::Fault(e)) => e,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn real_mode_pushes_three_words() {
        let mut m = Mock::new();
        m.state.idt.base = 0;
        m.ram.put(0x21 * 4, 4, 0x1234_5678);
        m.state.r[4] = 0xdead_0002;
        m.state.seg[sreg::SS].base = 0x8000;
        m.state.seg[sreg::CS].selector = 0xabcd;
        m.state.sys_flags |= RFLAGS_IF | RFLAGS_TF;
        deliver(&mut m, Event::software(0x21), 0x1_0042).unwrap();
        assert_eq!(m.state.rip, 0x5678);
        let cs = m.state.seg[sreg::CS];
        assert_eq!((cs.selector, cs.base, cs.is_code()), (0x1234, 0x12340, true));
        assert_eq!(m.state.r[4], 0xdead_fffc, "the pointer wraps within 16 bits");
        assert_eq!(m.ram.get(0x8000, 2), (RFLAGS_IF | RFLAGS_TF | 2) & 0xffff);
        assert_eq!([m.ram.get(0x1_7ffe, 2), m.ram.get(0x1_7ffc, 2)], [0xabcd, 0x42]);
        assert_eq!(m.state.rflags(), RFLAGS_FIXED);
        m.state.idt.limit = 0x21 * 4 + 2;
        assert_eq!(fault(m.attempt(|m| deliver(m, Event::software(0x21), 0))).vector, 13);
    }

    #[test]
    fn long_mode_same_privilege_aligns_the_stack() {
        let mut m = Mock::long();
        m.gate(0x20, sel::CODE, HANDLER, 0x8e, 0);
        m.state.r[4] = STACK - 4;
        m.state.sys_flags |= RFLAGS_IF | RFLAGS_TF | RFLAGS_NT | RFLAGS_DF;
        m.state.shadow = Shadow::Sti;
        let flags = m.state.rflags();
        deliver(&mut m, Event::external(0x20), 0x77).unwrap();
        assert_eq!((m.state.rip, m.state.r[4]), (HANDLER, STACK - 16 - 40));
        let expected = [0x77, sel::CODE.into(), flags, STACK - 4, sel::DATA.into()];
        assert_eq!(m.words(m.state.r[4], 8, 5), expected);
        assert_eq!(m.state.rflags(), RFLAGS_FIXED | RFLAGS_DF);
        assert_eq!(m.state.shadow, Shadow::None);
        assert_eq!(m.state.seg[sreg::SS].selector, sel::DATA);
        assert_eq!(m.modes_changed, 0, "nothing that accesses depend on has changed");
    }

    #[test]
    fn trap_gates_leave_interrupts_on() {
        let mut m = Mock::long();
        m.gate(3, sel::CODE, HANDLER, 0x8f, 0);
        m.state.sys_flags |= RFLAGS_IF;
        deliver(&mut m, Event::software(3), 0).unwrap();
        assert_ne!(m.state.sys_flags & RFLAGS_IF, 0);
    }

    #[test]
    fn from_ring_3_the_task_state_gives_the_stack() {
        let mut m = Mock::long().user();
        m.gate(14, sel::CODE, HANDLER, 0x8e, 0);
        raise(&mut m, Exception::pf(7, 0xdead_beef), 0x401000).unwrap();
        assert_eq!(m.state.cr2, 0xdead_beef);
        assert_eq!((m.state.cpl, m.state.rip, m.state.r[4]), (0, HANDLER, RSP0 - 48));
        let flags = RFLAGS_FIXED | RFLAGS_RF;
        assert_eq!(
            m.words(RSP0 - 48, 8, 6),
            [7, 0x401000, sel::USER_CODE.into(), flags, STACK, sel::USER_DATA.into()]
        );
        let ss = m.state.seg[sreg::SS];
        assert_eq!((ss.selector, ss.has(Seg::UNUSABLE)), (0, true));
        assert_eq!(m.state.mode, CodeMode::Bits64);
        assert!(m.modes_changed > 0);
    }

    #[test]
    fn interrupt_stacks_are_used_at_any_privilege() {
        for user in [false, true] {
            let mut m = Mock::long();
            m.gate(8, sel::CODE, HANDLER, 0x8e, 1);
            if user {
                m = m.user();
            }
            raise(&mut m, Exception::df(0), 0).unwrap();
            assert_eq!(m.state.r[4], IST1 - 48);
            assert_eq!(m.state.seg[sreg::SS].selector, if user { 0 } else { sel::DATA });
        }
    }

    #[test]
    fn software_interrupts_obey_the_gate_privilege() {
        let mut m = Mock::long().user();
        m.gate(0x80, sel::CODE, HANDLER, 0x8e, 0);
        let denied = m.attempt(|m| deliver(m, Event::software(0x80), 0));
        assert_eq!(fault(denied), Exception::gp(0x80 << 3 | 2));
        deliver(&mut m, Event::external(0x80), 0).unwrap();
        let mut m = Mock::long().user();
        m.gate(0x80, sel::CODE, HANDLER, 0xee, 0);
        deliver(&mut m, Event::software(0x80), 0).unwrap();
        let mut m = Mock::long().user();
        m.gate(1, sel::CODE, HANDLER, 0x8e, 0);
        deliver(&mut m, Event::int1(), 0).unwrap();
    }

    #[test]
    fn gates_are_checked_in_order() {
        let cases = [
            // selector, offset, attributes, expected (EXT is set: an external interrupt)
            (sel::CODE, HANDLER, 0x0e, Exception::np(0x20 << 3 | 3)),
            (sel::CODE, HANDLER, 0x86, Exception::gp(0x20 << 3 | 3)),
            (sel::CODE, HANDLER, 0x9e, Exception::gp(0x20 << 3 | 3)),
            (0, HANDLER, 0x8e, Exception::gp(1)),
            (0x100, HANDLER, 0x8e, Exception::gp(0x101)),
            (sel::DATA, HANDLER, 0x8e, Exception::gp(sel::DATA as u32 | 1)),
            (sel::CODE32, HANDLER, 0x8e, Exception::gp(sel::CODE32 as u32 | 1)),
            (sel::USER_CODE, HANDLER, 0x8e, Exception::gp(0x28 | 1)),
            (sel::CODE, 1 << 47, 0x8e, Exception::gp(1)),
        ];
        for (selector, offset, attr, expected) in cases {
            let mut m = Mock::long();
            m.gate(0x20, selector, offset, attr, 0);
            assert_eq!(
                fault(m.attempt(|m| deliver(m, Event::external(0x20), 0))),
                expected,
                "{attr:#x} {selector:#x}"
            );
        }
        let mut m = Mock::long();
        m.ram.put(GDT + u64::from(sel::CODE) + 5, 1, 0x1b);
        m.gate(0x20, sel::CODE, HANDLER, 0x8e, 0);
        assert_eq!(
            fault(m.attempt(|m| deliver(m, Event::external(0x20), 0))),
            Exception::np(sel::CODE as u32 | 1)
        );
        m.state.idt.limit = 0x20f - 1;
        assert_eq!(fault(m.attempt(|m| deliver(m, Event::external(0x20), 0))), Exception::gp(0x20 << 3 | 3));
        let mut m = Mock::long().user();
        m.gate(0x20, sel::CODE, HANDLER, 0x8e, 0);
        m.state.tr.limit = 10;
        assert_eq!(
            fault(m.attempt(|m| deliver(m, Event::external(0x20), 0))),
            Exception::ts(sel::TSS as u32 | 1)
        );
        m.state.tr.limit = 0x67;
        m.ram.put(TSS + 4, 8, 1 << 60);
        assert_eq!(fault(m.attempt(|m| deliver(m, Event::external(0x20), 0))), Exception::ss(1));
    }

    #[test]
    fn conforming_handlers_stay_in_their_ring() {
        let mut m = Mock::long().user();
        m.gate(0x20, sel::CONFORMING, HANDLER, 0x8e, 0);
        deliver(&mut m, Event::external(0x20), 0).unwrap();
        assert_eq!(
            (m.state.cpl, m.state.seg[sreg::CS].selector, m.state.r[4]),
            (3, sel::CONFORMING | 3, STACK - 40)
        );
    }

    #[test]
    fn protected_mode_switches_stacks() {
        let mut m = Mock::protected().user();
        m.gate(13, sel::CODE, 0x12_3456, 0x8e, 0);
        raise(&mut m, Exception::gp(0x40), 0x401000).unwrap();
        assert_eq!((m.state.cpl, m.state.rip, m.state.r[4]), (0, 0x12_3456, RSP0 - 24));
        let flags = RFLAGS_FIXED | RFLAGS_RF;
        assert_eq!(
            m.words(RSP0 - 24, 4, 6),
            [0x40, 0x401000, sel::USER_CODE.into(), flags, STACK, sel::USER_DATA.into()]
        );
        assert_eq!(m.state.seg[sreg::SS].selector, sel::DATA);
        // A 16-bit gate without a change of privilege.
        m.gate(0x30, sel::CODE, 0x12_3456, 0x86, 0);
        deliver(&mut m, Event::external(0x30), 0x55_6677).unwrap();
        assert_eq!((m.state.rip, m.state.r[4]), (0x3456, RSP0 - 30));
        assert_eq!(m.words(RSP0 - 30, 2, 3), [0x6677, sel::CODE.into(), RFLAGS_FIXED]);
    }

    #[test]
    fn protected_mode_checks_the_new_stack() {
        let cases = [
            (0, Exception::ts(1)),
            (sel::USER_DATA, Exception::ts(0x21)),
            (sel::CODE, Exception::ts(9)),
            (0x100, Exception::ts(0x101)),
            (sel::ABSENT_DATA, Exception::ss(0x49)),
        ];
        for (selector, expected) in cases {
            let mut m = Mock::protected().user();
            m.gate(0x20, sel::CODE, 0, 0x8e, 0);
            m.ram.put(TSS + 8, 2, selector.into());
            assert_eq!(fault(m.attempt(|m| deliver(m, Event::external(0x20), 0))), expected);
        }
        let mut m = Mock::protected();
        m.gate(0x20, sel::CODE, 0, 0x8e, 0);
        m.state.seg[sreg::SS].limit = STACK as u32 - 1;
        m.state.r[4] = STACK + 1;
        assert_eq!(fault(m.attempt(|m| deliver(m, Event::external(0x20), 0))), Exception::ss(1));
        m.gate(0x20, sel::CODE, 0, 0x85, 0);
        assert_eq!(m.attempt(|m| deliver(m, Event::external(0x20), 0)), Err(Stop::Exit));
        assert!(matches!(m.left[..], [Leave::Unsupported(_)]));
    }

    #[test]
    fn the_16_bit_task_state_gives_a_stack() {
        let mut m = Mock::protected().user();
        m.state.tr.attr = 0x83;
        m.ram.put(TSS + 2, 2, 0x7000);
        m.ram.put(TSS + 4, 2, sel::DATA.into());
        m.gate(0x20, sel::CODE, 0, 0x8e, 0);
        deliver(&mut m, Event::external(0x20), 0).unwrap();
        assert_eq!(m.state.r[4], 0x7000 - 20);
    }

    #[test]
    fn a_second_fault_becomes_a_double_fault() {
        // #GP whose handler is absent: #NP during #GP is a double fault.
        let mut m = Mock::long();
        m.gate(8, sel::CODE, HANDLER, 0x8e, 1);
        raise(&mut m, Exception::GP0, 0x1000).unwrap();
        assert_eq!((m.state.rip, m.ram.get(m.state.r[4], 8)), (HANDLER, 0));
        assert_eq!(
            m.ram.get(m.state.r[4] + 24, 8) & RFLAGS_RF,
            0,
            "a double fault is no fault to return from"
        );
        // A benign one is replaced by what its delivery raises.
        let mut m = Mock::long();
        m.gate(13, sel::CODE, HANDLER, 0x8e, 0);
        raise(&mut m, Exception::UD, 0x1000).unwrap();
        assert_eq!((m.state.rip, m.ram.get(m.state.r[4], 8)), (HANDLER, 6 << 3 | 3));
    }

    #[test]
    fn the_third_fault_is_shutdown() {
        for first in [Exception::UD, Exception::GP0, Exception::pf(0, 5), Exception::df(0)] {
            let mut m = Mock::long();
            m.state.idt.limit = 0;
            raise(&mut m, first, 0x1000).unwrap();
            assert_eq!(m.left, [Leave::TripleFault]);
            assert_eq!(m.state.rip, 0x1000);
        }
    }

    #[test]
    fn exceptions_combine_as_in_the_table() {
        let v = |e: Option<Exception>| e.map(|e| e.vector);
        let (pf, gp, ud) = (Exception::pf(0, 0), Exception::GP0, Exception::UD);
        assert_eq!(v(combine(ud, gp)), Some(13));
        assert_eq!(v(combine(ud, pf)), Some(14));
        assert_eq!(v(combine(gp, ud)), Some(6));
        assert_eq!(v(combine(gp, gp)), Some(8));
        assert_eq!(v(combine(gp, pf)), Some(14));
        assert_eq!(v(combine(pf, gp)), Some(8));
        assert_eq!(v(combine(pf, pf)), Some(8));
        assert_eq!(v(combine(Exception::df(0), pf)), None);
        assert_eq!(v(combine(Exception::df(0), gp)), None);
    }

    #[test]
    fn debug_conditions_go_to_dr6() {
        let mut m = Mock::long();
        m.gate(1, sel::CODE, HANDLER, 0x8e, 0);
        m.state.dr6 |= 1;
        raise(&mut m, super::super::debug::exception(super::super::debug::DR6_BS | 2), 0).unwrap();
        assert_eq!(m.state.dr6, 0xffff_0ff0 | 1 << 14 | 2);
        assert_eq!(IDT, m.state.idt.base);
    }
}
