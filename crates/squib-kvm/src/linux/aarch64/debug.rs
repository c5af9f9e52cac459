//! Stops for a debugger (KVM API, 4.87 `KVM_SET_GUEST_DEBUG`).

use kvm_bindings::*;
use squib_core::{DebugStops, Error, ErrorCode, Result};

use crate::linux::errors::refused;
use crate::linux::vcpu::KvmVcpu;

/// DBGBCR<n>_EL1 of a breakpoint that is on, in EL0 and EL1, for the four bytes of an instruction (Arm ARM, D24.3.2).
const BREAKPOINT: u64 = 1 << 0 | 0b11 << 1 | 0xf << 5;

impl KvmVcpu {
    pub(in crate::linux) fn stop_for_debugger(&mut self, stops: &DebugStops) -> Result<()> {
        let (wanted, there) = (stops.breakpoints.iter().flatten().count(), self.vm.host.breakpoints);
        if wanted > there {
            let message = format!("this processor has {there} breakpoints, not {wanted}: take some away");
            return Err(Error::new(ErrorCode::Unsupported, message));
        }
        let mut debug = kvm_guest_debug::default();
        for (n, address) in stops.breakpoints.iter().flatten().enumerate() {
            debug.arch.dbg_bvr[n] = *address;
            debug.arch.dbg_bcr[n] = BREAKPOINT;
        }
        for (wanted, flag) in [
            (stops.step, KVM_GUESTDBG_SINGLESTEP),
            (stops.instructions, KVM_GUESTDBG_USE_SW_BP),
            (stops.breakpoints.iter().any(Option::is_some), KVM_GUESTDBG_USE_HW),
        ] {
            if wanted {
                debug.control |= flag | KVM_GUESTDBG_ENABLE;
            }
        }
        self.fd.set_guest_debug(&debug).map_err(|e| refused("KVM_SET_GUEST_DEBUG", e))
    }
}
