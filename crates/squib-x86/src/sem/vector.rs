//! MMX and SSE: how operands reach the operations of [`simd`](crate::simd), and where results go.

use crate::emit::{Bin, Emit};
use crate::flags::FlagOp;
use crate::insn::Operand;
use crate::simd::{Place, VecInsn, VecOp};
use crate::size::Size;

const fn gpr_size(place: Place) -> Size {
    if matches!(place, Place::Gpr64) { Size::B8 } else { Size::B4 }
}

/// A vector instruction with its operands in Intel order. MASKMOVQ and MASKMOVDQU are helpers.
#[inline(always)]
pub fn vector<E: Emit + ?Sized>(
    e: &mut E,
    v: &VecInsn,
    dst: Operand<E::Mem>,
    src: Operand<E::Mem>,
    imm: u8,
) -> Result<(), E::Stop> {
    let form = v.form;
    e.check_vector(form.mmx)?;
    let zero = e.imm(0);
    let b = match src {
        Operand::Xmm(r) => e.get_x(r),
        Operand::Mm(r) => e.get_mm(r),
        Operand::Reg(r) => {
            let v = e.get(gpr_size(form.src), r);
            e.v_to_x(v)
        }
        Operand::Mem(m) => e.load_x(form.mem, form.aligned, m)?,
        Operand::Imm(n) => {
            let n = e.imm(n & 0xff);
            e.v_to_x(n)
        }
        _ => e.v_to_x(zero),
    };
    let a = match dst {
        Operand::Xmm(r) => e.get_x(r),
        Operand::Mm(r) => e.get_mm(r),
        _ => e.v_to_x(zero),
    };
    // Without an MMX register among its operands, CVTPI2PS from memory leaves the x87 unit alone.
    let mmx = matches!(dst, Operand::Mm(_)) || matches!(src, Operand::Mm(_));
    let stores = matches!(dst, Operand::Mem(_));
    if mmx && !stores {
        // Even where a numeric exception keeps the result away.
        e.enter_mmx();
    }
    let res = e.vec(v.op, a, b, imm)?;
    match dst {
        Operand::Mem(m) => e.store_x(form.mem, form.aligned, m, res)?,
        Operand::Xmm(_) if form.dst == Place::Flags => {
            let bits = e.x_to_v(res);
            e.flags(FlagOp::Fixed, Size::B8, bits, bits);
        }
        Operand::Xmm(r) => e.set_x(r, res),
        Operand::Reg(r) => {
            let v = e.x_to_v(res);
            let v = e.bin(Bin::Or, gpr_size(form.dst), v, zero);
            e.set(gpr_size(form.dst), r, v);
        }
        _ => {}
    }
    if mmx && stores {
        e.enter_mmx();
    }
    if let Operand::Mm(r) = dst {
        e.set_mm(r, res);
    }
    Ok(())
}

/// PBLENDVB, BLENDVPS, BLENDVPD: elements of `src` where XMM0's are negative; `greater` compares such elements.
pub fn blend_by_sign<E: Emit + ?Sized>(
    e: &mut E,
    greater: VecOp,
    dst: u8,
    src: Operand<E::Mem>,
) -> Result<(), E::Stop> {
    e.check_vector(false)?;
    let b = match src {
        Operand::Mem(m) => e.load_x(16, true, m)?,
        Operand::Xmm(r) => e.get_x(r),
        _ => e.get_x(dst),
    };
    let (a, signs, zero) = (e.get_x(dst), e.get_x(0), e.imm(0));
    let zero = e.v_to_x(zero);
    let negative = e.vec(greater, zero, signs, 0)?;
    let taken = e.vec(VecOp::Pand, negative, b, 0)?;
    let kept = e.vec(VecOp::Pandn, negative, a, 0)?;
    let res = e.vec(VecOp::Por, taken, kept, 0)?;
    e.set_x(dst, res);
    Ok(())
}
