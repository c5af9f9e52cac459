//! The interpreter's emitter: every operation of the vocabulary happens at once.
#![allow(
    unsafe_code,
    reason = "the translation-cache hit path reads and writes guest RAM through its host address"
)]

use std::marker::PhantomData;

use squib_x86::emit::{Bin, Cmp, Emit, Pure, Un};
use squib_x86::insn::{Insn, MemRef};
use squib_x86::simd::{self, VecOp};
use squib_x86::state::sreg;
use squib_x86::system::is_canonical;
use squib_x86::{Cond, Exception, FlagOp, LazyFlags, Size, Stop};

use crate::cpu::{Cpu, Halted};
use crate::op::Op;

/// How an operation names its memory operand.
pub trait MemForm: Copy {
    /// Only 64-bit code has operands of this form, and what is decoded with it.
    const BITS64: bool;

    /// The effective address.
    fn offset(self, cpu: &Cpu) -> u64;
    /// Whether it lies in the stack segment.
    fn on_stack(self) -> bool;
    /// The linear address of `len` bytes, after the segment's checks.
    fn linear(self, cpu: &mut Cpu, len: u64, write: bool) -> Result<u64, Halted>;

    /// The linear address of 16 bytes that have to be aligned.
    #[inline(always)]
    fn linear_aligned(self, cpu: &mut Cpu, write: bool) -> Result<u64, Halted> {
        let addr = self.linear(cpu, 16, write)?;
        if addr & 15 == 0 { Ok(addr) } else { Err(cpu.halt(Stop::Fault(Exception::GP0))) }
    }
}

/// `[base + disp]`, from an [`Op`]'s packed fields.
#[derive(Clone, Copy)]
pub struct Simple {
    base: u8,
    disp: i32,
}

impl Simple {
    #[inline(always)]
    pub fn of(op: &Op) -> Self {
        Self { base: op.b, disp: op.imm }
    }
}

impl MemForm for Simple {
    const BITS64: bool = true;

    #[inline(always)]
    fn offset(self, cpu: &Cpu) -> u64 {
        cpu.state.r[usize::from(self.base & 31)].wrapping_add(self.disp as u64)
    }

    #[inline(always)]
    fn on_stack(self) -> bool {
        is_stack_register(self.base)
    }

    #[inline(always)]
    fn linear(self, cpu: &mut Cpu, _len: u64, _write: bool) -> Result<u64, Halted> {
        Ok(self.offset(cpu))
    }
}

/// `seg:[base + index * scale + disp]`, from an [`Op`]'s packed fields.
#[derive(Clone, Copy)]
pub struct Full {
    base: u8,
    index: u8,
    disp: i32,
}

impl Full {
    #[inline(always)]
    pub fn of(op: &Op) -> Self {
        Self { base: op.b, index: op.c, disp: op.imm }
    }
}

impl MemForm for Full {
    const BITS64: bool = true;

    #[inline(always)]
    fn offset(self, cpu: &Cpu) -> u64 {
        let r = &cpu.state.r;
        let index = r[usize::from(self.index & 31)] << (self.index >> 5 & 3);
        r[usize::from(self.base & 31)].wrapping_add(index).wrapping_add(self.disp as u64)
    }

    #[inline(always)]
    fn on_stack(self) -> bool {
        is_stack_register(self.base)
    }

    #[inline(always)]
    fn linear(self, cpu: &mut Cpu, _len: u64, _write: bool) -> Result<u64, Halted> {
        Ok(self.offset(cpu).wrapping_add(cpu.state.r[16 + usize::from(self.base >> 5 & 3)]))
    }
}

impl MemForm for MemRef {
    const BITS64: bool = false;

    fn offset(self, cpu: &Cpu) -> u64 {
        let r = &cpu.state.r;
        let index = r[usize::from(self.index & 31)] << (self.scale & 3);
        let sum = r[usize::from(self.base & 31)].wrapping_add(index).wrapping_add(self.disp);
        self.addr.trunc(sum)
    }

    fn on_stack(self) -> bool {
        usize::from(self.seg) == sreg::SS
    }

    fn linear(self, cpu: &mut Cpu, len: u64, write: bool) -> Result<u64, Halted> {
        cpu.segmented(checked_segment(self, cpu), self.offset(cpu), len, write)
    }

    fn linear_aligned(self, cpu: &mut Cpu, write: bool) -> Result<u64, Halted> {
        cpu.segmented_aligned(checked_segment(self, cpu), self.offset(cpu), write)
    }
}

/// The segment whose checks an operand has to pass. In 64-bit mode the access itself finds addresses that are not canonical, after
/// it has looked at alignment.
fn checked_segment(m: MemRef, cpu: &Cpu) -> u8 {
    if cpu.flat_stack() && m.on_stack() { sreg::DS as u8 } else { m.seg }
}

/// Whether a packed base, without another segment's base, is RSP or RBP.
#[inline(always)]
const fn is_stack_register(base: u8) -> bool {
    matches!(base, 4 | 5)
}

/// A place checked for writing.
#[derive(Clone, Copy)]
pub enum Place {
    /// RAM, at this host address.
    Host(*mut u8),
    /// Anything else, at this linear address.
    Slow(u64),
}

/// What left the status flags, where that is known when a block is decoded; see [`known_flags`].
pub const UNKNOWN: u8 = 0;

/// The number of a flag-setting operation for [`Interp`]'s `KIND`, or [`UNKNOWN`].
pub const fn flag_kind(op: FlagOp, size: Size) -> u8 {
    match op {
        FlagOp::Sub => 1 + size as u8,
        FlagOp::Logic => 5 + size as u8,
        _ => UNKNOWN,
    }
}

/// Number of kinds.
pub const KINDS: usize = 9;

#[inline(always)]
const fn known_flags(flags: LazyFlags, kind: u8) -> LazyFlags {
    match kind {
        1..=4 => LazyFlags { op: FlagOp::Sub, size: Size::from_index(kind - 1), ..flags },
        5..=8 => LazyFlags { op: FlagOp::Logic, size: Size::from_index(kind - 5), ..flags },
        _ => flags,
    }
}

/// The emitter for memory operands of form `M`. Without `FLAGS`, nobody reads the status flags that the instruction
/// would set; `KIND` says what left those that it reads.
pub struct Interp<'a, M, const FLAGS: bool, const KIND: u8 = UNKNOWN> {
    /// The vCPU.
    pub cpu: &'a mut Cpu,
    mem: PhantomData<M>,
}

impl<'a, M: MemForm, const FLAGS: bool, const KIND: u8> Interp<'a, M, FLAGS, KIND> {
    /// An emitter that acts on `cpu`.
    #[inline(always)]
    pub fn new(cpu: &'a mut Cpu) -> Self {
        Self { cpu, mem: PhantomData }
    }

    /// The linear address of a vector operand.
    #[inline(always)]
    fn place_x(&mut self, bytes: u8, aligned: bool, m: M, write: bool) -> Result<u64, Halted> {
        if aligned { m.linear_aligned(self.cpu, write) } else { m.linear(self.cpu, u64::from(bytes), write) }
    }

    /// An access to `len` bytes at `addr` has failed: says how, for the operand's segment.
    #[inline(always)]
    fn blame(&mut self, m: M, addr: u64, len: u64, halted: Halted) -> Halted {
        if m.on_stack() { self.cpu.stack_fault(addr, len) } else { halted }
    }
}

#[inline(always)]
fn shift_count(v: u64) -> u32 {
    (v & 63) as u32
}

impl<M: MemForm, const FLAGS: bool, const KIND: u8> Emit for Interp<'_, M, FLAGS, KIND> {
    type V = u64;
    type C = bool;
    type X = u128;
    type Mem = M;
    type Place = Place;
    type Stop = Halted;

    #[inline(always)]
    fn imm(&mut self, v: u64) -> u64 {
        v
    }

    #[inline(always)]
    fn get(&mut self, size: Size, reg: u8) -> u64 {
        size.trunc(self.cpu.state.r[usize::from(reg & 31)])
    }

    #[inline(always)]
    fn set(&mut self, size: Size, reg: u8, v: u64) {
        let r = &mut self.cpu.state.r[usize::from(reg & 15)];
        *r = match size {
            Size::B8 | Size::B4 => v,
            Size::B1 | Size::B2 => *r & !size.mask() | v,
        };
    }

    #[inline(always)]
    fn get_high(&mut self, reg: u8) -> u64 {
        self.cpu.state.r[usize::from(reg & 3)] >> 8 & 0xff
    }

    #[inline(always)]
    fn set_high(&mut self, reg: u8, v: u64) {
        let r = &mut self.cpu.state.r[usize::from(reg & 3)];
        *r = *r & !0xff00 | (v & 0xff) << 8;
    }

    #[inline(always)]
    fn address(&mut self, m: M) -> u64 {
        m.offset(self.cpu)
    }

    #[inline(always)]
    fn load(&mut self, size: Size, m: M) -> Result<u64, Halted> {
        let addr = m.linear(self.cpu, size.bytes(), false)?;
        self.cpu.load(addr, size).map_err(|h| self.blame(m, addr, size.bytes(), h))
    }

    #[inline(always)]
    fn store(&mut self, size: Size, m: M, v: u64) -> Result<(), Halted> {
        let addr = m.linear(self.cpu, size.bytes(), true)?;
        self.cpu.store(addr, size, v).map_err(|h| self.blame(m, addr, size.bytes(), h))
    }

    #[inline(always)]
    fn place(&mut self, size: Size, m: M) -> Result<Place, Halted> {
        let addr = m.linear(self.cpu, size.bytes(), true)?;
        if let Some(host) = self.cpu.host_for_write(addr, size.bytes()) {
            return Ok(Place::Host(host));
        }
        self.cpu.check_write(addr, size.bytes()).map_err(|h| self.blame(m, addr, size.bytes(), h))?;
        Ok(Place::Slow(addr))
    }

    #[inline(always)]
    fn place_load(&mut self, size: Size, p: Place) -> Result<u64, Halted> {
        match p {
            // SAFETY: `host_for_write` has found `size` bytes of RAM there.
            Place::Host(host) => Ok(unsafe { crate::ram::read(host, size) }),
            Place::Slow(addr) => self.cpu.load_slow(addr, size),
        }
    }

    #[inline(always)]
    fn place_store(&mut self, size: Size, p: Place, v: u64) -> Result<(), Halted> {
        match p {
            // SAFETY: as in `place_load`.
            Place::Host(host) => unsafe { crate::ram::write(host, size, v) },
            Place::Slow(addr) => self.cpu.store_slow(addr, size, v)?,
        }
        Ok(())
    }

    #[inline(always)]
    fn push(&mut self, size: Size, v: u64) -> Result<(), Halted> {
        if self.cpu.flat_stack() {
            let sp = self.cpu.state.r[4].wrapping_sub(size.bytes());
            self.cpu.store(sp, size, v).map_err(|_| self.cpu.stack_fault(sp, size.bytes()))?;
            self.cpu.state.r[4] = sp;
            Ok(())
        } else {
            self.cpu.push_segmented(size, v)
        }
    }

    fn check_push(&mut self, size: Size) -> Result<(), Halted> {
        self.cpu.check_push(size)
    }

    #[inline(always)]
    fn peek(&mut self, size: Size, base: u8) -> Result<u64, Halted> {
        let offset = self.cpu.state.r[usize::from(base & 15)];
        if self.cpu.flat_stack() {
            self.cpu.load(offset, size).map_err(|_| self.cpu.stack_fault(offset, size.bytes()))
        } else {
            self.cpu.peek_segmented(size, offset)
        }
    }

    #[inline(always)]
    fn drop_stack(&mut self, bytes: u64) {
        if self.cpu.flat_stack() {
            self.cpu.state.r[4] = self.cpu.state.r[4].wrapping_add(bytes);
        } else {
            self.cpu.move_stack(bytes);
        }
    }

    #[inline(always)]
    fn bin(&mut self, op: Bin, size: Size, a: u64, b: u64) -> u64 {
        let bits = size.bits();
        size.trunc(match op {
            Bin::Add => a.wrapping_add(b),
            Bin::Sub => a.wrapping_sub(b),
            Bin::And => a & b,
            Bin::Or => a | b,
            Bin::Xor => a ^ b,
            Bin::Mul => a.wrapping_mul(b),
            Bin::Shl => a << shift_count(b),
            Bin::Shr => a >> shift_count(b),
            Bin::Sar => ((size.sext(a) as i64) >> shift_count(b)) as u64,
            Bin::Rol => match size {
                Size::B4 => u64::from((a as u32).rotate_left(b as u32 & 31)),
                Size::B8 => a.rotate_left(b as u32 & 63),
                _ => a << shift_count(b) | a >> (bits - shift_count(b) % bits),
            },
            Bin::Ror => match size {
                Size::B4 => u64::from((a as u32).rotate_right(b as u32 & 31)),
                Size::B8 => a.rotate_right(b as u32 & 63),
                _ => a >> shift_count(b) | a << (bits - shift_count(b) % bits),
            },
        })
    }

    #[inline(always)]
    fn un(&mut self, op: Un, size: Size, a: u64) -> u64 {
        match op {
            Un::Not => size.trunc(!a),
            Un::Neg => size.trunc(a.wrapping_neg()),
            Un::Ctz => u64::from(a.trailing_zeros()),
            Un::BitLength => u64::from(63 - (a | 1).leading_zeros()),
            Un::Popcnt => u64::from(a.count_ones()),
            Un::Bswap => a.swap_bytes() >> (64 - size.bits()),
        }
    }

    fn pure(&mut self, op: Pure, size: Size, a: u64, b: u64) -> u64 {
        op.eval(size, a, b)
    }

    #[inline(always)]
    fn sext(&mut self, from: Size, to: Size, v: u64) -> u64 {
        to.trunc(from.sext(v))
    }

    #[inline(always)]
    fn mul_wide(&mut self, signed: bool, size: Size, a: u64, b: u64) -> (u64, u64) {
        if size == Size::B8 {
            let wide = if signed {
                (i128::from(a as i64) * i128::from(b as i64)) as u128
            } else {
                u128::from(a) * u128::from(b)
            };
            (wide as u64, (wide >> 64) as u64)
        } else {
            let wide = if signed { size.sext(a).wrapping_mul(size.sext(b)) } else { a.wrapping_mul(b) };
            (size.trunc(wide), size.trunc(wide >> size.bits()))
        }
    }

    #[inline(always)]
    fn div_wide(&mut self, signed: bool, size: Size, hi: u64, lo: u64, d: u64) -> Result<(u64, u64), Halted> {
        match divide(signed, size, hi, lo, d) {
            Some(parts) => Ok(parts),
            None => Err(self.cpu.halt(Stop::Fault(Exception::DE))),
        }
    }

    #[inline(always)]
    fn cmp(&mut self, op: Cmp, a: u64, b: u64) -> bool {
        match op {
            Cmp::Eq => a == b,
            Cmp::Ne => a != b,
            Cmp::LtU => a < b,
        }
    }

    #[inline(always)]
    fn sel(&mut self, c: bool, a: u64, b: u64) -> u64 {
        if c { a } else { b }
    }

    #[inline(always)]
    fn flags_live(&self) -> bool {
        FLAGS
    }

    #[inline(always)]
    fn flags(&mut self, op: FlagOp, size: Size, res: u64, b: u64) {
        if FLAGS {
            self.cpu.state.lazy = LazyFlags { res, b, op, size };
        }
    }

    #[inline(always)]
    fn flags_if(&mut self, c: bool, op: FlagOp, size: Size, res: u64, b: u64) {
        if FLAGS && c {
            self.cpu.state.lazy = LazyFlags { res, b, op, size };
        }
    }

    #[inline(always)]
    fn status(&mut self) -> u64 {
        known_flags(self.cpu.state.lazy, KIND).bits()
    }

    #[inline(always)]
    fn carry(&mut self) -> u64 {
        u64::from(known_flags(self.cpu.state.lazy, KIND).cf())
    }

    #[inline(always)]
    fn cond(&mut self, cc: Cond) -> bool {
        known_flags(self.cpu.state.lazy, KIND).test(cc)
    }

    #[inline(always)]
    fn checks_relative(&self) -> bool {
        !M::BITS64
    }

    #[inline(always)]
    fn check_target(&mut self, target: u64) -> Result<(), Halted> {
        let admitted = if M::BITS64 { is_canonical(target) } else { self.cpu.decoded.admits(target) };
        if admitted { Ok(()) } else { Err(self.cpu.halt(Stop::Fault(Exception::GP0))) }
    }

    #[inline(always)]
    fn check_target_if(&mut self, c: bool, target: u64) -> Result<(), Halted> {
        if c { self.check_target(target) } else { Ok(()) }
    }

    #[inline(always)]
    fn jump(&mut self, target: u64) -> Result<(), Halted> {
        self.cpu.state.rip = target;
        Ok(())
    }

    #[inline(always)]
    fn jump_if(&mut self, c: bool, target: u64) -> Result<(), Halted> {
        if c {
            self.cpu.state.rip = target;
        }
        Ok(())
    }

    fn helper(&mut self, i: &Insn) -> Result<(), Halted> {
        squib_x86::helper::run(self.cpu, i).map_err(|stop| self.cpu.halt(stop))
    }

    fn check_vex(&mut self) -> Result<(), Halted> {
        if !self.cpu.state.protected() || self.cpu.state.v86() {
            return Err(self.cpu.halt(Stop::Fault(Exception::UD)));
        }
        Ok(())
    }

    #[inline(always)]
    fn check_vector(&mut self, mmx: bool) -> Result<(), Halted> {
        self.cpu.check_vector(mmx)
    }

    #[inline(always)]
    fn enter_mmx(&mut self) {
        self.cpu.state.x87.enter_mmx();
    }

    #[inline(always)]
    fn get_mm(&mut self, reg: u8) -> u128 {
        u128::from(self.cpu.state.x87.mm(usize::from(reg)))
    }

    #[inline(always)]
    fn set_mm(&mut self, reg: u8, x: u128) {
        self.cpu.state.x87.set_mm(usize::from(reg), x as u64);
    }

    #[inline(always)]
    fn get_x(&mut self, reg: u8) -> u128 {
        self.cpu.state.xmm[usize::from(reg & 15)]
    }

    #[inline(always)]
    fn set_x(&mut self, reg: u8, x: u128) {
        self.cpu.state.xmm[usize::from(reg & 15)] = x;
    }

    #[inline(always)]
    fn load_x(&mut self, bytes: u8, aligned: bool, m: M) -> Result<u128, Halted> {
        let addr = self.place_x(bytes, aligned, m, false)?;
        let loaded = if bytes == 16 {
            self.cpu.load128(addr)
        } else {
            let size = Size::from_bytes(usize::from(bytes)).unwrap_or(Size::B8);
            self.cpu.load(addr, size).map(u128::from)
        };
        loaded.map_err(|h| self.blame(m, addr, u64::from(bytes), h))
    }

    #[inline(always)]
    fn store_x(&mut self, bytes: u8, aligned: bool, m: M, x: u128) -> Result<(), Halted> {
        let addr = self.place_x(bytes, aligned, m, true)?;
        let stored = if bytes == 16 {
            self.cpu.store128(addr, x)
        } else {
            let size = Size::from_bytes(usize::from(bytes)).unwrap_or(Size::B8);
            self.cpu.store(addr, size, size.trunc(x as u64))
        };
        stored.map_err(|h| self.blame(m, addr, u64::from(bytes), h))
    }

    #[inline(always)]
    fn vec(&mut self, op: VecOp, a: u128, b: u128, imm: u8) -> Result<u128, Halted> {
        simd::eval(op, a, b, imm, &mut self.cpu.state.mxcsr).map_err(|_| self.cpu.simd_fault())
    }

    #[inline(always)]
    fn x_to_v(&mut self, x: u128) -> u64 {
        x as u64
    }

    #[inline(always)]
    fn v_to_x(&mut self, v: u64) -> u128 {
        u128::from(v)
    }
}

/// Quotient and remainder, or `None` for #DE.
#[inline(always)]
fn divide(signed: bool, size: Size, hi: u64, lo: u64, d: u64) -> Option<(u64, u64)> {
    if d == 0 {
        return None;
    }
    if !signed {
        if hi == 0 {
            return Some((lo / d, lo % d));
        }
        if hi >= d {
            return None;
        }
        let n = u128::from(hi) << size.bits() | u128::from(lo);
        let d = u128::from(d);
        return Some(((n / d) as u64, (n % d) as u64));
    }
    if size == Size::B8 {
        let d = d as i64;
        // The usual case, a sign-extended dividend, needs no wide division.
        if hi as i64 == lo as i64 >> 63 {
            let n = lo as i64;
            return Some((n.checked_div(d)? as u64, n.checked_rem(d)? as u64));
        }
        let n = (i128::from(hi as i64) << 64) | i128::from(lo);
        let (q, r) = (n.checked_div(i128::from(d))?, n.checked_rem(i128::from(d))?);
        return i64::try_from(q).ok().map(|q| (q as u64, r as u64));
    }
    let n = (size.sext(hi) << size.bits() | lo) as i64;
    // The dividend is twice the operand's size wide.
    let n = match size {
        Size::B1 => i64::from(n as i16),
        Size::B2 => i64::from(n as i32),
        _ => n,
    };
    let d = size.sext(d) as i64;
    let (q, r) = (n.checked_div(d)?, n.checked_rem(d)?);
    if size.sext(q as u64) as i64 == q { Some((size.trunc(q as u64), size.trunc(r as u64))) } else { None }
}

#[cfg(test)]
mod tests {
    use super::divide;
    use squib_x86::Size;

    #[test]
    fn division_faults_where_the_quotient_does_not_fit() {
        assert_eq!(divide(false, Size::B8, 0, 7, 0), None);
        assert_eq!(divide(false, Size::B8, 1, 0, 1), None);
        assert_eq!(divide(false, Size::B8, 1, 0, 2), Some((1 << 63, 0)));
        assert_eq!(divide(true, Size::B8, u64::MAX, 1 << 63, u64::MAX), None);
        assert_eq!(
            divide(true, Size::B8, u64::MAX, (-7i64) as u64, 2),
            Some(((-3i64) as u64, (-1i64) as u64))
        );
        assert_eq!(divide(true, Size::B8, 1 << 63, 0, u64::MAX), None);
        assert_eq!(divide(true, Size::B1, 0xff, 0x80, 0xff), None);
        assert_eq!(divide(true, Size::B1, 0xff, 0x81, 0xff), Some((0x7f, 0)));
        assert_eq!(divide(true, Size::B4, 0x8000_0000, 0, 0xffff_ffff), None);
        assert_eq!(divide(true, Size::B4, 0xffff_ffff, 0xffff_fff9, 2), Some((0xffff_fffd, 0xffff_ffff)));
        assert_eq!(divide(false, Size::B2, 1, 0, 2), Some((0x8000, 0)));
    }
}
