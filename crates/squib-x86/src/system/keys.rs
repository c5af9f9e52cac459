//! The register of protection-key rights, PKRU (Intel SDM vol. 3, 4.6.2).

use super::bits::CR4_PKE;
use crate::env::{Env, Flush};
use crate::fault::{Exception, Stop};

/// The checks of both instructions: ECX, and what EDX must be, is reserved.
fn check<E: Env + ?Sized>(env: &E, reserved: u64) -> Result<(), Stop> {
    if env.state_ref().cr4 & CR4_PKE == 0 {
        return Err(Exception::UD.into());
    }
    if reserved as u32 != 0 { Err(Exception::GP0.into()) } else { Ok(()) }
}

/// RDPKRU: EAX gets PKRU, EDX zero.
///
/// # Errors
/// #UD where CR4.PKE is clear, #GP(0) where ECX is not zero.
pub fn rdpkru<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    check(env, env.state_ref().r[1])?;
    let state = env.state();
    (state.r[0], state.r[2]) = (state.pkru.into(), 0);
    Ok(())
}

/// WRPKRU: PKRU gets EAX.
///
/// # Errors
/// #UD where CR4.PKE is clear, #GP(0) where ECX or EDX is not zero.
pub fn wrpkru<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    let r = &env.state_ref().r;
    check(env, r[1] | r[2])?;
    let value = r[0] as u32;
    set(env, value);
    Ok(())
}

/// Changes PKRU. What addresses may be used for depends on it.
pub(super) fn set<E: Env + ?Sized>(env: &mut E, value: u32) {
    if env.state_ref().pkru != value {
        env.state().pkru = value;
        env.flush(Flush::All);
        env.mode_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::mock::Mock;

    #[test]
    fn rights_come_back() {
        let mut m = Mock::long().user();
        m.state.cr4 |= CR4_PKE;
        (m.state.r[0], m.state.r[1], m.state.r[2]) = (0xffff_ffff_5555_0004, 1 << 32, 1 << 32);
        wrpkru(&mut m).unwrap();
        m.state.r[0] = 0;
        rdpkru(&mut m).unwrap();
        assert_eq!((m.state.r[0], m.state.r[2]), (0x5555_0004, 0));
    }

    #[test]
    fn reserved_registers_and_disabled_keys_fault() {
        let mut m = Mock::long();
        (m.state.r[0], m.state.r[1], m.state.r[2]) = (0, 0, 0);
        assert_eq!(m.attempt(rdpkru), Err(Exception::UD.into()));
        assert_eq!(m.attempt(wrpkru), Err(Exception::UD.into()));
        m.state.cr4 |= CR4_PKE;
        m.state.r[2] = 1;
        assert_eq!(m.attempt(wrpkru), Err(Exception::GP0.into()));
        assert_eq!(m.attempt(rdpkru), Ok(()));
        m.state.r[1] = 1;
        assert_eq!(m.attempt(rdpkru), Err(Exception::GP0.into()));
    }
}
