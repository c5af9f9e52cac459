//! INVLPG and INVPCID (Intel SDM vol. 2; vol. 3, 4.10.4).

use super::bits::CR4_PCIDE;
use super::{is_canonical, privileged};
use crate::env::{Env, Flush, Rights};
use crate::fault::{Exception, Stop};
use crate::model::Feature;
use crate::size::Size;

/// INVLPG of linear address `addr`, which need not be canonical.
///
/// # Errors
/// #GP(0) above ring 0.
pub fn invlpg<E: Env + ?Sized>(env: &mut E, addr: u64) -> Result<(), Stop> {
    privileged::check(env)?;
    if is_canonical(addr) {
        env.flush(Flush::Page(addr));
    }
    Ok(())
}

/// INVPCID with `kind` from the register and its 16-byte descriptor at linear address `addr`. Translations are kept
/// for the current process-context identifier only, so those of another are gone already.
///
/// # Errors
/// #UD where the model does not offer it; #GP(0) above ring 0, for an unknown kind, a reserved bit, an address that is not
/// canonical, an identifier while CR4.PCIDE is clear; #PF.
pub fn invpcid<E: Env + ?Sized>(env: &mut E, kind: u64, addr: u64) -> Result<(), Stop> {
    if !env.model().has(Feature::INVPCID) {
        return Err(Exception::UD.into());
    }
    privileged::check(env)?;
    let pcid = env.read(addr, Size::B8, Rights::Current)?;
    let linear = env.read(addr.wrapping_add(8), Size::B8, Rights::Current)?;
    let pcide = env.state_ref().cr4 & CR4_PCIDE != 0;
    let valid = pcid >> 12 == 0
        && match kind {
            0 => is_canonical(linear) && (pcide || pcid == 0),
            1 => pcide || pcid == 0,
            2 | 3 => true,
            _ => false,
        };
    if !valid {
        return Err(Exception::GP0.into());
    }
    env.flush(match kind {
        0 => Flush::Page(linear),
        2 => Flush::All,
        _ => Flush::NonGlobal,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::*;

    #[test]
    fn pages_are_invalidated_by_the_supervisor() {
        let mut m = Mock::long();
        invlpg(&mut m, 0x1234).unwrap();
        invlpg(&mut m, 1 << 47).unwrap();
        assert_eq!(m.flushed, [Flush::Page(0x1234)]);
        assert_eq!(invlpg(&mut Mock::long().user(), 0), Err(Exception::GP0.into()));
    }

    #[test]
    fn invpcid_checks_its_descriptor() {
        let run = |kind, pcid: u64, linear: u64| {
            let mut m = Mock::long();
            m.ram.put(0x5000, 8, pcid);
            m.ram.put(0x5008, 8, linear);
            invpcid(&mut m, kind, 0x5000).map(|()| m.flushed[0])
        };
        let gp = Err(Exception::GP0.into());
        assert_eq!(run(0, 0, 0x7000), Ok(Flush::Page(0x7000)));
        assert_eq!(run(0, 0, 1 << 47), gp);
        assert_eq!(run(0, 5, 0), gp, "PCIDs are off");
        assert_eq!(run(1, 0, 1 << 47), Ok(Flush::NonGlobal));
        assert_eq!(run(2, 5, 0), Ok(Flush::All));
        assert_eq!(run(2, 1 << 12, 0), gp);
        assert_eq!(run(3, 0, 0), Ok(Flush::NonGlobal));
        assert_eq!(run(4, 0, 0), gp);
    }
}
