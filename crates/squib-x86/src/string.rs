//! String instructions (Intel SDM vol. 1, 7.3.9).
//!
//! A repeated instruction does a bounded number of elements and then starts again, so that interrupts and budgets
//! are honoured in between. After each element the registers are right, as the manual wants it at a fault; and where an
//! element changes code, perhaps that of the instruction itself, what comes next is decoded anew, as on hardware.

use iced_x86::Mnemonic as M;
use squib_core::x86::bits::{RFLAGS_DF, RFLAGS_TF, RFLAGS_ZF};

use crate::address::linear;
use crate::env::{Env, Rights};
use crate::fault::Stop;
use crate::flags::{FlagOp, LazyFlags};
use crate::insn::{Insn, Rep};
use crate::size::Size;
use crate::state::sreg;
use crate::system::debug;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;

/// What one execution may do: bytes moved in bulk count one each, an element by itself as many as this.
const CHUNK: u64 = 1 << 16;
const ONE_BY_ONE: u64 = CHUNK / 64;

/// Most bytes moved at once.
const BULK: u64 = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Movs,
    Stos,
    Lods,
    Scas,
    Cmps,
    Ins,
    Outs,
}

fn kind(m: M) -> Option<Kind> {
    Some(match m {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => Kind::Movs,
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => Kind::Stos,
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => Kind::Lods,
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => Kind::Scas,
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => Kind::Cmps,
        M::Insb | M::Insw | M::Insd => Kind::Ins,
        M::Outsb | M::Outsw | M::Outsd => Kind::Outs,
        _ => return None,
    })
}

struct Element<'a> {
    i: &'a Insn,
    kind: Kind,
    size: Size,
    addr: Size,
    step: u64,
}

/// Runs a string instruction; `None` when `i` is none. RIP is set back to the instruction when it has to go on.
///
/// # Errors
/// What an element's accesses raise. The elements before it are done.
pub fn string<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Option<Result<(), Stop>> {
    let kind = kind(i.mnemonic)?;
    let down = env.state_ref().sys_flags & RFLAGS_DF != 0;
    // The first operand of OUTS is DX; what it moves is the second.
    let size = if kind == Kind::Outs { i.src_size } else { i.size };
    let step = if down { size.bytes().wrapping_neg() } else { size.bytes() };
    let e = Element { i, kind, size, addr: i.addr, step };
    Some(if i.rep == Rep::None { e.one(env) } else { e.repeat(env) })
}

impl Element<'_> {
    fn register<E: Env + ?Sized>(&self, env: &E, r: usize) -> u64 {
        self.addr.trunc(env.state_ref().r[r])
    }

    fn set_register<E: Env + ?Sized>(&self, env: &mut E, r: usize, v: u64) {
        let old = env.state_ref().r[r];
        env.state().r[r] = match self.addr {
            Size::B8 => v,
            Size::B4 => self.addr.trunc(v),
            _ => old & !0xffff | self.addr.trunc(v),
        };
    }

    fn advance<E: Env + ?Sized>(&self, env: &mut E, r: usize, elements: u64) {
        let v = self.register(env, r).wrapping_add(self.step.wrapping_mul(elements));
        self.set_register(env, r, v);
    }

    fn source<E: Env + ?Sized>(&self, env: &E) -> Result<u64, Stop> {
        Ok(linear(env.state_ref(), self.i.seg, self.register(env, RSI), self.size.bytes(), false)?)
    }

    fn destination<E: Env + ?Sized>(&self, env: &E, write: bool) -> Result<u64, Stop> {
        Ok(linear(env.state_ref(), sreg::ES as u8, self.register(env, RDI), self.size.bytes(), write)?)
    }

    fn compare<E: Env + ?Sized>(&self, env: &mut E, a: u64, b: u64) {
        let res = self.size.trunc(a.wrapping_sub(b));
        env.state().lazy = LazyFlags { res, b, op: FlagOp::Sub, size: self.size };
    }

    /// One element.
    fn one<E: Env + ?Sized>(&self, env: &mut E) -> Result<(), Stop> {
        let acc = self.size.trunc(env.state_ref().r[RAX]);
        let port = env.state_ref().r[RDX] as u16;
        match self.kind {
            Kind::Movs => {
                let from = self.source(env)?;
                let v = env.read(from, self.size, Rights::Current)?;
                let to = self.destination(env, true)?;
                env.write(to, self.size, v, Rights::Current)?;
            }
            Kind::Stos => {
                let to = self.destination(env, true)?;
                env.write(to, self.size, acc, Rights::Current)?;
            }
            Kind::Lods => {
                let from = self.source(env)?;
                let v = env.read(from, self.size, Rights::Current)?;
                let old = env.state_ref().r[RAX];
                env.state().r[RAX] = if self.size >= Size::B4 { v } else { old & !self.size.mask() | v };
            }
            Kind::Scas => {
                let at = self.destination(env, false)?;
                let v = env.read(at, self.size, Rights::Current)?;
                self.compare(env, acc, v);
            }
            Kind::Cmps => {
                // The second operand is read first, as processors do.
                let at = self.destination(env, false)?;
                let b = env.read(at, self.size, Rights::Current)?;
                let from = self.source(env)?;
                let a = env.read(from, self.size, Rights::Current)?;
                self.compare(env, a, b);
            }
            Kind::Ins => {
                crate::system::io::check(env, port, self.size)?;
                let to = self.destination(env, true)?;
                env.probe_write(to, self.size.bytes(), Rights::Current)?;
                let v = env.port_read(port, self.size)?;
                env.write(to, self.size, v, Rights::Current)?;
            }
            Kind::Outs => {
                crate::system::io::check(env, port, self.size)?;
                let from = self.source(env)?;
                let v = env.read(from, self.size, Rights::Current)?;
                env.port_write(port, self.size, v)?;
            }
        }
        self.step(env, 1);
        Ok(())
    }

    fn step<E: Env + ?Sized>(&self, env: &mut E, elements: u64) {
        if matches!(self.kind, Kind::Movs | Kind::Lods | Kind::Cmps | Kind::Outs) {
            self.advance(env, RSI, elements);
        }
        if !matches!(self.kind, Kind::Lods | Kind::Outs) {
            self.advance(env, RDI, elements);
        }
    }

    /// The linear address of up to `count` elements upwards from the offset in register `r`, and how many have room there;
    /// `None` where none has.
    fn run<E: Env + ?Sized>(
        &self,
        env: &E,
        seg: u8,
        r: usize,
        count: u64,
        write: bool,
    ) -> Option<(u64, u64)> {
        let (offset, size) = (self.register(env, r), self.size.bytes());
        let count = count.min(BULK / size).min((self.addr.mask() - offset) / size);
        let addr = linear(env.state_ref(), seg, offset, count * size, write).ok()?;
        (count != 0).then_some((addr, count))
    }

    /// As many elements at once as the surroundings can do.
    fn bulk<E: Env + ?Sized>(&self, env: &mut E, count: u64) -> Option<u64> {
        if self.step != self.size.bytes() || !matches!(self.kind, Kind::Movs | Kind::Stos) {
            return None;
        }
        let (to, count) = self.run(env, sreg::ES as u8, RDI, count, true)?;
        let done = if self.kind == Kind::Stos {
            let v = self.size.trunc(env.state_ref().r[RAX]);
            env.fill(to, self.size, v, count)
        } else {
            let (from, count) = self.run(env, self.i.seg, RSI, count, false)?;
            env.copy(to, from, self.size, count)
        };
        self.step(env, done);
        (done != 0).then_some(done)
    }

    /// Elements until the count, the condition or the budget ends them. At a fault the flags are those from before the
    /// instruction, though the other registers tell how far it came (Intel SDM vol. 2, "REP").
    fn repeat<E: Env + ?Sized>(&self, env: &mut E) -> Result<(), Stop> {
        if matches!(self.kind, Kind::Ins | Kind::Outs) {
            // Even without elements.
            let port = env.state_ref().r[RDX] as u16;
            crate::system::io::check(env, port, self.size)?;
        }
        if self.addr == Size::B4 {
            // The manual does not say what becomes of the upper halves; Intel's processors clear them first.
            let moved: &[usize] = if matches!(self.kind, Kind::Movs) { &[RCX, RSI, RDI] } else { &[RCX] };
            let moved = if matches!(self.kind, Kind::Stos) { &[RCX, RDI] } else { moved };
            for &r in moved {
                self.advance(env, r, 0);
            }
        }
        let flags = env.state_ref().lazy;
        // A debug trap may follow each element.
        let state = env.state_ref();
        let stepped = state.sys_flags & RFLAGS_TF != 0 || debug::armed(state);
        let result = self.elements(env, if stepped { 1 } else { CHUNK });
        let unfinished = result.is_ok() && env.state_ref().rip == self.i.rip;
        if unfinished || matches!(result, Err(Stop::Fault(_))) {
            env.state().lazy = flags;
        }
        result
    }

    fn elements<E: Env + ?Sized>(&self, env: &mut E, mut budget: u64) -> Result<(), Stop> {
        let code = env.code_version();
        loop {
            let left = self.register(env, RCX);
            if left == 0 {
                return Ok(());
            }
            if budget == 0 || env.code_version() != code {
                // The rest comes when the instruction runs again.
                env.state().rip = self.i.rip;
                return Ok(());
            }
            let size = self.size.bytes();
            let (done, cost) = match self.bulk(env, left.min(budget.div_ceil(size))) {
                Some(done) => (done, done * size),
                None => {
                    self.one(env)?;
                    (1, ONE_BY_ONE)
                }
            };
            self.set_register(env, RCX, left.wrapping_sub(done));
            env.begin_element();
            budget = budget.saturating_sub(cost);
            if matches!(self.kind, Kind::Scas | Kind::Cmps) {
                let equal = env.state_ref().lazy.bits() & RFLAGS_ZF != 0;
                if equal != (self.i.rep == Rep::Rep) {
                    return Ok(());
                }
            }
        }
    }
}
