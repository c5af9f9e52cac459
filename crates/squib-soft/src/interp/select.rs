//! Which handler a decoded instruction gets.

use iced_x86::Mnemonic as M;
use squib_x86::insn::{Insn, MemRef, Operand};
use squib_x86::sem::alu::Alu;
use squib_x86::sem::bits::BitOp;
use squib_x86::sem::{ConditionalKind, alu_op, condition, shift_op, unary_op};
use squib_x86::simd::{self, VecOp};
use squib_x86::system::is_canonical;
use squib_x86::{CodeMode, FlagOp, Size};

pub use crate::interp::emitter::UNKNOWN;
use crate::interp::emitter::{KINDS, flag_kind};
use crate::interp::handlers as h;
use crate::op::{Handler, Op, PackedMem};

/// An operation, and its extension where it has one.
pub struct Chosen {
    /// The operation.
    pub op: Op,
    /// The second constant.
    pub extension: Option<i32>,
}

/// What the chooser knows of an instruction's surroundings.
#[derive(Clone, Copy)]
pub struct Context {
    /// Decoding mode.
    pub mode: CodeMode,
    /// Linear address of the code page.
    pub page: u64,
    /// Whether anything reads the status flags that the instruction leaves.
    pub flags_live: bool,
    /// What left the status flags that the instruction finds: [`flag_kind`].
    pub flag_kind: u8,
}

macro_rules! flags {
    ($f:ident, $($p:literal),*) => { [$f::<$($p,)* false> as Handler, $f::<$($p,)* true>] };
}
macro_rules! sizes_flags {
    ($f:ident, $($p:literal),*) => { [flags!($f, $($p,)* 0), flags!($f, $($p,)* 1), flags!($f, $($p,)* 2), flags!($f, $($p,)* 3)] };
}
macro_rules! sizes {
    ($f:ident, $($p:literal),*) => { [$f::<$($p,)* 0> as Handler, $f::<$($p,)* 1>, $f::<$($p,)* 2>, $f::<$($p,)* 3>] };
}
macro_rules! both {
    ($m:ident, $f:ident) => {
        [$m!($f, false), $m!($f, true)]
    };
}
macro_rules! alus {
    ($f:ident, $($p:literal),*) => { [
        sizes_flags!($f, $($p,)* 0), sizes_flags!($f, $($p,)* 1), sizes_flags!($f, $($p,)* 2), sizes_flags!($f, $($p,)* 3), sizes_flags!($f, $($p,)* 4),
        sizes_flags!($f, $($p,)* 5), sizes_flags!($f, $($p,)* 6), sizes_flags!($f, $($p,)* 7), sizes_flags!($f, $($p,)* 8),
    ] };
}
macro_rules! four {
    ($f:ident, $($p:literal),*) => { [sizes_flags!($f, $($p,)* 0), sizes_flags!($f, $($p,)* 1), sizes_flags!($f, $($p,)* 2), sizes_flags!($f, $($p,)* 3)] };
}
macro_rules! five {
    ($f:ident) => {
        [
            sizes_flags!($f, 0),
            sizes_flags!($f, 1),
            sizes_flags!($f, 2),
            sizes_flags!($f, 3),
            sizes_flags!($f, 4),
        ]
    };
}
macro_rules! kinds {
    ($f:ident, $cc:literal) => {
        [
            $f::<$cc, 0> as Handler,
            $f::<$cc, 1>,
            $f::<$cc, 2>,
            $f::<$cc, 3>,
            $f::<$cc, 4>,
            $f::<$cc, 5>,
            $f::<$cc, 6>,
            $f::<$cc, 7>,
            $f::<$cc, 8>,
        ]
    };
}
macro_rules! conditions {
    ($f:ident) => {
        [
            kinds!($f, 0),
            kinds!($f, 1),
            kinds!($f, 2),
            kinds!($f, 3),
            kinds!($f, 4),
            kinds!($f, 5),
            kinds!($f, 6),
            kinds!($f, 7),
            kinds!($f, 8),
            kinds!($f, 9),
            kinds!($f, 10),
            kinds!($f, 11),
            kinds!($f, 12),
            kinds!($f, 13),
            kinds!($f, 14),
            kinds!($f, 15),
        ]
    };
}

use h::{
    alu_mi, alu_mr, alu_ri, alu_rm, alu_rr, bswap, bt_ri, bt_rr, cmpxchg_m, count_rr, extend, imul_rm,
    imul_rr, imul_rri, jcc, lea, mov_mi, mov_mr, mov_ri, mov_rm, mov_rr, movsx_rm, movsx_rr, movzx_rm,
    movzx_rr, popcnt_rr, push_m, set_r, shift_rc, shift_ri, sign_to_dx, unary_m, unary_r, xadd_m, xchg_m,
};

type BySize = [Handler; 4];
type BySizeFlags = [[Handler; 2]; 4];

static ALU_RR: [BySizeFlags; 9] = alus!(alu_rr,);
static ALU_RI: [BySizeFlags; 9] = alus!(alu_ri,);
static ALU_RM: [[BySizeFlags; 9]; 2] = [alus!(alu_rm, false), alus!(alu_rm, true)];
static ALU_MR: [[BySizeFlags; 9]; 2] = [alus!(alu_mr, false), alus!(alu_mr, true)];
static ALU_MI: [[BySizeFlags; 9]; 2] = [alus!(alu_mi, false), alus!(alu_mi, true)];
static UNARY_R: [BySizeFlags; 4] = four!(unary_r,);
static UNARY_M: [[BySizeFlags; 4]; 2] = both!(four, unary_m);
static SHIFT_RI: [BySizeFlags; 5] = five!(shift_ri);
static SHIFT_RC: [BySizeFlags; 5] = five!(shift_rc);
static MOV_RR: BySize = sizes!(mov_rr,);
static MOV_RI: BySize = sizes!(mov_ri,);
static MOV_RM: [BySize; 2] = both!(sizes, mov_rm);
static MOV_MR: [BySize; 2] = both!(sizes, mov_mr);
static MOV_MI: [BySize; 2] = both!(sizes, mov_mi);
static LEA: [BySize; 2] = both!(sizes, lea);
static BT_RI: [BySizeFlags; 4] = four!(bt_ri,);
static BT_RR: [BySizeFlags; 4] = four!(bt_rr,);
static IMUL_RR: BySizeFlags = sizes_flags!(imul_rr,);
static IMUL_RRI: BySizeFlags = sizes_flags!(imul_rri,);
static IMUL_RM: [BySizeFlags; 2] = both!(sizes_flags, imul_rm);
static EXTEND: BySize = sizes!(extend,);
static SIGN_TO_DX: BySize = sizes!(sign_to_dx,);
static BSWAP: BySize = sizes!(bswap,);
static TZCNT_RR: BySizeFlags = sizes_flags!(count_rr, false);
static LZCNT_RR: BySizeFlags = sizes_flags!(count_rr, true);
static POPCNT_RR: BySizeFlags = sizes_flags!(popcnt_rr,);
static XCHG_M: [BySize; 2] = both!(sizes, xchg_m);
static CMPXCHG_M: [BySize; 2] = both!(sizes, cmpxchg_m);
static XADD_M: [BySize; 2] = both!(sizes, xadd_m);
static JCC: [[Handler; KINDS]; 16] = conditions!(jcc);
static SET_R: [[Handler; KINDS]; 16] = conditions!(set_r);

macro_rules! extensions {
    ($f:ident, $($p:literal),*) => { [
        [$f::<$($p,)* 2, 0> as Handler, $f::<$($p,)* 2, 1>, $f::<$($p,)* 2, 2>],
        [$f::<$($p,)* 3, 0>, $f::<$($p,)* 3, 1>, $f::<$($p,)* 3, 2>],
    ] };
}
static MOVZX_RR: [[Handler; 3]; 2] = extensions!(movzx_rr,);
static MOVSX_RR: [[Handler; 3]; 2] = extensions!(movsx_rr,);
static MOVZX_RM: [[[Handler; 3]; 2]; 2] = both!(extensions, movzx_rm);
static MOVSX_RM: [[[Handler; 3]; 2]; 2] = both!(extensions, movsx_rm);

macro_rules! cmov_kinds {
    ($cc:literal) => {
        [
            [h::cmov_rr::<$cc, 0, 2> as Handler, h::cmov_rr::<$cc, 0, 3>],
            [h::cmov_rr::<$cc, 1, 2>, h::cmov_rr::<$cc, 1, 3>],
            [h::cmov_rr::<$cc, 2, 2>, h::cmov_rr::<$cc, 2, 3>],
            [h::cmov_rr::<$cc, 3, 2>, h::cmov_rr::<$cc, 3, 3>],
            [h::cmov_rr::<$cc, 4, 2>, h::cmov_rr::<$cc, 4, 3>],
            [h::cmov_rr::<$cc, 5, 2>, h::cmov_rr::<$cc, 5, 3>],
            [h::cmov_rr::<$cc, 6, 2>, h::cmov_rr::<$cc, 6, 3>],
            [h::cmov_rr::<$cc, 7, 2>, h::cmov_rr::<$cc, 7, 3>],
            [h::cmov_rr::<$cc, 8, 2>, h::cmov_rr::<$cc, 8, 3>],
        ]
    };
}
static CMOV_RR: [[[Handler; 2]; KINDS]; 16] = [
    cmov_kinds!(0),
    cmov_kinds!(1),
    cmov_kinds!(2),
    cmov_kinds!(3),
    cmov_kinds!(4),
    cmov_kinds!(5),
    cmov_kinds!(6),
    cmov_kinds!(7),
    cmov_kinds!(8),
    cmov_kinds!(9),
    cmov_kinds!(10),
    cmov_kinds!(11),
    cmov_kinds!(12),
    cmov_kinds!(13),
    cmov_kinds!(14),
    cmov_kinds!(15),
];

/// Vector operations with handlers of their own: the moves, and the arithmetic that compilers make most of.
macro_rules! hot_vectors {
    ($($op:ident)*) => {
        fn vec_rr(op: VecOp) -> Option<Handler> {
            Some(match op { $(VecOp::$op => h::vec_rr::<{ VecOp::$op as u8 }>,)* _ => return None })
        }
        fn vec_rm(op: VecOp, full: bool, aligned: bool, bytes: u8) -> Option<Handler> {
            Some(match (op, full, aligned, bytes) {
                $(
                    (VecOp::$op, false, false, 16) => h::vec_rm::<false, { VecOp::$op as u8 }, false, 16>,
                    (VecOp::$op, false, true, 16) => h::vec_rm::<false, { VecOp::$op as u8 }, true, 16>,
                    (VecOp::$op, false, false, 8) => h::vec_rm::<false, { VecOp::$op as u8 }, false, 8>,
                    (VecOp::$op, true, false, 16) => h::vec_rm::<true, { VecOp::$op as u8 }, false, 16>,
                    (VecOp::$op, true, true, 16) => h::vec_rm::<true, { VecOp::$op as u8 }, true, 16>,
                    (VecOp::$op, true, false, 8) => h::vec_rm::<true, { VecOp::$op as u8 }, false, 8>,
                )*
                _ => return None,
            })
        }
    };
}
hot_vectors!(Mov MovLow64 MergeLow64 Pxor Pand Por Pandn Addsd Subsd Mulsd Divsd Sqrtsd Addpd Mulpd Subpd Pcmpeqb Paddd Paddq);

fn vec_mr(op: VecOp, full: bool, aligned: bool, bytes: u8) -> Option<Handler> {
    const MOV: u8 = VecOp::Mov as u8;
    const MERGE_LOW: u8 = VecOp::MergeLow64 as u8;
    const LOW: u8 = VecOp::MovLow64 as u8;
    Some(match (op, full, aligned, bytes) {
        (VecOp::Mov, false, false, 16) => h::vec_mr::<false, MOV, false, 16>,
        (VecOp::Mov, false, true, 16) => h::vec_mr::<false, MOV, true, 16>,
        (VecOp::Mov, true, false, 16) => h::vec_mr::<true, MOV, false, 16>,
        (VecOp::Mov, true, true, 16) => h::vec_mr::<true, MOV, true, 16>,
        (VecOp::MergeLow64, false, false, 8) => h::vec_mr::<false, MERGE_LOW, false, 8>,
        (VecOp::MergeLow64, true, false, 8) => h::vec_mr::<true, MERGE_LOW, false, 8>,
        (VecOp::MovLow64, false, false, 8) => h::vec_mr::<false, LOW, false, 8>,
        (VecOp::MovLow64, true, false, 8) => h::vec_mr::<true, LOW, false, 8>,
        _ => return None,
    })
}

/// What an instruction leaves the status flags in, when it has set them.
pub fn leaves(i: &Insn) -> u8 {
    match alu_op(i.mnemonic) {
        Some(Alu::Sub | Alu::Cmp) => flag_kind(FlagOp::Sub, i.size),
        Some(Alu::And | Alu::Or | Alu::Xor | Alu::Test) => flag_kind(FlagOp::Logic, i.size),
        _ => UNKNOWN,
    }
}

/// The specialised operation for `i`, if there is one.
pub fn select(i: &Insn, cx: &Context) -> Option<Chosen> {
    if cx.mode != CodeMode::Bits64 || i.lock && !matches!(i.ops[0], Operand::Mem(_)) {
        return None;
    }
    let builder = Builder { i, cx };
    let s = i.size as usize;
    let f = usize::from(cx.flags_live);
    let wide = usize::from(i.size == Size::B8);
    let [a, b, c, _] = i.ops;
    if let Some(op) = alu_op(i.mnemonic) {
        let n = op as usize;
        return match (a, b) {
            (Operand::Reg(a), Operand::Reg(b)) => builder.regs(ALU_RR[n][s][f], a, b),
            (Operand::Reg(a), Operand::Imm(v)) => builder.imm(ALU_RI[n][s][f], a, 0, v),
            (Operand::Reg(a), Operand::Mem(m)) => builder.mem(&m, a, |full| ALU_RM[full][n][s][f]),
            (Operand::Mem(m), Operand::Reg(b)) => builder.mem(&m, b, |full| ALU_MR[full][n][s][f]),
            (Operand::Mem(m), Operand::Imm(v)) => builder.mem_imm(&m, v, |full| ALU_MI[full][n][s][f]),
            _ => None,
        };
    }
    if let Some(op) = unary_op(i.mnemonic) {
        let n = op as usize;
        return match a {
            Operand::Reg(a) => builder.regs(UNARY_R[n][s][f], a, 0),
            Operand::Mem(m) => builder.mem(&m, 0, |full| UNARY_M[full][n][s][f]),
            _ => None,
        };
    }
    if let Some(op) = shift_op(i.mnemonic) {
        let n = op as usize;
        return match (a, b) {
            (Operand::Reg(a), Operand::Imm(v)) => builder.imm(SHIFT_RI[n][s][f], a, 0, v),
            (Operand::Reg(a), Operand::Reg(1)) => builder.regs(SHIFT_RC[n][s][f], a, 0),
            _ => None,
        };
    }
    if let Some((kind, cc)) = condition(i.mnemonic) {
        let (cc, k) = (cc as usize, usize::from(cx.flag_kind).min(KINDS - 1));
        return match (kind, a, b) {
            (ConditionalKind::Jump, Operand::Imm(target), _) => builder.branch(JCC[cc][k], target),
            (ConditionalKind::Set, Operand::Reg(a), _) => builder.regs(SET_R[cc][k], a, 0),
            (ConditionalKind::Move, Operand::Reg(a), Operand::Reg(b)) if i.size >= Size::B4 => {
                builder.regs(CMOV_RR[cc][k][wide], a, b)
            }
            _ => None,
        };
    }
    match (i.mnemonic, a, b) {
        (M::Mov, Operand::Reg(a), Operand::Reg(b)) => builder.regs(MOV_RR[s], a, b),
        (M::Mov, Operand::Reg(a), Operand::Imm(v)) => match i32::try_from(v as i64) {
            Err(_) if i.size == Size::B8 => builder.two(h::mov_ri64, a, v as i32, (v >> 32) as i32),
            _ => builder.imm(MOV_RI[s], a, 0, v),
        },
        (M::Mov, Operand::Reg(a), Operand::Mem(m)) => builder.mem(&m, a, |full| MOV_RM[full][s]),
        (M::Mov, Operand::Mem(m), Operand::Reg(b)) => builder.mem(&m, b, |full| MOV_MR[full][s]),
        (M::Mov, Operand::Mem(m), Operand::Imm(v)) => builder.mem_imm(&m, v, |full| MOV_MI[full][s]),
        (M::Movzx | M::Movsx | M::Movsxd, Operand::Reg(a), _)
            if i.size >= Size::B4 && i.src_size < i.size =>
        {
            let from = i.src_size as usize;
            let zero = i.mnemonic == M::Movzx;
            match b {
                Operand::Reg(b) => builder.regs(if zero { &MOVZX_RR } else { &MOVSX_RR }[wide][from], a, b),
                Operand::Mem(m) => {
                    builder.mem(&m, a, |full| if zero { &MOVZX_RM } else { &MOVSX_RM }[full][wide][from])
                }
                _ => None,
            }
        }
        (M::Lea, Operand::Reg(a), Operand::Mem(m)) => {
            // LEA has no segment.
            let m = MemRef { seg: squib_x86::state::sreg::DS as u8, ..m };
            builder.mem(&m, a, |full| LEA[full][s])
        }
        (M::Imul, Operand::Reg(a), Operand::Reg(b)) => match c {
            Operand::None => builder.regs(IMUL_RR[s][f], a, b),
            Operand::Imm(v) => builder.imm(IMUL_RRI[s][f], a, b, v),
            _ => None,
        },
        (M::Imul, Operand::Reg(a), Operand::Mem(m)) if c == Operand::None => {
            builder.mem(&m, a, |full| IMUL_RM[full][s][f])
        }
        (M::Mul | M::Imul, Operand::Reg(a), Operand::None) if i.size >= Size::B4 => {
            let handler: Handler = match (i.mnemonic == M::Imul, wide, cx.flags_live) {
                (false, 0, false) => h::mul_r::<false, 2, false>,
                (false, 0, true) => h::mul_r::<false, 2, true>,
                (false, _, false) => h::mul_r::<false, 3, false>,
                (false, _, true) => h::mul_r::<false, 3, true>,
                (true, 0, false) => h::mul_r::<true, 2, false>,
                (true, 0, true) => h::mul_r::<true, 2, true>,
                (true, _, false) => h::mul_r::<true, 3, false>,
                (true, _, true) => h::mul_r::<true, 3, true>,
            };
            builder.regs(handler, a, 0)
        }
        (M::Div | M::Idiv, Operand::Reg(a), _) if i.size >= Size::B4 => {
            let handler: Handler = match (i.mnemonic == M::Idiv, wide) {
                (false, 0) => h::div_r::<false, 2>,
                (false, _) => h::div_r::<false, 3>,
                (true, 0) => h::div_r::<true, 2>,
                (true, _) => h::div_r::<true, 3>,
            };
            builder.regs(handler, a, 0)
        }
        (M::Push, Operand::Reg(a), _) if i.stack == Size::B8 => builder.regs(h::push_r, a, 0),
        (M::Push, Operand::Imm(v), _) if i.stack == Size::B8 => builder.imm(h::push_i, 0, 0, v),
        (M::Push, Operand::Mem(m), _) if i.stack == Size::B8 => {
            builder.mem(&m, 0, |full| if full == 1 { push_m::<true> } else { push_m::<false> })
        }
        (M::Pop, Operand::Reg(a), _) if i.stack == Size::B8 => builder.regs(h::pop_r, a, 0),
        (M::Leave, ..) if i.stack == Size::B8 => builder.regs(h::leave, 0, 0),
        (M::Cbw, ..) => builder.regs(EXTEND[1], 0, 0),
        (M::Cwde, ..) => builder.regs(EXTEND[2], 0, 0),
        (M::Cdqe, ..) => builder.regs(EXTEND[3], 0, 0),
        (M::Cwd, ..) => builder.regs(SIGN_TO_DX[1], 0, 0),
        (M::Cdq, ..) => builder.regs(SIGN_TO_DX[2], 0, 0),
        (M::Cqo, ..) => builder.regs(SIGN_TO_DX[3], 0, 0),
        (M::Bswap, Operand::Reg(a), _) if i.size >= Size::B4 => builder.regs(BSWAP[s], a, 0),
        (M::Bt | M::Bts | M::Btr | M::Btc, Operand::Reg(a), b) => {
            let n = BitOp::of(i.mnemonic) as usize;
            match b {
                Operand::Reg(b) => builder.regs(BT_RR[n][s][f], a, b),
                Operand::Imm(v) => builder.imm(BT_RI[n][s][f], a, 0, v),
                _ => None,
            }
        }
        (M::Bsf | M::Bsr, Operand::Reg(a), Operand::Reg(b)) if i.size >= Size::B4 => {
            let handler: Handler = match (i.mnemonic == M::Bsr, wide) {
                (false, 0) => h::scan_rr::<false, 2, true>,
                (false, _) => h::scan_rr::<false, 3, true>,
                (true, 0) => h::scan_rr::<true, 2, true>,
                (true, _) => h::scan_rr::<true, 3, true>,
            };
            builder.regs(handler, a, b)
        }
        (M::Tzcnt, Operand::Reg(a), Operand::Reg(b)) => builder.regs(TZCNT_RR[s][f], a, b),
        (M::Lzcnt, Operand::Reg(a), Operand::Reg(b)) => builder.regs(LZCNT_RR[s][f], a, b),
        (M::Popcnt, Operand::Reg(a), Operand::Reg(b)) => builder.regs(POPCNT_RR[s][f], a, b),
        (M::Xchg, Operand::Mem(m), Operand::Reg(b)) => builder.mem(&m, b, |full| XCHG_M[full][s]),
        (M::Cmpxchg, Operand::Mem(m), Operand::Reg(b)) => builder.mem(&m, b, |full| CMPXCHG_M[full][s]),
        (M::Xadd, Operand::Mem(m), Operand::Reg(b)) => builder.mem(&m, b, |full| XADD_M[full][s]),
        (M::Nop | M::Lfence | M::Sfence | M::Mfence | M::Prefetcht0 | M::Prefetchw, ..) if !i.lock => {
            builder.regs(h::nop, 0, 0)
        }
        (M::Jmp, Operand::Imm(target), Operand::None) => builder.branch(h::jmp, target),
        (M::Call, Operand::Imm(target), Operand::None) if i.stack == Size::B8 => {
            builder.branch(h::call, target)
        }
        (M::Jmp, Operand::Reg(a), _) if i.size == Size::B8 => builder.indirect(h::jmp_r, a),
        (M::Call, Operand::Reg(a), _) if i.size == Size::B8 => builder.indirect(h::call_r, a),
        (M::Ret, Operand::None, _) if i.stack == Size::B8 => builder.indirect(h::ret, 0),
        _ => vector(i, &builder),
    }
}

fn vector(i: &Insn, builder: &Builder<'_>) -> Option<Chosen> {
    let [a, b, c, _] = i.ops;
    if c != Operand::None {
        return None;
    }
    let memory = matches!(a, Operand::Mem(_)) || matches!(b, Operand::Mem(_));
    let v = simd::decode(i.code, memory)?;
    if v.form.dst != simd::Place::Xmm || v.form.src != simd::Place::Xmm {
        return None;
    }
    let (aligned, bytes) = (v.form.aligned, v.form.mem);
    match (a, b) {
        (Operand::Xmm(a), Operand::Xmm(b)) => builder.regs(vec_rr(v.op)?, a, b),
        (Operand::Xmm(a), Operand::Mem(m)) => {
            let handlers = [vec_rm(v.op, false, aligned, bytes)?, vec_rm(v.op, true, aligned, bytes)?];
            builder.mem(&m, a, |full| handlers[full])
        }
        (Operand::Mem(m), Operand::Xmm(b)) => {
            let handlers = [vec_mr(v.op, false, aligned, bytes)?, vec_mr(v.op, true, aligned, bytes)?];
            builder.mem(&m, b, |full| handlers[full])
        }
        _ => None,
    }
}

struct Builder<'a> {
    i: &'a Insn,
    cx: &'a Context,
}

impl Builder<'_> {
    fn op(&self, run: Handler, a: u8, b: u8, c: u8, imm: i32) -> Op {
        Op { run, a, b, c, len: self.i.len, imm }
    }

    fn regs(&self, run: Handler, a: u8, b: u8) -> Option<Chosen> {
        Some(Chosen { op: self.op(run, a, b, 0, 0), extension: None })
    }

    fn imm(&self, run: Handler, a: u8, b: u8, imm: u64) -> Option<Chosen> {
        Some(Chosen { op: self.op(run, a, b, 0, self.narrow(imm)?), extension: None })
    }

    /// An immediate in 32 bits, from which its operand size takes what it needs.
    fn narrow(&self, imm: u64) -> Option<i32> {
        if self.i.size == Size::B8 { i32::try_from(imm as i64).ok() } else { Some(imm as i32) }
    }

    fn two(&self, run: Handler, a: u8, imm: i32, second: i32) -> Option<Chosen> {
        Some(Chosen { op: self.op(run, a, 0, 0, imm), extension: Some(second) })
    }

    fn mem(&self, m: &MemRef, a: u8, run: impl FnOnce(usize) -> Handler) -> Option<Chosen> {
        let p = PackedMem::pack(m, self.cx.mode, self.cx.page)?;
        Some(Chosen { op: self.op(run(usize::from(!p.simple)), a, p.b, p.c, p.disp), extension: None })
    }

    fn mem_imm(&self, m: &MemRef, imm: u64, run: impl FnOnce(usize) -> Handler) -> Option<Chosen> {
        Some(Chosen { extension: Some(self.narrow(imm)?), ..self.mem(m, 0, run)? })
    }

    /// `b` and `c` of an operation that ends a block: how far the next instruction is from the page's start.
    fn next(&self) -> [u8; 2] {
        (self.i.next.wrapping_sub(self.cx.page) as u16).to_le_bytes()
    }

    /// A relative branch. Its handler does not look at where it goes.
    fn branch(&self, run: Handler, target: u64) -> Option<Chosen> {
        if !is_canonical(target) {
            return None;
        }
        let offset = i32::try_from(target.wrapping_sub(self.cx.page) as i64).ok()?;
        let [b, c] = self.next();
        Some(Chosen { op: self.op(run, 0, b, c, offset), extension: None })
    }

    fn indirect(&self, run: Handler, a: u8) -> Option<Chosen> {
        let [b, c] = self.next();
        Some(Chosen { op: self.op(run, a, b, c, 0), extension: None })
    }
}
