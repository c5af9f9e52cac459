//! MMX, SSE and SSE2 to SSE4.2, AES, PCLMULQDQ and SHA on vector registers: what is computed, and on which operands.
//!
//! Everything is made from the one list in this file. A row gives an operation's name, its meaning, and the
//! instructions (in iced-x86's names) that are made of it, each with the [`Form`] its operands have. MMX
//! instructions compute on 128 bits like all others: their operands are zero-extended, and of the result only
//! the low half is kept. Instructions with a third operand, which is implicit, are not in the list: [`text`] and
//! [`sha256_rounds`] are their meaning, and the variable blends are made of the list's operations.
//!
//! Source: Intel SDM vol. 2.

mod crypto;
mod float;
mod form;
mod integer;
mod lanes;
mod packed;
pub mod text;

use Place::{Flags, Gpr32, Gpr64, Imm, MaskedBytes, Mm};
pub use crypto::sha256_rounds;
use float::{add_sub, dot_product_double, dot_product_single, insert_single, rounded};
pub use form::{Form, Place, VecInsn};
use form::{M, M16, M32, MM, X, X8, X16, X32, X64, XU, XX};
use iced_x86::Code;
use integer::{
    align, blend, count, extend, extract, field, horizontal, insert, interleave, min_position,
    multiply_add_bytes, multiply_add_words, multiply_rounded, pack, shift_bytes_left, shift_bytes_right,
    shrink, shuffle, shuffle_bytes, shuffle_pair, signs, sum_of_differences, windowed_differences, with_sign,
};
use lanes::{low, map, mask, zip};
use packed::{byte_signs, select};

use crate::fp::mxcsr::{Env, Mxcsr, SimdFault};
use crate::fp::{approx, convert, sse};

const LOW32: u128 = u32::MAX as u128;
const LOW64: u128 = u64::MAX as u128;

macro_rules! vec_ops {
    ($($op:ident = |$d:tt, $s:tt $(, imm $i:ident)? $(, env $e:ident)?| $meaning:expr =>
        $($code:ident: $form:expr),*;)*) => {
        /// A vector operation: a function of one or two 128-bit operands and, for some, an immediate byte and
        /// MXCSR.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names are the manual's, or say what is computed")]
        pub enum VecOp { $($op,)* }

        impl VecOp {
            /// Every operation, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$op,)*];
        }

        /// The result of `op` on the first operand `dst` and the second `src`, or an unmasked floating-point
        /// exception. Flags become sticky in `mxcsr` in both cases. With a constant `op` this is the one
        /// operation.
        #[inline(always)]
        pub fn eval(op: VecOp, dst: u128, src: u128, imm: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            match op {$(
                VecOp::$op => {
                    // A function of its own keeps the arms of this match small, however often it is inlined.
                    #[inline]
                    fn meaning(dst: u128, src: u128, _imm: u8, _env: &mut Env) -> u128 {
                        let ($d, $s) = (dst, src);
                        $(let $i = _imm;)?
                        $(let $e = _env;)?
                        $meaning
                    }
                    let mut env = Env::new(*mxcsr);
                    let result = meaning(dst, src, imm, &mut env);
                    env.commit(mxcsr)?;
                    Ok(result)
                }
            )*}
        }

        /// The operation and operands of an instruction, given whether one of its operands is memory; `None`
        /// if it is no vector instruction of this list.
        pub const fn decode(code: Code, memory: bool) -> Option<VecInsn> {
            let insn = match code {
                $($(Code::$code => VecInsn { op: VecOp::$op, form: $form },)*)*
                _ => return None,
            };
            Some(if memory { with_memory(code, insn) } else { insn })
        }
    };
}

/// What differs, besides the operand, when one is memory.
const fn with_memory(code: Code, insn: VecInsn) -> VecInsn {
    let VecInsn { op, form } = insn;
    match code {
        // Loads clear the rest of the register; moves between registers keep it.
        Code::Movss_xmm_xmmm32 | Code::Movsd_xmm_xmmm64 => VecInsn { op: VecOp::Mov, form },
        // The single element in memory is the one to insert, whatever the immediate selects.
        Code::Insertps_xmm_xmmm32_imm8 => VecInsn { op: VecOp::InsertpsMem, form },
        // Without an MMX register it does not enter MMX state (SDM vol. 2, CVTPI2PD; of CVTPI2PS processors
        // show the same).
        Code::Cvtpi2pd_xmm_mmm64 | Code::Cvtpi2ps_xmm_mmm64 => {
            VecInsn { op, form: Form { mmx: false, ..form } }
        }
        _ => insn,
    }
}

vec_ops! {
    // Moves. The result of a plain one is the source, as wide as its destination takes it.
    Mov = |_, s| s =>
        Movaps_xmm_xmmm128: X, Movapd_xmm_xmmm128: X, Movdqa_xmm_xmmm128: X, Movaps_xmmm128_xmm: X,
        Movapd_xmmm128_xmm: X, Movdqa_xmmm128_xmm: X, Movups_xmm_xmmm128: XU, Movupd_xmm_xmmm128: XU,
        Movdqu_xmm_xmmm128: XU, Movups_xmmm128_xmm: XU, Movupd_xmmm128_xmm: XU, Movdqu_xmmm128_xmm: XU,
        Lddqu_xmm_m128: XU, Movntps_m128_xmm: X, Movntpd_m128_xmm: X, Movntdq_m128_xmm: X, Movntdqa_xmm_m128:
        X, Movlps_m64_xmm: X64, Movlpd_m64_xmm: X64, Movd_xmm_rm32: X32.from(Gpr32), Movq_xmm_rm64:
        X64.from(Gpr64), Movd_rm32_xmm: X32.to(Gpr32), Movq_rm64_xmm: X64.to(Gpr64), Movd_mm_rm32:
        M32.from(Gpr32), Movq_mm_rm64: M.from(Gpr64), Movd_rm32_mm: M32.to(Gpr32), Movq_rm64_mm: M.to(Gpr64),
        Movq_mm_mmm64: M, Movq_mmm64_mm: M, Movntq_m64_mm: M, Movq2dq_xmm_mm: XX.from(Mm), Movdq2q_mm_xmm:
        XX.to(Mm);
    MovLow64 = |_, s| s & LOW64 => Movq_xmm_xmmm64: X64, Movq_xmmm64_xmm: X64;
    MergeLow32 = |d, s| d & !LOW32 | s & LOW32 => Movss_xmm_xmmm32: X32, Movss_xmmm32_xmm: X32;
    MergeLow64 = |d, s| d & !LOW64 | s & LOW64 =>
        Movsd_xmm_xmmm64: X64, Movsd_xmmm64_xmm: X64, Movlps_xmm_m64: X64, Movlpd_xmm_m64: X64;
    HighToLow = |d, s| d & !LOW64 | s >> 64 => Movhlps_xmm_xmm: XX, Movhps_m64_xmm: X64, Movhpd_m64_xmm: X64;
    Movsldup = |_, s| shuffle::<u32>(s, |i| i & !1) => Movsldup_xmm_xmmm128: X;
    Movshdup = |_, s| shuffle::<u32>(s, |i| i | 1) => Movshdup_xmm_xmmm128: X;
    Movddup = |_, s| shuffle::<u64>(s, |_| 0) => Movddup_xmm_xmmm64: X64;
    MaskBytes = |_, s| byte_signs(s) =>
        Pmovmskb_r32_xmm: XX.to(Gpr32), Pmovmskb_r64_xmm: XX.to(Gpr64), Pmovmskb_r32_mm: MM.to(Gpr32),
        Pmovmskb_r64_mm: MM.to(Gpr64), Maskmovdqu_rDI_xmm_xmm: XX.to(MaskedBytes), Maskmovq_rDI_mm_mm:
        MM.to(MaskedBytes);
    Movmskps = |_, s| signs::<u32>(s) => Movmskps_r32_xmm: XX.to(Gpr32), Movmskps_r64_xmm: XX.to(Gpr64);
    Movmskpd = |_, s| signs::<u64>(s) => Movmskpd_r32_xmm: XX.to(Gpr32), Movmskpd_r64_xmm: XX.to(Gpr64);

    // Logic.
    Pand = |d, s| d & s => Pand_xmm_xmmm128: X, Pand_mm_mmm64: M, Andps_xmm_xmmm128: X, Andpd_xmm_xmmm128: X;
    Pandn = |d, s| !d & s =>
        Pandn_xmm_xmmm128: X, Pandn_mm_mmm64: M, Andnps_xmm_xmmm128: X, Andnpd_xmm_xmmm128: X;
    Por = |d, s| d | s => Por_xmm_xmmm128: X, Por_mm_mmm64: M, Orps_xmm_xmmm128: X, Orpd_xmm_xmmm128: X;
    Pxor = |d, s| d ^ s => Pxor_xmm_xmmm128: X, Pxor_mm_mmm64: M, Xorps_xmm_xmmm128: X, Xorpd_xmm_xmmm128: X;
    Ptest = |d, s| u128::from(d & s == 0) << 6 | u128::from(!d & s == 0) => Ptest_xmm_xmmm128: X.to(Flags);

    // Integer addition and subtraction.
    Paddb = |d, s| packed::add::<8>(d, s) => Paddb_xmm_xmmm128: X, Paddb_mm_mmm64: M;
    Paddw = |d, s| packed::add::<16>(d, s) => Paddw_xmm_xmmm128: X, Paddw_mm_mmm64: M;
    Paddd = |d, s| zip(d, s, u32::wrapping_add) => Paddd_xmm_xmmm128: X, Paddd_mm_mmm64: M;
    Paddq = |d, s| zip(d, s, u64::wrapping_add) => Paddq_xmm_xmmm128: X, Paddq_mm_mmm64: M;
    Psubb = |d, s| packed::sub::<8>(d, s) => Psubb_xmm_xmmm128: X, Psubb_mm_mmm64: M;
    Psubw = |d, s| packed::sub::<16>(d, s) => Psubw_xmm_xmmm128: X, Psubw_mm_mmm64: M;
    Psubd = |d, s| zip(d, s, u32::wrapping_sub) => Psubd_xmm_xmmm128: X, Psubd_mm_mmm64: M;
    Psubq = |d, s| zip(d, s, u64::wrapping_sub) => Psubq_xmm_xmmm128: X, Psubq_mm_mmm64: M;
    Paddsb = |d, s| zip(d, s, i8::saturating_add) => Paddsb_xmm_xmmm128: X, Paddsb_mm_mmm64: M;
    Paddsw = |d, s| zip(d, s, i16::saturating_add) => Paddsw_xmm_xmmm128: X, Paddsw_mm_mmm64: M;
    Paddusb = |d, s| zip(d, s, u8::saturating_add) => Paddusb_xmm_xmmm128: X, Paddusb_mm_mmm64: M;
    Paddusw = |d, s| zip(d, s, u16::saturating_add) => Paddusw_xmm_xmmm128: X, Paddusw_mm_mmm64: M;
    Psubsb = |d, s| zip(d, s, i8::saturating_sub) => Psubsb_xmm_xmmm128: X, Psubsb_mm_mmm64: M;
    Psubsw = |d, s| zip(d, s, i16::saturating_sub) => Psubsw_xmm_xmmm128: X, Psubsw_mm_mmm64: M;
    Psubusb = |d, s| zip(d, s, u8::saturating_sub) => Psubusb_xmm_xmmm128: X, Psubusb_mm_mmm64: M;
    Psubusw = |d, s| zip(d, s, u16::saturating_sub) => Psubusw_xmm_xmmm128: X, Psubusw_mm_mmm64: M;
    Pavgb = |d, s| zip(d, s, |a: u8, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8) =>
        Pavgb_xmm_xmmm128: X, Pavgb_mm_mmm64: M;
    Pavgw = |d, s| zip(d, s, |a: u16, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16) =>
        Pavgw_xmm_xmmm128: X, Pavgw_mm_mmm64: M;
    Psadbw = |d, s| sum_of_differences(d, s) => Psadbw_xmm_xmmm128: X, Psadbw_mm_mmm64: M;
    Mpsadbw = |d, s, imm i| windowed_differences(d, s, i) => Mpsadbw_xmm_xmmm128_imm8: X.imm();
    Pabsb = |_, s| map(s, i8::wrapping_abs) => Pabsb_xmm_xmmm128: X, Pabsb_mm_mmm64: M;
    Pabsw = |_, s| map(s, i16::wrapping_abs) => Pabsw_xmm_xmmm128: X, Pabsw_mm_mmm64: M;
    Pabsd = |_, s| map(s, i32::wrapping_abs) => Pabsd_xmm_xmmm128: X, Pabsd_mm_mmm64: M;
    Psignb = |d, s| zip(d, s, |a: i8, b| with_sign!(a, b)) => Psignb_xmm_xmmm128: X, Psignb_mm_mmm64: M;
    Psignw = |d, s| zip(d, s, |a: i16, b| with_sign!(a, b)) => Psignw_xmm_xmmm128: X, Psignw_mm_mmm64: M;
    Psignd = |d, s| zip(d, s, |a: i32, b| with_sign!(a, b)) => Psignd_xmm_xmmm128: X, Psignd_mm_mmm64: M;
    Phaddw = |d, s| horizontal(d, s, i16::wrapping_add) => Phaddw_xmm_xmmm128: X;
    PhaddwMm = |d, s| horizontal(d & LOW64 | s << 64, 0, i16::wrapping_add) => Phaddw_mm_mmm64: M;
    Phaddd = |d, s| horizontal(d, s, i32::wrapping_add) => Phaddd_xmm_xmmm128: X;
    PhadddMm = |d, s| horizontal(d & LOW64 | s << 64, 0, i32::wrapping_add) => Phaddd_mm_mmm64: M;
    Phaddsw = |d, s| horizontal(d, s, i16::saturating_add) => Phaddsw_xmm_xmmm128: X;
    PhaddswMm = |d, s| horizontal(d & LOW64 | s << 64, 0, i16::saturating_add) => Phaddsw_mm_mmm64: M;
    Phsubw = |d, s| horizontal(d, s, i16::wrapping_sub) => Phsubw_xmm_xmmm128: X;
    PhsubwMm = |d, s| horizontal(d & LOW64 | s << 64, 0, i16::wrapping_sub) => Phsubw_mm_mmm64: M;
    Phsubd = |d, s| horizontal(d, s, i32::wrapping_sub) => Phsubd_xmm_xmmm128: X;
    PhsubdMm = |d, s| horizontal(d & LOW64 | s << 64, 0, i32::wrapping_sub) => Phsubd_mm_mmm64: M;
    Phsubsw = |d, s| horizontal(d, s, i16::saturating_sub) => Phsubsw_xmm_xmmm128: X;
    PhsubswMm = |d, s| horizontal(d & LOW64 | s << 64, 0, i16::saturating_sub) => Phsubsw_mm_mmm64: M;

    // Integer multiplication.
    Pmullw = |d, s| zip(d, s, u16::wrapping_mul) => Pmullw_xmm_xmmm128: X, Pmullw_mm_mmm64: M;
    Pmulld = |d, s| zip(d, s, u32::wrapping_mul) => Pmulld_xmm_xmmm128: X;
    Pmulhw = |d, s| zip(d, s, |a: i16, b| ((i32::from(a) * i32::from(b)) >> 16) as i16) =>
        Pmulhw_xmm_xmmm128: X, Pmulhw_mm_mmm64: M;
    Pmulhuw = |d, s| zip(d, s, |a: u16, b| ((u32::from(a) * u32::from(b)) >> 16) as u16) =>
        Pmulhuw_xmm_xmmm128: X, Pmulhuw_mm_mmm64: M;
    Pmulhrsw = |d, s| zip(d, s, multiply_rounded) => Pmulhrsw_xmm_xmmm128: X, Pmulhrsw_mm_mmm64: M;
    Pmuludq = |d, s| zip(d, s, |a: u64, b| u64::from(a as u32) * u64::from(b as u32)) =>
        Pmuludq_xmm_xmmm128: X, Pmuludq_mm_mmm64: M;
    Pmuldq = |d, s| zip(d, s, |a: i64, b| i64::from(a as i32) * i64::from(b as i32)) => Pmuldq_xmm_xmmm128: X;
    Pmaddwd = |d, s| multiply_add_words(d, s) => Pmaddwd_xmm_xmmm128: X, Pmaddwd_mm_mmm64: M;
    Pmaddubsw = |d, s| multiply_add_bytes(d, s) => Pmaddubsw_xmm_xmmm128: X, Pmaddubsw_mm_mmm64: M;

    // Comparison, minimum and maximum.
    Pcmpeqb = |d, s| packed::equal::<8>(d, s) => Pcmpeqb_xmm_xmmm128: X, Pcmpeqb_mm_mmm64: M;
    Pcmpeqw = |d, s| packed::equal::<16>(d, s) => Pcmpeqw_xmm_xmmm128: X, Pcmpeqw_mm_mmm64: M;
    Pcmpeqd = |d, s| packed::equal::<32>(d, s) => Pcmpeqd_xmm_xmmm128: X, Pcmpeqd_mm_mmm64: M;
    Pcmpeqq = |d, s| zip(d, s, |a: u64, b| mask(a == b)) => Pcmpeqq_xmm_xmmm128: X;
    Pcmpgtb = |d, s| packed::less::<8>(s, d) => Pcmpgtb_xmm_xmmm128: X, Pcmpgtb_mm_mmm64: M;
    Pcmpgtw = |d, s| packed::less::<16>(s, d) => Pcmpgtw_xmm_xmmm128: X, Pcmpgtw_mm_mmm64: M;
    Pcmpgtd = |d, s| zip(d, s, |a: i32, b| mask(a > b)) => Pcmpgtd_xmm_xmmm128: X, Pcmpgtd_mm_mmm64: M;
    Pcmpgtq = |d, s| zip(d, s, |a: i64, b| mask(a > b)) => Pcmpgtq_xmm_xmmm128: X;
    Pminub = |d, s| select(packed::below::<8>(d, s), d, s) => Pminub_xmm_xmmm128: X, Pminub_mm_mmm64: M;
    Pminsw = |d, s| select(packed::less::<16>(d, s), d, s) => Pminsw_xmm_xmmm128: X, Pminsw_mm_mmm64: M;
    Pminsb = |d, s| zip(d, s, i8::min) => Pminsb_xmm_xmmm128: X;
    Pminuw = |d, s| zip(d, s, u16::min) => Pminuw_xmm_xmmm128: X;
    Pminsd = |d, s| zip(d, s, i32::min) => Pminsd_xmm_xmmm128: X;
    Pminud = |d, s| zip(d, s, u32::min) => Pminud_xmm_xmmm128: X;
    Pmaxub = |d, s| select(packed::below::<8>(d, s), s, d) => Pmaxub_xmm_xmmm128: X, Pmaxub_mm_mmm64: M;
    Pmaxsw = |d, s| select(packed::less::<16>(d, s), s, d) => Pmaxsw_xmm_xmmm128: X, Pmaxsw_mm_mmm64: M;
    Pmaxsb = |d, s| zip(d, s, i8::max) => Pmaxsb_xmm_xmmm128: X;
    Pmaxuw = |d, s| zip(d, s, u16::max) => Pmaxuw_xmm_xmmm128: X;
    Pmaxsd = |d, s| zip(d, s, i32::max) => Pmaxsd_xmm_xmmm128: X;
    Pmaxud = |d, s| zip(d, s, u32::max) => Pmaxud_xmm_xmmm128: X;
    Phminposuw = |_, s| min_position(s) => Phminposuw_xmm_xmmm128: X;

    // Shifts. A count too large gives zero, or the sign.
    Psllw = |d, s| map(d, |a: u16| a.checked_shl(count(s)).unwrap_or(0)) =>
        Psllw_xmm_xmmm128: X, Psllw_mm_mmm64: M, Psllw_xmm_imm8: XX.from(Imm), Psllw_mm_imm8: MM.from(Imm);
    Pslld = |d, s| map(d, |a: u32| a.checked_shl(count(s)).unwrap_or(0)) =>
        Pslld_xmm_xmmm128: X, Pslld_mm_mmm64: M, Pslld_xmm_imm8: XX.from(Imm), Pslld_mm_imm8: MM.from(Imm);
    Psllq = |d, s| map(d, |a: u64| a.checked_shl(count(s)).unwrap_or(0)) =>
        Psllq_xmm_xmmm128: X, Psllq_mm_mmm64: M, Psllq_xmm_imm8: XX.from(Imm), Psllq_mm_imm8: MM.from(Imm);
    Psrlw = |d, s| map(d, |a: u16| a.checked_shr(count(s)).unwrap_or(0)) =>
        Psrlw_xmm_xmmm128: X, Psrlw_mm_mmm64: M, Psrlw_xmm_imm8: XX.from(Imm), Psrlw_mm_imm8: MM.from(Imm);
    Psrld = |d, s| map(d, |a: u32| a.checked_shr(count(s)).unwrap_or(0)) =>
        Psrld_xmm_xmmm128: X, Psrld_mm_mmm64: M, Psrld_xmm_imm8: XX.from(Imm), Psrld_mm_imm8: MM.from(Imm);
    Psrlq = |d, s| map(d, |a: u64| a.checked_shr(count(s)).unwrap_or(0)) =>
        Psrlq_xmm_xmmm128: X, Psrlq_mm_mmm64: M, Psrlq_xmm_imm8: XX.from(Imm), Psrlq_mm_imm8: MM.from(Imm);
    Psraw = |d, s| map(d, |a: i16| a >> count(s).min(i16::BITS - 1)) =>
        Psraw_xmm_xmmm128: X, Psraw_mm_mmm64: M, Psraw_xmm_imm8: XX.from(Imm), Psraw_mm_imm8: MM.from(Imm);
    Psrad = |d, s| map(d, |a: i32| a >> count(s).min(i32::BITS - 1)) =>
        Psrad_xmm_xmmm128: X, Psrad_mm_mmm64: M, Psrad_xmm_imm8: XX.from(Imm), Psrad_mm_imm8: MM.from(Imm);
    Pslldq = |d, s| shift_bytes_left(d, s) => Pslldq_xmm_imm8: XX.from(Imm);
    Psrldq = |d, s| shift_bytes_right(d, s) => Psrldq_xmm_imm8: XX.from(Imm);
    Palignr = |d, s, imm i| align(d, s, i, 16) => Palignr_xmm_xmmm128_imm8: X.imm();
    PalignrMm = |d, s, imm i| align(d, s, i, 8) => Palignr_mm_mmm64_imm8: M.imm();

    // Packing, interleaving, shuffling.
    Packsswb = |d, s| pack(d, s, |x: i16| x.clamp(-128, 127) as i8) => Packsswb_xmm_xmmm128: X;
    PacksswbMm = |d, s| pack(d & LOW64 | s << 64, 0, |x: i16| x.clamp(-128, 127) as i8) =>
        Packsswb_mm_mmm64: M;
    Packssdw = |d, s| pack(d, s, |x: i32| x.clamp(-32768, 32767) as i16) => Packssdw_xmm_xmmm128: X;
    PackssdwMm = |d, s| pack(d & LOW64 | s << 64, 0, |x: i32| x.clamp(-32768, 32767) as i16) =>
        Packssdw_mm_mmm64: M;
    Packuswb = |d, s| pack(d, s, |x: i16| x.clamp(0, 255) as u8) => Packuswb_xmm_xmmm128: X;
    PackuswbMm = |d, s| pack(d & LOW64 | s << 64, 0, |x: i16| x.clamp(0, 255) as u8) => Packuswb_mm_mmm64: M;
    Packusdw = |d, s| pack(d, s, |x: i32| x.clamp(0, 65535) as u16) => Packusdw_xmm_xmmm128: X;
    Punpcklbw = |d, s| interleave::<u8>(d, s, false) => Punpcklbw_xmm_xmmm128: X, Punpcklbw_mm_mmm32: M32;
    Punpcklwd = |d, s| interleave::<u16>(d, s, false) => Punpcklwd_xmm_xmmm128: X, Punpcklwd_mm_mmm32: M32;
    Punpckldq = |d, s| interleave::<u32>(d, s, false) =>
        Punpckldq_xmm_xmmm128: X, Punpckldq_mm_mmm32: M32, Unpcklps_xmm_xmmm128: X;
    Punpcklqdq = |d, s| d & LOW64 | s << 64 =>
        Punpcklqdq_xmm_xmmm128: X, Unpcklpd_xmm_xmmm128: X, Movlhps_xmm_xmm: XX, Movhps_xmm_m64: X64,
        Movhpd_xmm_m64: X64;
    Punpckhbw = |d, s| interleave::<u8>(d, s, true) => Punpckhbw_xmm_xmmm128: X;
    PunpckhbwMm = |d, s| interleave::<u8>(d, s, false) >> 64 => Punpckhbw_mm_mmm64: M;
    Punpckhwd = |d, s| interleave::<u16>(d, s, true) => Punpckhwd_xmm_xmmm128: X;
    PunpckhwdMm = |d, s| interleave::<u16>(d, s, false) >> 64 => Punpckhwd_mm_mmm64: M;
    Punpckhdq = |d, s| interleave::<u32>(d, s, true) => Punpckhdq_xmm_xmmm128: X, Unpckhps_xmm_xmmm128: X;
    PunpckhdqMm = |d, s| interleave::<u32>(d, s, false) >> 64 => Punpckhdq_mm_mmm64: M;
    Punpckhqdq = |d, s| d >> 64 | s & !LOW64 => Punpckhqdq_xmm_xmmm128: X, Unpckhpd_xmm_xmmm128: X;
    Pshufd = |_, s, imm i| shuffle::<u32>(s, |k| field(i, k)) => Pshufd_xmm_xmmm128_imm8: X.imm();
    Pshuflw = |_, s, imm i| shuffle::<u16>(s, |k| if k < 4 { field(i, k) } else { k }) =>
        Pshuflw_xmm_xmmm128_imm8: X.imm(), Pshufw_mm_mmm64_imm8: M.imm();
    Pshufhw = |_, s, imm i| shuffle::<u16>(s, |k| if k < 4 { k } else { 4 + field(i, k) }) =>
        Pshufhw_xmm_xmmm128_imm8: X.imm();
    Shufps = |d, s, imm i| shuffle_pair::<u32>(d, s, |k| field(i, k)) => Shufps_xmm_xmmm128_imm8: X.imm();
    Shufpd = |d, s, imm i| shuffle_pair::<u64>(d, s, |k| usize::from(i >> k & 1)) =>
        Shufpd_xmm_xmmm128_imm8: X.imm();
    Pshufb = |d, s| shuffle_bytes(d, s, 16) => Pshufb_xmm_xmmm128: X;
    PshufbMm = |d, s| shuffle_bytes(d, s, 8) => Pshufb_mm_mmm64: M;
    Pinsrb = |d, s, imm i| insert::<u8>(d, s, i) =>
        Pinsrb_xmm_r32m8_imm8: X8.from(Gpr32).imm(), Pinsrb_xmm_r64m8_imm8: X8.from(Gpr64).imm();
    Pinsrw = |d, s, imm i| insert::<u16>(d, s, i) =>
        Pinsrw_xmm_r32m16_imm8: X16.from(Gpr32).imm(), Pinsrw_xmm_r64m16_imm8: X16.from(Gpr64).imm();
    Pinsrd = |d, s, imm i| insert::<u32>(d, s, i) => Pinsrd_xmm_rm32_imm8: X32.from(Gpr32).imm();
    Pinsrq = |d, s, imm i| insert::<u64>(d, s, i) => Pinsrq_xmm_rm64_imm8: X64.from(Gpr64).imm();
    PinsrwMm = |d, s, imm i| insert::<u16>(d, s, i & 3) =>
        Pinsrw_mm_r32m16_imm8: M16.from(Gpr32).imm(), Pinsrw_mm_r64m16_imm8: M16.from(Gpr64).imm();
    Pextrb = |_, s, imm i| extract::<u8>(s, i) =>
        Pextrb_r32m8_xmm_imm8: X8.to(Gpr32).imm(), Pextrb_r64m8_xmm_imm8: X8.to(Gpr64).imm();
    Pextrw = |_, s, imm i| extract::<u16>(s, i) =>
        Pextrw_r32_xmm_imm8: XX.to(Gpr32).imm(), Pextrw_r64_xmm_imm8: XX.to(Gpr64).imm(),
        Pextrw_r32m16_xmm_imm8: X16.to(Gpr32).imm(), Pextrw_r64m16_xmm_imm8: X16.to(Gpr64).imm();
    Pextrd = |_, s, imm i| extract::<u32>(s, i) =>
        Pextrd_rm32_xmm_imm8: X32.to(Gpr32).imm(), Extractps_rm32_xmm_imm8: X32.to(Gpr32).imm(),
        Extractps_r64m32_xmm_imm8: X32.to(Gpr64).imm();
    Pextrq = |_, s, imm i| extract::<u64>(s, i) => Pextrq_rm64_xmm_imm8: X64.to(Gpr64).imm();
    PextrwMm = |_, s, imm i| extract::<u16>(s, i & 3) =>
        Pextrw_r32_mm_imm8: MM.to(Gpr32).imm(), Pextrw_r64_mm_imm8: MM.to(Gpr64).imm();
    InsertpsMem = |d, s, imm i| insert_single(d, s, i & 0x3f) => ;
    Insertps = |d, s, imm i| insert_single(d, s, i) => Insertps_xmm_xmmm32_imm8: X32.imm();
    Pmovsxbw = |_, s| extend::<i8, i16>(s, i16::from) => Pmovsxbw_xmm_xmmm64: X64;
    Pmovsxbd = |_, s| extend::<i8, i32>(s, i32::from) => Pmovsxbd_xmm_xmmm32: X32;
    Pmovsxbq = |_, s| extend::<i8, i64>(s, i64::from) => Pmovsxbq_xmm_xmmm16: X16;
    Pmovsxwd = |_, s| extend::<i16, i32>(s, i32::from) => Pmovsxwd_xmm_xmmm64: X64;
    Pmovsxwq = |_, s| extend::<i16, i64>(s, i64::from) => Pmovsxwq_xmm_xmmm32: X32;
    Pmovsxdq = |_, s| extend::<i32, i64>(s, i64::from) => Pmovsxdq_xmm_xmmm64: X64;
    Pmovzxbw = |_, s| extend::<u8, u16>(s, u16::from) => Pmovzxbw_xmm_xmmm64: X64;
    Pmovzxbd = |_, s| extend::<u8, u32>(s, u32::from) => Pmovzxbd_xmm_xmmm32: X32;
    Pmovzxbq = |_, s| extend::<u8, u64>(s, u64::from) => Pmovzxbq_xmm_xmmm16: X16;
    Pmovzxwd = |_, s| extend::<u16, u32>(s, u32::from) => Pmovzxwd_xmm_xmmm64: X64;
    Pmovzxwq = |_, s| extend::<u16, u64>(s, u64::from) => Pmovzxwq_xmm_xmmm32: X32;
    Pmovzxdq = |_, s| extend::<u32, u64>(s, u64::from) => Pmovzxdq_xmm_xmmm64: X64;
    Blendps = |d, s, imm i| blend::<u32>(d, s, |k| i >> k & 1 != 0) => Blendps_xmm_xmmm128_imm8: X.imm();
    Blendpd = |d, s, imm i| blend::<u64>(d, s, |k| i >> k & 1 != 0) => Blendpd_xmm_xmmm128_imm8: X.imm();
    Pblendw = |d, s, imm i| blend::<u16>(d, s, |k| i >> k & 1 != 0) => Pblendw_xmm_xmmm128_imm8: X.imm();

    // Cryptography.
    Aesenc = |d, s| crypto::encrypt(d, s) => Aesenc_xmm_xmmm128: X;
    Aesenclast = |d, s| crypto::encrypt_last(d, s) => Aesenclast_xmm_xmmm128: X;
    Aesdec = |d, s| crypto::decrypt(d, s) => Aesdec_xmm_xmmm128: X;
    Aesdeclast = |d, s| crypto::decrypt_last(d, s) => Aesdeclast_xmm_xmmm128: X;
    Aesimc = |_, s| crypto::unmix_columns(s) => Aesimc_xmm_xmmm128: X;
    Aeskeygenassist = |_, s, imm i| crypto::expand_key(s, i) => Aeskeygenassist_xmm_xmmm128_imm8: X.imm();
    Pclmulqdq = |d, s, imm i| crypto::multiply_carryless(d, s, i) => Pclmulqdq_xmm_xmmm128_imm8: X.imm();
    Sha1rnds4 = |d, s, imm i| crypto::sha1_rounds(d, s, i) => Sha1rnds4_xmm_xmmm128_imm8: X.imm();
    Sha1nexte = |d, s| crypto::sha1_next_e(d, s) => Sha1nexte_xmm_xmmm128: X;
    Sha1msg1 = |d, s| crypto::sha1_message1(d, s) => Sha1msg1_xmm_xmmm128: X;
    Sha1msg2 = |d, s| crypto::sha1_message2(d, s) => Sha1msg2_xmm_xmmm128: X;
    Sha256msg1 = |d, s| crypto::sha256_message1(d, s) => Sha256msg1_xmm_xmmm128: X;
    Sha256msg2 = |d, s| crypto::sha256_message2(d, s) => Sha256msg2_xmm_xmmm128: X;

    // Floating-point arithmetic.
    Addps = |d, s, env e| zip(d, s, |a: u32, b| sse::add(a, b, e)) => Addps_xmm_xmmm128: X;
    Addpd = |d, s, env e| zip(d, s, |a: u64, b| sse::add(a, b, e)) => Addpd_xmm_xmmm128: X;
    Addss = |d, s, env e| low(d, s, |a: u32, b| sse::add(a, b, e)) => Addss_xmm_xmmm32: X32;
    Addsd = |d, s, env e| low(d, s, |a: u64, b| sse::add(a, b, e)) => Addsd_xmm_xmmm64: X64;
    Subps = |d, s, env e| zip(d, s, |a: u32, b| sse::sub(a, b, e)) => Subps_xmm_xmmm128: X;
    Subpd = |d, s, env e| zip(d, s, |a: u64, b| sse::sub(a, b, e)) => Subpd_xmm_xmmm128: X;
    Subss = |d, s, env e| low(d, s, |a: u32, b| sse::sub(a, b, e)) => Subss_xmm_xmmm32: X32;
    Subsd = |d, s, env e| low(d, s, |a: u64, b| sse::sub(a, b, e)) => Subsd_xmm_xmmm64: X64;
    Mulps = |d, s, env e| zip(d, s, |a: u32, b| sse::mul(a, b, e)) => Mulps_xmm_xmmm128: X;
    Mulpd = |d, s, env e| zip(d, s, |a: u64, b| sse::mul(a, b, e)) => Mulpd_xmm_xmmm128: X;
    Mulss = |d, s, env e| low(d, s, |a: u32, b| sse::mul(a, b, e)) => Mulss_xmm_xmmm32: X32;
    Mulsd = |d, s, env e| low(d, s, |a: u64, b| sse::mul(a, b, e)) => Mulsd_xmm_xmmm64: X64;
    Divps = |d, s, env e| zip(d, s, |a: u32, b| sse::div(a, b, e)) => Divps_xmm_xmmm128: X;
    Divpd = |d, s, env e| zip(d, s, |a: u64, b| sse::div(a, b, e)) => Divpd_xmm_xmmm128: X;
    Divss = |d, s, env e| low(d, s, |a: u32, b| sse::div(a, b, e)) => Divss_xmm_xmmm32: X32;
    Divsd = |d, s, env e| low(d, s, |a: u64, b| sse::div(a, b, e)) => Divsd_xmm_xmmm64: X64;
    Minps = |d, s, env e| zip(d, s, |a: u32, b| sse::min(a, b, e)) => Minps_xmm_xmmm128: X;
    Minpd = |d, s, env e| zip(d, s, |a: u64, b| sse::min(a, b, e)) => Minpd_xmm_xmmm128: X;
    Minss = |d, s, env e| low(d, s, |a: u32, b| sse::min(a, b, e)) => Minss_xmm_xmmm32: X32;
    Minsd = |d, s, env e| low(d, s, |a: u64, b| sse::min(a, b, e)) => Minsd_xmm_xmmm64: X64;
    Maxps = |d, s, env e| zip(d, s, |a: u32, b| sse::max(a, b, e)) => Maxps_xmm_xmmm128: X;
    Maxpd = |d, s, env e| zip(d, s, |a: u64, b| sse::max(a, b, e)) => Maxpd_xmm_xmmm128: X;
    Maxss = |d, s, env e| low(d, s, |a: u32, b| sse::max(a, b, e)) => Maxss_xmm_xmmm32: X32;
    Maxsd = |d, s, env e| low(d, s, |a: u64, b| sse::max(a, b, e)) => Maxsd_xmm_xmmm64: X64;
    Sqrtps = |_, s, env e| map(s, |a: u32| sse::sqrt(a, e)) => Sqrtps_xmm_xmmm128: X;
    Sqrtpd = |_, s, env e| map(s, |a: u64| sse::sqrt(a, e)) => Sqrtpd_xmm_xmmm128: X;
    Sqrtss = |d, s, env e| low(d, s, |_, a: u32| sse::sqrt(a, e)) => Sqrtss_xmm_xmmm32: X32;
    Sqrtsd = |d, s, env e| low(d, s, |_, a: u64| sse::sqrt(a, e)) => Sqrtsd_xmm_xmmm64: X64;
    Rcpps = |_, s| map(s, approx::reciprocal) => Rcpps_xmm_xmmm128: X;
    Rcpss = |d, s| low(d, s, |_, a| approx::reciprocal(a)) => Rcpss_xmm_xmmm32: X32;
    Rsqrtps = |_, s| map(s, approx::reciprocal_root) => Rsqrtps_xmm_xmmm128: X;
    Rsqrtss = |d, s| low(d, s, |_, a| approx::reciprocal_root(a)) => Rsqrtss_xmm_xmmm32: X32;
    Addsubps = |d, s, env e| add_sub::<u32>(d, s, e) => Addsubps_xmm_xmmm128: X;
    Addsubpd = |d, s, env e| add_sub::<u64>(d, s, e) => Addsubpd_xmm_xmmm128: X;
    Haddps = |d, s, env e| horizontal(d, s, |a: u32, b| sse::add(a, b, e)) => Haddps_xmm_xmmm128: X;
    Haddpd = |d, s, env e| horizontal(d, s, |a: u64, b| sse::add(a, b, e)) => Haddpd_xmm_xmmm128: X;
    Hsubps = |d, s, env e| horizontal(d, s, |a: u32, b| sse::sub(a, b, e)) => Hsubps_xmm_xmmm128: X;
    Hsubpd = |d, s, env e| horizontal(d, s, |a: u64, b| sse::sub(a, b, e)) => Hsubpd_xmm_xmmm128: X;
    Dpps = |d, s, imm i, env e| dot_product_single(d, s, i, e) => Dpps_xmm_xmmm128_imm8: X.imm();
    Dppd = |d, s, imm i, env e| dot_product_double(d, s, i, e) => Dppd_xmm_xmmm128_imm8: X.imm();

    // Floating-point comparison.
    Cmpps = |d, s, imm i, env e| zip(d, s, |a: u32, b| mask(sse::relation(a, b, i, e))) =>
        Cmpps_xmm_xmmm128_imm8: X.imm();
    Cmppd = |d, s, imm i, env e| zip(d, s, |a: u64, b| mask(sse::relation(a, b, i, e))) =>
        Cmppd_xmm_xmmm128_imm8: X.imm();
    Cmpss = |d, s, imm i, env e| low(d, s, |a: u32, b| mask(sse::relation(a, b, i, e))) =>
        Cmpss_xmm_xmmm32_imm8: X32.imm();
    Cmpsd = |d, s, imm i, env e| low(d, s, |a: u64, b| mask(sse::relation(a, b, i, e))) =>
        Cmpsd_xmm_xmmm64_imm8: X64.imm();
    Comiss = |d, s, env e| sse::compare_flags(d as u32, s as u32, true, e).into() =>
        Comiss_xmm_xmmm32: X32.to(Flags);
    Ucomiss = |d, s, env e| sse::compare_flags(d as u32, s as u32, false, e).into() =>
        Ucomiss_xmm_xmmm32: X32.to(Flags);
    Comisd = |d, s, env e| sse::compare_flags(d as u64, s as u64, true, e).into() =>
        Comisd_xmm_xmmm64: X64.to(Flags);
    Ucomisd = |d, s, env e| sse::compare_flags(d as u64, s as u64, false, e).into() =>
        Ucomisd_xmm_xmmm64: X64.to(Flags);

    // Conversion.
    Cvtss2sd = |d, s, env e| d & !LOW64 | u128::from(convert::widen(s as u32, e)) => Cvtss2sd_xmm_xmmm32: X32;
    Cvtsd2ss = |d, s, env e| d & !LOW32 | u128::from(convert::narrow(s as u64, e)) =>
        Cvtsd2ss_xmm_xmmm64: X64;
    Cvtps2pd = |_, s, env e| extend(s, |a: u32| convert::widen(a, e)) => Cvtps2pd_xmm_xmmm64: X64;
    Cvtpd2ps = |_, s, env e| shrink(s, |a: u64| convert::narrow(a, e)) => Cvtpd2ps_xmm_xmmm128: X;
    Cvtsi322ss = |d, s, env e| d & !LOW32 | u128::from(convert::from_int32((s as i32).into(), e)) =>
        Cvtsi2ss_xmm_rm32: X32.from(Gpr32);
    Cvtsi642ss = |d, s, env e| d & !LOW32 | u128::from(convert::from_int32(s as i64, e)) =>
        Cvtsi2ss_xmm_rm64: X64.from(Gpr64);
    Cvtsi322sd = |d, s, env e| d & !LOW64 | u128::from(convert::from_int64((s as i32).into(), e)) =>
        Cvtsi2sd_xmm_rm32: X32.from(Gpr32);
    Cvtsi642sd = |d, s, env e| d & !LOW64 | u128::from(convert::from_int64(s as i64, e)) =>
        Cvtsi2sd_xmm_rm64: X64.from(Gpr64);
    Cvtpi2ps = |d, s, env e| d & !LOW64 | map(s & LOW64, |a: i32| convert::from_int32(a.into(), e) as i32) =>
        Cvtpi2ps_xmm_mmm64: X64.from(Mm);
    Cvtdq2ps = |_, s, env e| map(s, |a: i32| convert::from_int32(a.into(), e) as i32) =>
        Cvtdq2ps_xmm_xmmm128: X;
    Cvtdq2pd = |_, s, env e| extend(s, |a: i32| convert::from_int64(a.into(), e)) =>
        Cvtdq2pd_xmm_xmmm64: X64, Cvtpi2pd_xmm_mmm64: X64.from(Mm);
    Cvtss2si32 = |_, s, env e| convert::to_int(s as u32, 32, e).into() => Cvtss2si_r32_xmmm32: X32.to(Gpr32);
    Cvtss2si64 = |_, s, env e| convert::to_int(s as u32, 64, e).into() => Cvtss2si_r64_xmmm32: X32.to(Gpr64);
    Cvtsd2si32 = |_, s, env e| convert::to_int(s as u64, 32, e).into() => Cvtsd2si_r32_xmmm64: X64.to(Gpr32);
    Cvtsd2si64 = |_, s, env e| convert::to_int(s as u64, 64, e).into() => Cvtsd2si_r64_xmmm64: X64.to(Gpr64);
    Cvtps2dq = |_, s, env e| map(s, |a: u32| convert::to_int(a, 32, e) as u32) => Cvtps2dq_xmm_xmmm128: X;
    Cvtps2pi = |_, s, env e| map(s & LOW64, |a: u32| convert::to_int(a, 32, e) as u32) =>
        Cvtps2pi_mm_xmmm64: X64.to(Mm);
    Cvtpd2dq = |_, s, env e| shrink(s, |a: u64| convert::to_int(a, 32, e) as u32) =>
        Cvtpd2dq_xmm_xmmm128: X, Cvtpd2pi_mm_xmmm128: X.to(Mm);
    Cvttss2si32 = |_, s, env e| convert::truncate(s as u32, 32, e).into() =>
        Cvttss2si_r32_xmmm32: X32.to(Gpr32);
    Cvttss2si64 = |_, s, env e| convert::truncate(s as u32, 64, e).into() =>
        Cvttss2si_r64_xmmm32: X32.to(Gpr64);
    Cvttsd2si32 = |_, s, env e| convert::truncate(s as u64, 32, e).into() =>
        Cvttsd2si_r32_xmmm64: X64.to(Gpr32);
    Cvttsd2si64 = |_, s, env e| convert::truncate(s as u64, 64, e).into() =>
        Cvttsd2si_r64_xmmm64: X64.to(Gpr64);
    Cvttps2dq = |_, s, env e| map(s, |a: u32| convert::truncate(a, 32, e) as u32) => Cvttps2dq_xmm_xmmm128: X;
    Cvttps2pi = |_, s, env e| map(s & LOW64, |a: u32| convert::truncate(a, 32, e) as u32) =>
        Cvttps2pi_mm_xmmm64: X64.to(Mm);
    Cvttpd2dq = |_, s, env e| shrink(s, |a: u64| convert::truncate(a, 32, e) as u32) =>
        Cvttpd2dq_xmm_xmmm128: X, Cvttpd2pi_mm_xmmm128: X.to(Mm);
    Roundps = |_, s, imm i, env e| map(s, |a: u32| rounded(a, i, e)) => Roundps_xmm_xmmm128_imm8: X.imm();
    Roundpd = |_, s, imm i, env e| map(s, |a: u64| rounded(a, i, e)) => Roundpd_xmm_xmmm128_imm8: X.imm();
    Roundss = |d, s, imm i, env e| low(d, s, |_, a: u32| rounded(a, i, e)) =>
        Roundss_xmm_xmmm32_imm8: X32.imm();
    Roundsd = |d, s, imm i, env e| low(d, s, |_, a: u64| rounded(a, i, e)) =>
        Roundsd_xmm_xmmm64_imm8: X64.imm();
}
