//! What each instruction does.
//!
//! One file an instruction family, every function generic over [`Emit`]. [`lift`] finds the function for a decoded
//! instruction; the interpreter's specialised handlers call the same functions with constant arguments.

pub mod alu;
pub mod bits;
pub mod bmi;
pub mod branch;
pub mod data;
pub mod muldiv;
pub mod shift;
pub mod vector;

use iced_x86::Mnemonic as M;

use crate::emit::{Bin, Emit, Pure};
use crate::flags::Cond;
use crate::insn::{Insn, MemRef, Operand};
use crate::simd::{self, Place, VecOp};
use crate::size::Size;

use alu::{Alu, UnaryAlu};
use bmi::Lowest;
use shift::Shift;

/// The condition in the name of a Jcc, SETcc or CMOVcc.
pub fn condition(m: M) -> Option<(ConditionalKind, Cond)> {
    use ConditionalKind::{Jump, Move, Set};
    Some(match m {
        M::Jo => (Jump, Cond::O),
        M::Jno => (Jump, Cond::No),
        M::Jb => (Jump, Cond::B),
        M::Jae => (Jump, Cond::Ae),
        M::Je => (Jump, Cond::E),
        M::Jne => (Jump, Cond::Ne),
        M::Jbe => (Jump, Cond::Be),
        M::Ja => (Jump, Cond::A),
        M::Js => (Jump, Cond::S),
        M::Jns => (Jump, Cond::Ns),
        M::Jp => (Jump, Cond::P),
        M::Jnp => (Jump, Cond::Np),
        M::Jl => (Jump, Cond::L),
        M::Jge => (Jump, Cond::Ge),
        M::Jle => (Jump, Cond::Le),
        M::Jg => (Jump, Cond::G),
        M::Seto => (Set, Cond::O),
        M::Setno => (Set, Cond::No),
        M::Setb => (Set, Cond::B),
        M::Setae => (Set, Cond::Ae),
        M::Sete => (Set, Cond::E),
        M::Setne => (Set, Cond::Ne),
        M::Setbe => (Set, Cond::Be),
        M::Seta => (Set, Cond::A),
        M::Sets => (Set, Cond::S),
        M::Setns => (Set, Cond::Ns),
        M::Setp => (Set, Cond::P),
        M::Setnp => (Set, Cond::Np),
        M::Setl => (Set, Cond::L),
        M::Setge => (Set, Cond::Ge),
        M::Setle => (Set, Cond::Le),
        M::Setg => (Set, Cond::G),
        M::Cmovo => (Move, Cond::O),
        M::Cmovno => (Move, Cond::No),
        M::Cmovb => (Move, Cond::B),
        M::Cmovae => (Move, Cond::Ae),
        M::Cmove => (Move, Cond::E),
        M::Cmovne => (Move, Cond::Ne),
        M::Cmovbe => (Move, Cond::Be),
        M::Cmova => (Move, Cond::A),
        M::Cmovs => (Move, Cond::S),
        M::Cmovns => (Move, Cond::Ns),
        M::Cmovp => (Move, Cond::P),
        M::Cmovnp => (Move, Cond::Np),
        M::Cmovl => (Move, Cond::L),
        M::Cmovge => (Move, Cond::Ge),
        M::Cmovle => (Move, Cond::Le),
        M::Cmovg => (Move, Cond::G),
        _ => return None,
    })
}

/// The three families of conditional instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionalKind {
    /// Jcc.
    Jump,
    /// SETcc.
    Set,
    /// CMOVcc.
    Move,
}

/// The two-operand integer operation that a mnemonic names.
pub fn alu_op(m: M) -> Option<Alu> {
    Some(match m {
        M::Add => Alu::Add,
        M::Or => Alu::Or,
        M::Adc => Alu::Adc,
        M::Sbb => Alu::Sbb,
        M::And => Alu::And,
        M::Sub => Alu::Sub,
        M::Xor => Alu::Xor,
        M::Cmp => Alu::Cmp,
        M::Test => Alu::Test,
        _ => return None,
    })
}

/// The shift that a mnemonic names.
pub fn shift_op(m: M) -> Option<Shift> {
    Some(match m {
        M::Shl | M::Sal => Shift::Shl,
        M::Shr => Shift::Shr,
        M::Sar => Shift::Sar,
        M::Rol => Shift::Rol,
        M::Ror => Shift::Ror,
        _ => return None,
    })
}

/// The one-operand integer operation that a mnemonic names.
pub fn unary_op(m: M) -> Option<UnaryAlu> {
    Some(match m {
        M::Inc => UnaryAlu::Inc,
        M::Dec => UnaryAlu::Dec,
        M::Neg => UnaryAlu::Neg,
        M::Not => UnaryAlu::Not,
        _ => return None,
    })
}

/// Makes the meaning of `i`, as [`admit`](crate::offer::admit) gives it, with `e`. LOCK prefixes that are not allowed do
/// not get past the decoder.
///
/// # Errors
/// The emitter's, where an operation stops the instruction.
pub fn lift<E: Emit<Mem = MemRef>>(e: &mut E, i: &Insn) -> Result<(), E::Stop> {
    let [a, b, c, _] = i.ops;
    let size = i.size;
    if let Some(op) = alu_op(i.mnemonic) {
        return alu::alu(e, op, size, a, b);
    }
    if let Some((kind, cc)) = condition(i.mnemonic) {
        return match kind {
            ConditionalKind::Jump => branch::jcc(e, cc, a),
            ConditionalKind::Set => data::setcc(e, cc, a),
            ConditionalKind::Move => data::cmov(e, cc, size, a, b),
        };
    }
    if let Some(op) = shift_op(i.mnemonic) {
        return shift::shift(e, op, size, a, b);
    }
    if let Some(op) = unary_op(i.mnemonic) {
        return alu::unary(e, op, size, a);
    }
    match i.mnemonic {
        M::Mov if matches!((a, b), (Operand::Seg(_) | Operand::Cr(_) | Operand::Dr(_), _)) => e.helper(i),
        M::Mov if matches!(b, Operand::Seg(_) | Operand::Cr(_) | Operand::Dr(_)) => e.helper(i),
        M::Mov | M::Movnti => data::mov(e, size, a, b),
        M::Movzx => data::movzx(e, size, i.src_size, a, b),
        M::Movsx | M::Movsxd => data::movsx(e, size, i.src_size, a, b),
        M::Lea => data::lea(e, size, a, b),
        M::Xchg => data::xchg(e, size, a, b),
        M::Cmpxchg => data::cmpxchg(e, size, a, b),
        M::Xadd => data::xadd(e, size, a, b),
        M::Bswap => data::bswap(e, size, a),
        M::Cbw => data::extend_accumulator(e, Size::B2),
        M::Cwde => data::extend_accumulator(e, Size::B4),
        M::Cdqe => data::extend_accumulator(e, Size::B8),
        M::Cwd => data::sign_to_dx(e, Size::B2),
        M::Cdq => data::sign_to_dx(e, Size::B4),
        M::Cqo => data::sign_to_dx(e, Size::B8),
        M::Push if matches!(a, Operand::Seg(_)) => e.helper(i),
        M::Push => data::push(e, i.stack, a),
        M::Pop if matches!(a, Operand::Reg(_)) => data::pop(e, i.stack, a),
        M::Leave if i.stack == Size::B8 => data::leave(e, i.stack),
        M::Lahf => data::lahf(e),
        M::Sahf => data::sahf(e),
        M::Clc | M::Stc | M::Cmc => data::set_carry(e, i.mnemonic),
        M::Nop | M::Reservednop | M::Pause | M::Lfence | M::Sfence | M::Mfence => Ok(()),
        M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchnta => Ok(()),
        M::Prefetchw | M::Prefetch => Ok(()),
        // It needs what a load of a byte needs.
        M::Clflush => e.read(Size::B1, a).map(drop),
        M::Shld | M::Shrd => shift::double_shift(e, i.mnemonic == M::Shld, size, a, b, c),
        M::Mul => muldiv::mul(e, false, size, a),
        M::Imul if b == Operand::None => muldiv::mul(e, true, size, a),
        M::Imul if c == Operand::None => muldiv::imul(e, size, a, a, b),
        M::Imul => muldiv::imul(e, size, a, b, c),
        M::Div => muldiv::div(e, false, size, a),
        M::Idiv => muldiv::div(e, true, size, a),
        M::Bt | M::Bts | M::Btr | M::Btc => match (a, b) {
            (Operand::Mem(_), Operand::Reg(_)) => e.helper(i),
            _ => bits::bt(e, bits::BitOp::of(i.mnemonic), size, a, b),
        },
        M::Bsf => bits::scan(e, false, size, a, b),
        M::Bsr => bits::scan(e, true, size, a, b),
        M::Tzcnt => bits::count_zeros(e, false, size, a, b),
        M::Lzcnt => bits::count_zeros(e, true, size, a, b),
        M::Popcnt => bits::count_ones(e, size, a, b),
        M::Crc32 => bmi::crc32(e, size, i.src_size, a, b),
        M::Movbe => bmi::move_swapped(e, size, a, b),
        M::Adcx => bmi::add_with_flag(e, false, size, a, b),
        M::Adox => bmi::add_with_flag(e, true, size, a, b),
        M::Andn => bmi::andn(e, size, a, b, c),
        M::Bextr => bmi::bextr(e, size, a, b, c),
        M::Blsi => bmi::lowest(e, Lowest::Isolate, size, a, b),
        M::Blsmsk => bmi::lowest(e, Lowest::Mask, size, a, b),
        M::Blsr => bmi::lowest(e, Lowest::Reset, size, a, b),
        M::Bzhi => bmi::bzhi(e, size, a, b, c),
        M::Mulx => bmi::mulx(e, size, a, b, c),
        M::Pdep => bmi::move_bits(e, Pure::Deposit, size, a, b, c),
        M::Pext => bmi::move_bits(e, Pure::Extract, size, a, b, c),
        M::Rorx => bmi::shift(e, Bin::Ror, size, a, b, c),
        M::Sarx => bmi::shift(e, Bin::Sar, size, a, b, c),
        M::Shlx => bmi::shift(e, Bin::Shl, size, a, b, c),
        M::Shrx => bmi::shift(e, Bin::Shr, size, a, b, c),
        M::Jmp if matches!(a, Operand::Imm(_)) && b != Operand::None => e.helper(i),
        M::Call if matches!(a, Operand::Imm(_)) && b != Operand::None => e.helper(i),
        // A relative target is cut to the operand's size already.
        M::Jmp if matches!(a, Operand::Imm(_)) => branch::jmp(e, Size::B8, a),
        M::Jmp if !branch::is_far(i.code) => branch::jmp(e, size, a),
        M::Call if !branch::is_far(i.code) => branch::call(e, i.stack, a, i.next),
        M::Ret => branch::ret(e, i.stack, a),
        M::Jcxz | M::Jecxz | M::Jrcxz => branch::jcxz(e, i.addr, a),
        M::Loop | M::Loope | M::Loopne => branch::loop_(e, i.mnemonic, i.addr, a),
        M::Pblendvb | M::Blendvps | M::Blendvpd if let Operand::Xmm(dst) = a => {
            let greater = match i.mnemonic {
                M::Pblendvb => VecOp::Pcmpgtb,
                M::Blendvps => VecOp::Pcmpgtd,
                _ => VecOp::Pcmpgtq,
            };
            vector::blend_by_sign(e, greater, dst, b)
        }
        _ => match simd::decode(i.code, i.ops.iter().any(|o| matches!(o, Operand::Mem(_)))) {
            Some(v) if v.form.dst != Place::MaskedBytes => {
                let imm = i
                    .ops
                    .iter()
                    .rev()
                    .find_map(|o| if let Operand::Imm(n) = o { Some(*n as u8) } else { None });
                vector::vector(e, &v, a, b, imm.unwrap_or(0))
            }
            _ => e.helper(i),
        },
    }
}
