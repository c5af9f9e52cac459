//! The time-stamp counter (Intel SDM vol. 3, 17.17).

use super::bits::CR4_TSD;
use crate::env::Env;
use crate::fault::{Exception, Stop};
use crate::model::Feature;

/// The counter as the guest sees it.
pub fn now<E: Env + ?Sized>(env: &mut E) -> u64 {
    env.host_tsc().wrapping_add(env.state_ref().msr.tsc_offset)
}

/// RDTSC: the counter goes to EDX:EAX.
///
/// # Errors
/// #GP(0) above ring 0 where CR4.TSD is set.
pub fn rdtsc<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    let state = env.state_ref();
    if state.cpl != 0 && state.cr4 & CR4_TSD != 0 {
        return Err(Exception::GP0.into());
    }
    let value = now(env);
    let r = &mut env.state().r;
    (r[0], r[2]) = (value & 0xffff_ffff, value >> 32);
    Ok(())
}

/// RDTSCP: the same, and IA32_TSC_AUX goes to ECX.
///
/// # Errors
/// As [`rdtsc`]; #UD where the model does not offer it.
pub fn rdtscp<E: Env + ?Sized>(env: &mut E) -> Result<(), Stop> {
    if !env.model().has(Feature::RDTSCP) {
        return Err(Exception::UD.into());
    }
    rdtsc(env)?;
    let state = env.state();
    state.r[1] = state.msr.tsc_aux;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mock::Mock;
    use super::*;
    use crate::model::CpuModel;

    #[test]
    fn the_counter_has_an_offset_and_a_lock() {
        let mut m = Mock::long().user();
        m.tsc = 5;
        m.state.msr.tsc_offset = (7 << 32) - 10;
        m.state.msr.tsc_aux = 3;
        rdtscp(&mut m).unwrap();
        assert_eq!((m.state.r[0], m.state.r[2], m.state.r[1]), (0xffff_fffb, 6, 3));
        m.state.cr4 |= CR4_TSD;
        assert_eq!(m.attempt(rdtsc), Err(Exception::GP0.into()));
        m.state.cpl = 0;
        rdtsc(&mut m).unwrap();
        m.model = CpuModel::v1();
        assert_eq!(m.attempt(rdtscp), Err(Exception::UD.into()));
    }
}
