//! Decimal arithmetic in AX, and BOUND and SALC: what 64-bit mode no longer has (Intel SDM vol. 1, 7.3.3 "Decimal
//! Arithmetic Instructions"; vol. 2).

use iced_x86::Mnemonic as M;
use squib_core::x86::bits::*;

use crate::env::{Env, Rights};
use crate::fault::{Exception, Stop};
use crate::flags::{FlagOp, LazyFlags};
use crate::helper::linear_part;
use crate::insn::{Insn, Operand};
use crate::size::Size;

const RAX: usize = 0;

/// DAA, DAS, AAA, AAS, AAM, AAD and SALC.
///
/// # Errors
/// #DE of AAM by zero; #UD for any other instruction.
pub fn decimal<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let base = if let Operand::Imm(n) = i.ops[0] { n as u8 } else { 10 };
    let state = env.state();
    let [al, ah] = (state.r[RAX] as u16).to_le_bytes();
    let ax = u16::from_le_bytes([al, ah]);
    let flags = state.lazy.bits();
    let (carry, adjust) = (flags & RFLAGS_CF != 0, flags & RFLAGS_AF != 0);
    let (ax, set) = match i.mnemonic {
        M::Daa | M::Das => {
            let (al, set) = adjust_packed(al, carry, adjust, i.mnemonic == M::Das);
            (u16::from_le_bytes([al, ah]), set)
        }
        M::Aaa => adjust_unpacked(ax, adjust, ax.wrapping_add(0x106)),
        M::Aas => adjust_unpacked(ax, adjust, ax.wrapping_sub(0x106)),
        M::Aam if base == 0 => return Err(Exception::DE.into()),
        M::Aam => (u16::from_le_bytes([al % base, al / base]), 0),
        M::Aad => (al.wrapping_add(ah.wrapping_mul(base)).into(), 0),
        M::Salc => {
            state.r[RAX] = state.r[RAX] & !0xff | if carry { 0xff } else { 0 };
            return Ok(());
        }
        _ => return Err(Exception::UD.into()),
    };
    state.r[RAX] = state.r[RAX] & !0xffff | u64::from(ax);
    // SF, ZF and PF follow AL, as on processors where the manual leaves them undefined.
    state.lazy = LazyFlags { res: u64::from(ax & 0xff), b: set, op: FlagOp::Mixed, size: Size::B1 };
    Ok(())
}

/// DAA and DAS: AL after an addition or subtraction of packed digits, and CF and AF.
fn adjust_packed(al: u8, carry: bool, adjust: bool, subtract: bool) -> (u8, u64) {
    let step = if subtract { u8::wrapping_sub } else { u8::wrapping_add };
    let low = al & 15 > 9 || adjust;
    let high = al > 0x99 || carry;
    let borrow = subtract && low && al < 6;
    let once = if low { step(al, 6) } else { al };
    let twice = if high { step(once, 0x60) } else { once };
    (twice, if low { RFLAGS_AF } else { 0 } | if high || borrow { RFLAGS_CF } else { 0 })
}

/// AAA and AAS: a digit after an addition or subtraction, and CF and AF.
fn adjust_unpacked(ax: u16, adjust: bool, adjusted: u16) -> (u16, u64) {
    let wanted = ax & 15 > 9 || adjust;
    let set = if wanted { RFLAGS_AF | RFLAGS_CF } else { 0 };
    (if wanted { adjusted } else { ax } & 0xff0f, set)
}

/// BOUND.
///
/// # Errors
/// #BR for a signed index outside of the two bounds in memory, and what reading them raises.
pub fn bound<E: Env + ?Sized>(env: &mut E, i: &Insn) -> Result<(), Stop> {
    let (Operand::Reg(index), Operand::Mem(m)) = (i.ops[0], i.ops[1]) else {
        return Err(Exception::UD.into());
    };
    let signed = |v: u64| i.size.sext(v) as i64;
    let index = signed(env.state_ref().r[usize::from(index & 15)]);
    let mut bound = |at: u64| {
        let addr = linear_part(env, &m, at, i.size.bytes(), false)?;
        env.read(addr, i.size, Rights::Current).map(signed)
    };
    // The upper bound is not read where the lower one decides.
    let inside = bound(0)? <= index && index <= bound(i.size.bytes())?;
    if inside { Ok(()) } else { Err(Exception::BR.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodeMode;
    use crate::insn::decode;
    use crate::system::mock::Mock;

    /// AX and the flags CF, AF and ZF after the instruction.
    fn run(bytes: &[u8], ax: u64, flags: u64) -> Result<(u64, u64), Stop> {
        let mut m = Mock::protected();
        m.state.r[0] = ax;
        m.state.lazy = LazyFlags::fixed(flags);
        let i = decode(bytes, 0x1000, CodeMode::Bits32).unwrap();
        decimal(&mut m, &i)?;
        Ok((m.state.r[0], m.state.lazy.bits() & (RFLAGS_CF | RFLAGS_AF | RFLAGS_ZF)))
    }

    const CF: u64 = RFLAGS_CF;
    const AF: u64 = RFLAGS_AF;

    #[test]
    fn packed_digits() {
        // The examples of the manual: 79 + 35 and 35 - 47.
        assert_eq!(run(&[0x27], 0x12ae, 0), Ok((0x1214, CF | AF)));
        assert_eq!(run(&[0x2f], 0x12ee, CF | AF), Ok((0x1288, CF | AF)));
        assert_eq!(run(&[0x27], 0x99, 0), Ok((0x99, 0)));
        assert_eq!(run(&[0x27], 0x9a, 0), Ok((0x00, CF | AF | RFLAGS_ZF)));
        assert_eq!(run(&[0x2f], 0x03, AF), Ok((0xfd, CF | AF)));
    }

    #[test]
    fn single_digits() {
        assert_eq!(run(&[0x37], 0x0_00fb, 0), Ok((0x0201, CF | AF)));
        assert_eq!(run(&[0x37], 0x1_0509, 0), Ok((0x1_0509, 0)));
        assert_eq!(run(&[0x3f], 0x0202, AF), Ok((0x000c, CF | AF)));
        assert_eq!(run(&[0x3f], 0x010f, 0), Ok((0x0009, CF | AF)));
        assert_eq!(run(&[0xd4, 10], 0xff4f, CF), Ok((0x0709, 0)));
        assert_eq!(run(&[0xd5, 10], 0x0709, CF), Ok((0x004f, 0)));
        assert_eq!(run(&[0xd4, 0], 1, 0), Err(Exception::DE.into()));
        assert_eq!(run(&[0xd6], 0x1234, CF), Ok((0x12ff, CF)));
    }

    #[test]
    fn bounds() {
        let mut m = Mock::protected();
        m.ram.put(0x5000, 4, 0xffff_fffe);
        m.ram.put(0x5004, 4, 7);
        // bound eax, [ebx]
        let i = decode(&[0x62, 0x03], 0x1000, CodeMode::Bits32).unwrap();
        m.state.r[3] = 0x5000;
        for (index, result) in [(0xffff_fffe, Ok(())), (7, Ok(())), (8, Err(Exception::BR.into()))] {
            m.state.r[0] = index;
            assert_eq!(bound(&mut m, &i), result, "{index:#x}");
        }
    }
}
