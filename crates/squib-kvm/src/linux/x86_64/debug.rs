//! Stops for a debugger (KVM API, 4.87 `KVM_SET_GUEST_DEBUG`).

use kvm_bindings::*;
use squib_core::{DebugStops, Result};

use crate::linux::errors::refused;
use crate::linux::vcpu::KvmVcpu;

/// DR7: a bit that is always set, and exact breakpoints (Intel SDM vol. 3, 18.2.4).
const DR7_FIXED: u64 = 1 << 10 | 1 << 9;

impl KvmVcpu {
    pub(in crate::linux) fn stop_for_debugger(&mut self, stops: &DebugStops) -> Result<()> {
        let mut debug = kvm_guest_debug::default();
        let mut dr7 = 0;
        for (n, address) in stops.breakpoints.iter().enumerate() {
            if let Some(address) = address {
                debug.arch.debugreg[n] = *address;
                // Global enable; type and length 0 mean an instruction.
                dr7 |= 2 << (2 * n);
            }
        }
        for (wanted, flag) in [
            (stops.step, KVM_GUESTDBG_SINGLESTEP),
            (stops.instructions, KVM_GUESTDBG_USE_SW_BP),
            (dr7 != 0, KVM_GUESTDBG_USE_HW_BP),
        ] {
            if wanted {
                debug.control |= flag | KVM_GUESTDBG_ENABLE;
            }
        }
        debug.arch.debugreg[7] = if dr7 == 0 { 0 } else { dr7 | DR7_FIXED };
        self.settled()?.set_guest_debug(&debug).map_err(|e| refused("KVM_SET_GUEST_DEBUG", e))
    }
}
