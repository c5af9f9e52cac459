//! Who may use an I/O port (Intel SDM vol. 1, 19.5).

use super::descriptor::kind;
use crate::env::{Env, Rights};
use crate::fault::{Exception, Stop};
use crate::size::Size;

/// Offset of the I/O map base address in a 32- or 64-bit task state.
const MAP_BASE: u32 = 102;

/// Checks IN, OUT, INS or OUTS of `size` at `port`: by IOPL, and else by the task state's I/O permission bit map.
///
/// # Errors
/// #GP(0) where the port is not allowed, #PF from the task state.
#[inline]
pub fn check<E: Env + ?Sized>(env: &mut E, port: u16, size: Size) -> Result<(), Stop> {
    let state = env.state_ref();
    if state.protected() && (state.cpl > state.iopl() || state.v86()) {
        by_map(env, port, size)
    } else {
        Ok(())
    }
}

#[cold]
fn by_map<E: Env + ?Sized>(env: &mut E, port: u16, size: Size) -> Result<(), Stop> {
    let tr = env.state_ref().tr;
    let mut read = |offset: u32| {
        if offset + 1 > tr.limit || tr.kind() | 2 != kind::TSS_BUSY {
            return Err(Exception::GP0.into());
        }
        env.read(tr.base.wrapping_add(offset.into()), Size::B2, Rights::System)
    };
    let map = read(MAP_BASE)? as u32;
    // Two bytes are read always, as the ports of one access may lie in both.
    let bits = read(map + u32::from(port / 8))? >> (port % 8);
    let mask = (1 << size.bytes()) - 1;
    if bits & mask == 0 { Ok(()) } else { Err(Exception::GP0.into()) }
}

#[cfg(test)]
mod tests {
    use super::super::mock::{Mock, TSS};
    use super::*;
    use squib_core::x86::bits::RFLAGS_IOPL;

    #[test]
    fn iopl_and_the_bit_map_decide() {
        let gp = Err(Exception::GP0.into());
        assert_eq!(check(&mut Mock::long(), 0x3f8, Size::B1), Ok(()));
        let mut m = Mock::long().user();
        assert_eq!(check(&mut m, 0x3f8, Size::B1), gp, "no map within the limit");
        m.state.tr.limit = 0x68 + 0x80;
        m.ram.put(TSS + 102, 2, 0x68);
        m.ram.put(TSS + 0x68 + 0x7f, 2, 0xfffe);
        assert_eq!(check(&mut m, 0x3f8, Size::B1), Ok(()));
        assert_eq!(check(&mut m, 0x3f8, Size::B2), gp);
        assert_eq!(check(&mut m, 0x3f0, Size::B4), Ok(()));
        assert_eq!(check(&mut m, 0x3f5, Size::B4), Ok(()), "port 0x3f8 is open, and the last of the four");
        assert_eq!(check(&mut m, 0x3f6, Size::B4), gp, "port 0x3f9 is not");
        m.state.tr.limit -= 1;
        assert_eq!(check(&mut m, 0x3f8, Size::B1), gp, "the second byte counts");
        m.state.sys_flags |= RFLAGS_IOPL;
        assert_eq!(check(&mut m, 0x3f8, Size::B4), Ok(()));
    }

    #[test]
    fn a_16_bit_task_state_has_no_map() {
        let mut m = Mock::protected().user();
        m.state.tr.attr = 0x83;
        m.state.tr.limit = 0xffff;
        assert_eq!(check(&mut m, 0, Size::B1), Err(Exception::GP0.into()));
    }
}
