//! Handlers: the semantics functions with form, size and the use of flags fixed, one a kind of operation.
//!
//! A handler does its operation and then calls the next one's handler, in tail position: with optimisation that is a
//! jump. Without, the stack grows by one frame an operation, and a block's length bounds it.
#![allow(unsafe_code, reason = "handlers walk the operations of a block by pointer; see `Handler`")]

use squib_x86::emit::{Emit, Un};
use squib_x86::insn::Operand;
use squib_x86::sem::alu::{Alu, UnaryAlu};
use squib_x86::sem::bits::BitOp;
use squib_x86::sem::shift::Shift;
use squib_x86::sem::{alu, bits, branch, data, muldiv, shift, vector};
use squib_x86::simd::{Form, VecInsn, VecOp};
use squib_x86::state::REG_PAGE;
use squib_x86::{Cond, Size};

use crate::cpu::{Cpu, Halted};
use crate::interp::emitter::{Full, Interp, Simple, UNKNOWN};
use crate::op::{Flow, Op};

/// Goes on with the next operation, or says that this one stopped.
macro_rules! go_on {
    ($cpu:ident, $op:ident, $skip:expr, $result:expr) => {
        match $result {
            // SAFETY: a block's last operation does not go on, so there is a next one.
            Ok(()) => unsafe {
                let next = $op.add($skip);
                ((*next).run)($cpu, next)
            },
            Err(Halted) => stopped($cpu, $op),
        }
    };
}

#[cold]
#[inline(never)]
fn stopped(cpu: &mut Cpu, op: *const Op) -> Flow {
    cpu.stopped_at = op;
    Flow::Stop
}

/// Defines a handler. `$e` is the emitter, `$o` the operation; `skip` operations further is the next.
macro_rules! handler {
    ($(#[$doc:meta])* $name:ident<$(const $c:ident: $t:ty),*>($e:ident, $o:ident: $m:ty, $flags:expr, $kind:expr) skip $skip:expr => $body:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See [`Handler`](crate::op::Handler).
        pub unsafe fn $name<$(const $c: $t),*>(cpu: &mut Cpu, op: *const Op) -> Flow {
            // SAFETY: the caller's.
            let $o = unsafe { &*op };
            let mut $e = Interp::<$m, { $flags }, { $kind }>::new(cpu);
            let result: Result<(), Halted> = $body;
            go_on!(cpu, op, $skip, result)
        }
    };
}

/// Defines a handler with a memory operand, which is [`Full`] where `FULL`, else [`Simple`].
macro_rules! mem_handler {
    ($(#[$doc:meta])* $name:ident<$(const $c:ident: $t:ty),*>($e:ident, $o:ident, $mem:ident, $flags:expr, $kind:expr) skip $skip:expr => $body:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See [`Handler`](crate::op::Handler).
        pub unsafe fn $name<const FULL: bool, $(const $c: $t),*>(cpu: &mut Cpu, op: *const Op) -> Flow {
            // SAFETY: the caller's.
            let $o = unsafe { &*op };
            let result: Result<(), Halted> = if FULL {
                let mut $e = Interp::<Full, { $flags }, { $kind }>::new(cpu);
                let $mem = Operand::Mem(Full::of($o));
                $body
            } else {
                let mut $e = Interp::<Simple, { $flags }, { $kind }>::new(cpu);
                let $mem = Operand::Mem(Simple::of($o));
                $body
            };
            go_on!(cpu, op, $skip, result)
        }
    };
}

const fn size(s: u8) -> Size {
    Size::from_index(s)
}

/// The immediate of an operation whose own `imm` is a displacement.
macro_rules! second_imm {
    ($o:ident) => {
        // SAFETY: operations with two constants are followed by an extension.
        unsafe { (*std::ptr::from_ref::<Op>($o).add(1)).imm as u64 }
    };
}

handler!(
    /// `op reg, reg`
    alu_rr<const OP: u8, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        alu::alu(&mut e, Alu::from_index(OP), size(S), Operand::Reg(o.a), Operand::Reg(o.b)));
handler!(
    /// `op reg, imm`
    alu_ri<const OP: u8, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        alu::alu(&mut e, Alu::from_index(OP), size(S), Operand::Reg(o.a), Operand::Imm(o.imm as u64)));
mem_handler!(
    /// `op reg, mem`
    alu_rm<const OP: u8, const S: u8, const F: bool>(e, o, mem, F, UNKNOWN) skip 1 =>
        alu::alu(&mut e, Alu::from_index(OP), size(S), Operand::Reg(o.a), mem));
mem_handler!(
    /// `op mem, reg`
    alu_mr<const OP: u8, const S: u8, const F: bool>(e, o, mem, F, UNKNOWN) skip 1 =>
        alu::alu(&mut e, Alu::from_index(OP), size(S), mem, Operand::Reg(o.a)));
mem_handler!(
    /// `op mem, imm`
    alu_mi<const OP: u8, const S: u8, const F: bool>(e, o, mem, F, UNKNOWN) skip 2 =>
        alu::alu(&mut e, Alu::from_index(OP), size(S), mem, Operand::Imm(second_imm!(o))));
handler!(
    /// INC, DEC, NEG, NOT of a register
    unary_r<const OP: u8, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        alu::unary(&mut e, UnaryAlu::from_index(OP), size(S), Operand::Reg(o.a)));
mem_handler!(
    /// INC, DEC, NEG, NOT of memory
    unary_m<const OP: u8, const S: u8, const F: bool>(e, o, mem, F, UNKNOWN) skip 1 =>
        alu::unary(&mut e, UnaryAlu::from_index(OP), size(S), mem));
handler!(
    /// Shift or rotate of a register by an immediate
    shift_ri<const OP: u8, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        shift::shift(&mut e, Shift::from_index(OP), size(S), Operand::Reg(o.a), Operand::Imm(o.imm as u64)));
handler!(
    /// Shift or rotate of a register by CL
    shift_rc<const OP: u8, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        shift::shift(&mut e, Shift::from_index(OP), size(S), Operand::Reg(o.a), Operand::Reg(1)));
handler!(
    /// `mov reg, reg`
    mov_rr<const S: u8>(e, o: Simple, true, UNKNOWN) skip 1 => data::mov(&mut e, size(S), Operand::Reg(o.a), Operand::Reg(o.b)));
handler!(
    /// `mov reg, imm`
    mov_ri<const S: u8>(e, o: Simple, true, UNKNOWN) skip 1 =>
        data::mov(&mut e, size(S), Operand::Reg(o.a), Operand::Imm(o.imm as u64)));
handler!(
/// `mov reg, imm64`, the immediate's halves in this operation and its extension
mov_ri64<>(e, o: Simple, true, UNKNOWN) skip 2 => {
    let high = second_imm!(o) << 32;
    data::mov(&mut e, Size::B8, Operand::Reg(o.a), Operand::Imm(high | u64::from(o.imm as u32)))
});
mem_handler!(
    /// `mov reg, mem`
    mov_rm<const S: u8>(e, o, mem, true, UNKNOWN) skip 1 => data::mov(&mut e, size(S), Operand::Reg(o.a), mem));
mem_handler!(
    /// `mov mem, reg`
    mov_mr<const S: u8>(e, o, mem, true, UNKNOWN) skip 1 => data::mov(&mut e, size(S), mem, Operand::Reg(o.a)));
mem_handler!(
    /// `mov mem, imm`
    mov_mi<const S: u8>(e, o, mem, true, UNKNOWN) skip 2 =>
        data::mov(&mut e, size(S), mem, Operand::Imm(second_imm!(o))));
handler!(
    /// MOVZX between registers
    movzx_rr<const S: u8, const FROM: u8>(e, o: Simple, true, UNKNOWN) skip 1 =>
        data::movzx(&mut e, size(S), size(FROM), Operand::Reg(o.a), Operand::Reg(o.b)));
mem_handler!(
    /// MOVZX from memory
    movzx_rm<const S: u8, const FROM: u8>(e, o, mem, true, UNKNOWN) skip 1 =>
        data::movzx(&mut e, size(S), size(FROM), Operand::Reg(o.a), mem));
handler!(
    /// MOVSX, MOVSXD between registers
    movsx_rr<const S: u8, const FROM: u8>(e, o: Simple, true, UNKNOWN) skip 1 =>
        data::movsx(&mut e, size(S), size(FROM), Operand::Reg(o.a), Operand::Reg(o.b)));
mem_handler!(
    /// MOVSX, MOVSXD from memory
    movsx_rm<const S: u8, const FROM: u8>(e, o, mem, true, UNKNOWN) skip 1 =>
        data::movsx(&mut e, size(S), size(FROM), Operand::Reg(o.a), mem));
mem_handler!(
    /// LEA
    lea<const S: u8>(e, o, mem, true, UNKNOWN) skip 1 => data::lea(&mut e, size(S), Operand::Reg(o.a), mem));
handler!(
    /// `imul reg, reg`
    imul_rr<const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        muldiv::imul(&mut e, size(S), Operand::Reg(o.a), Operand::Reg(o.a), Operand::Reg(o.b)));
mem_handler!(
    /// `imul reg, mem`
    imul_rm<const S: u8, const F: bool>(e, o, mem, F, UNKNOWN) skip 1 =>
        muldiv::imul(&mut e, size(S), Operand::Reg(o.a), Operand::Reg(o.a), mem));
handler!(
    /// `imul reg, reg, imm`
    imul_rri<const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        muldiv::imul(&mut e, size(S), Operand::Reg(o.a), Operand::Reg(o.b), Operand::Imm(o.imm as u64)));
handler!(
    /// MUL and one-operand IMUL of a register
    mul_r<const SIGNED: bool, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        muldiv::mul(&mut e, SIGNED, size(S), Operand::Reg(o.a)));
handler!(
    /// DIV and IDIV by a register
    div_r<const SIGNED: bool, const S: u8>(e, o: Simple, true, UNKNOWN) skip 1 =>
        muldiv::div(&mut e, SIGNED, size(S), Operand::Reg(o.a)));
handler!(
    /// `push reg` in 64-bit mode
    push_r<>(e, o: Simple, true, UNKNOWN) skip 1 => data::push(&mut e, Size::B8, Operand::Reg(o.a)));
handler!(
    /// `push imm` in 64-bit mode
    push_i<>(e, o: Simple, true, UNKNOWN) skip 1 => data::push(&mut e, Size::B8, Operand::Imm(o.imm as u64)));
mem_handler!(
    /// `push mem` in 64-bit mode
    push_m<>(e, o, mem, true, UNKNOWN) skip 1 => { let _ = o; data::push(&mut e, Size::B8, mem) });
handler!(
    /// `pop reg` in 64-bit mode
    pop_r<>(e, o: Simple, true, UNKNOWN) skip 1 => data::pop(&mut e, Size::B8, Operand::Reg(o.a)));
handler!(
    /// LEAVE in 64-bit mode
    leave<>(e, o: Simple, true, UNKNOWN) skip 1 => { let _ = o; data::leave(&mut e, Size::B8) });
handler!(
    /// CBW, CWDE, CDQE
    extend<const S: u8>(e, o: Simple, true, UNKNOWN) skip 1 => { let _ = o; data::extend_accumulator(&mut e, size(S)) });
handler!(
    /// CWD, CDQ, CQO
    sign_to_dx<const S: u8>(e, o: Simple, true, UNKNOWN) skip 1 => { let _ = o; data::sign_to_dx(&mut e, size(S)) });
handler!(
/// BSWAP
bswap<const S: u8>(e, o: Simple, true, UNKNOWN) skip 1 => {
    let v = e.get(size(S), o.a);
    let v = e.un(Un::Bswap, size(S), v);
    e.set(size(S), o.a, v);
    Ok(())
});
handler!(
    /// BT, BTS, BTR, BTC of a register by an immediate
    bt_ri<const OP: u8, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        bits::bt(&mut e, BIT_OPS[OP as usize & 3], size(S), Operand::Reg(o.a), Operand::Imm(o.imm as u64)));
handler!(
    /// BT, BTS, BTR, BTC of a register by a register
    bt_rr<const OP: u8, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        bits::bt(&mut e, BIT_OPS[OP as usize & 3], size(S), Operand::Reg(o.a), Operand::Reg(o.b)));
handler!(
    /// BSF, BSR of a register
    scan_rr<const REVERSE: bool, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        bits::scan(&mut e, REVERSE, size(S), Operand::Reg(o.a), Operand::Reg(o.b)));
handler!(
    /// TZCNT, LZCNT of a register
    count_rr<const LEADING: bool, const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        bits::count_zeros(&mut e, LEADING, size(S), Operand::Reg(o.a), Operand::Reg(o.b)));
handler!(
    /// POPCNT of a register
    popcnt_rr<const S: u8, const F: bool>(e, o: Simple, F, UNKNOWN) skip 1 =>
        bits::count_ones(&mut e, size(S), Operand::Reg(o.a), Operand::Reg(o.b)));
mem_handler!(
    /// XCHG with memory
    xchg_m<const S: u8>(e, o, mem, true, UNKNOWN) skip 1 => data::xchg(&mut e, size(S), mem, Operand::Reg(o.a)));
mem_handler!(
    /// CMPXCHG with memory
    cmpxchg_m<const S: u8>(e, o, mem, true, UNKNOWN) skip 1 => data::cmpxchg(&mut e, size(S), mem, Operand::Reg(o.a)));
mem_handler!(
    /// XADD with memory
    xadd_m<const S: u8>(e, o, mem, true, UNKNOWN) skip 1 => data::xadd(&mut e, size(S), mem, Operand::Reg(o.a)));
handler!(
    /// SETcc of a register
    set_r<const CC: u8, const K: u8>(e, o: Simple, true, K) skip 1 => data::setcc(&mut e, Cond::from_index(CC), Operand::Reg(o.a)));
handler!(
    /// CMOVcc between registers
    cmov_rr<const CC: u8, const K: u8, const S: u8>(e, o: Simple, true, K) skip 1 =>
        data::cmov(&mut e, Cond::from_index(CC), size(S), Operand::Reg(o.a), Operand::Reg(o.b)));
handler!(
    /// Does nothing
    nop<>(e, o: Simple, true, UNKNOWN) skip 1 => { let _ = (&mut e, o); Ok(()) });

const BIT_OPS: [BitOp; 4] = [BitOp::Test, BitOp::Set, BitOp::Reset, BitOp::Complement];

const fn vec_insn(op: u8) -> VecOp {
    VecOp::ALL[op as usize]
}

const fn form(base: &Form, aligned: bool, mem: u8) -> Form {
    Form { aligned, mem, ..*base }
}

handler!(
/// A vector operation on two XMM registers
vec_rr<const OP: u8>(e, o: Simple, true, UNKNOWN) skip 1 => {
    let v = VecInsn { op: const { vec_insn(OP) }, form: Form::XMM };
    vector::vector(&mut e, &v, Operand::Xmm(o.a), Operand::Xmm(o.b), 0)
});
mem_handler!(
/// A vector operation on an XMM register and memory
vec_rm<const OP: u8, const ALIGNED: bool, const BYTES: u8>(e, o, mem, true, UNKNOWN) skip 1 => {
    let v = VecInsn { op: const { vec_insn(OP) }, form: form(&Form::XMM, ALIGNED, BYTES) };
    vector::vector(&mut e, &v, Operand::Xmm(o.a), mem, 0)
});
mem_handler!(
/// A vector operation from an XMM register to memory
vec_mr<const OP: u8, const ALIGNED: bool, const BYTES: u8>(e, o, mem, true, UNKNOWN) skip 1 => {
    let v = VecInsn { op: const { vec_insn(OP) }, form: form(&Form::XMM, ALIGNED, BYTES) };
    vector::vector(&mut e, &v, mem, Operand::Xmm(o.a), 0)
});

/// Defines a handler that ends the block. RIP is the next instruction's until the body changes it.
macro_rules! last {
    ($(#[$doc:meta])* $name:ident<$(const $c:ident: $t:ty),*>($e:ident, $o:ident, $next:ident: $m:ty, $kind:expr) => $body:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// See [`Handler`](crate::op::Handler).
        pub unsafe fn $name<$(const $c: $t),*>(cpu: &mut Cpu, op: *const Op) -> Flow {
            // SAFETY: the caller's.
            let $o = unsafe { &*op };
            let $next = page_offset(cpu, i64::from(u16::from_le_bytes([$o.b, $o.c])));
            cpu.state.rip = $next;
            let mut $e = Interp::<$m, true, { $kind }>::new(cpu);
            let result: Result<(), Halted> = $body;
            match result {
                Ok(()) => Flow::Next,
                Err(Halted) => stopped(cpu, op),
            }
        }
    };
}

/// The linear address `offset` bytes from the start of the code page.
#[inline(always)]
fn page_offset(cpu: &Cpu, offset: i64) -> u64 {
    cpu.state.r[usize::from(REG_PAGE)].wrapping_add(offset as u64)
}

last!(
/// Jcc, `imm` from the page to the target, `b` and `c` to the next instruction
jcc<const CC: u8, const K: u8>(e, o, _next: Simple, K) => {
    let target = page_offset(e.cpu, i64::from(o.imm));
    branch::jcc(&mut e, Cond::from_index(CC), Operand::Imm(target))
});
last!(
/// `jmp` to an address in reach of the page
jmp<>(e, o, _next: Simple, UNKNOWN) => {
    let target = page_offset(e.cpu, i64::from(o.imm));
    branch::jmp(&mut e, Size::B8, Operand::Imm(target))
});
last!(
/// `call` of an address in reach of the page
call<>(e, o, next: Simple, UNKNOWN) => {
    let target = page_offset(e.cpu, i64::from(o.imm));
    branch::call(&mut e, Size::B8, Operand::Imm(target), next)
});
last!(
    /// `jmp reg`
    jmp_r<>(e, o, _next: Simple, UNKNOWN) => branch::jmp(&mut e, Size::B8, Operand::Reg(o.a)));
last!(
    /// `call reg`
    call_r<>(e, o, next: Simple, UNKNOWN) => branch::call(&mut e, Size::B8, Operand::Reg(o.a), next));
last!(
    /// RET
    ret<>(e, o, _next: Simple, UNKNOWN) => { let _ = o; branch::ret(&mut e, Size::B8, Operand::None) });
last!(
    /// The block ends here without a branch
    end<>(e, o, _next: Simple, UNKNOWN) => { let _ = (&mut e, o); Ok(()) });

/// An instruction by its full description, number `imm` of the block's; with `a` nonzero it ends the block.
///
/// # Safety
/// See [`Handler`](crate::op::Handler).
pub unsafe fn general(cpu: &mut Cpu, op: *const Op) -> Flow {
    // SAFETY: the caller's: the operation is of the running block, which lives as long as it runs, and whose
    // descriptions nothing changes.
    let (o, insn) = unsafe {
        let o = &*op;
        (o, &*std::ptr::from_ref(&(&(*cpu.block).insns)[o.imm as usize]))
    };
    cpu.state.rip = insn.next;
    let mut e = Interp::<squib_x86::insn::MemRef, true>::new(cpu);
    match squib_x86::sem::lift(&mut e, insn) {
        Err(Halted) => stopped(cpu, op),
        Ok(()) if cpu.leave.is_some() => {
            cpu.stopped_at = op;
            Flow::Leave
        }
        Ok(()) if o.a != 0 => Flow::Next,
        // SAFETY: a block's last operation does not go on, so there is a next one.
        Ok(()) => unsafe {
            let next = op.add(1);
            ((*next).run)(cpu, next)
        },
    }
}

/// An operation of a block whose bytes have changed: ends the block before it.
///
/// # Safety
/// See [`Handler`](crate::op::Handler).
pub unsafe fn stale(cpu: &mut Cpu, op: *const Op) -> Flow {
    // SAFETY: the running block lives as long as it runs.
    let block = unsafe { &*cpu.block };
    let (done, rip) = block.locate(op);
    cpu.left += i64::from(block.count - done);
    cpu.state.rip = rip;
    Flow::Next
}
