//! Privileged instructions that only check and tell: HLT, the cache instructions, RDPMC.

use crate::env::{Env, Leave};
use crate::fault::{Exception, Stop};

/// Checks for ring 0.
///
/// # Errors
/// #GP(0).
pub(super) fn check<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    if env.state_ref().cpl == 0 { Ok(()) } else { Err(Exception::GP0.into()) }
}

/// HLT.
///
/// # Errors
/// #GP(0) above ring 0.
pub fn hlt<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    check(env)?;
    env.leave(Leave::Halt);
    Ok(())
}

/// INVD, WBINVD: there is no cache to empty.
///
/// # Errors
/// #GP(0) above ring 0.
pub fn invalidate_caches<E: Env + ?Sized>(env: &E) -> Result<(), Stop> {
    check(env)
}

/// RDPMC: CPUID offers no counter, so every index is wrong.
///
/// # Errors
/// #GP(0) always.
pub fn rdpmc() -> Result<(), Stop> {
    Err(Exception::GP0.into())
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::*;

    #[test]
    fn ring_3_may_not() {
        let mut m = Mock::long().user();
        assert_eq!(hlt(&mut m), Err(Exception::GP0.into()));
        assert_eq!(invalidate_caches(&m), Err(Exception::GP0.into()));
        assert!(m.left.is_empty());
        hlt(&mut Mock::long()).unwrap();
    }
}
