//! The KVM paravirtual clock: the pages in which a guest reads the time (Linux,
//! Documentation/virt/kvm/x86/msr.rst).

use squib_devices::pv_clock::{FLAG_TSC_STABLE, TscScale, VcpuTime, WallClock};
use squib_x86::env::Env;

use crate::cpu::Cpu;

/// MSR bit: the clock is on.
const ENABLED: u64 = 1;

impl Cpu {
    /// Writes the structures whose addresses the guest has given. The clock runs with the time-stamp counter, so this
    /// is needed only when an address or the counter's offset changes.
    pub(crate) fn update_pv_clock(&mut self) {
        let msr = self.state.msr;
        let host = self.host_tsc();
        let now = self.clock.now_ns();
        if msr.pv_system_time & ENABLED != 0 {
            let time = VcpuTime {
                tsc_timestamp: host.wrapping_add(msr.tsc_offset),
                system_time_ns: now,
                scale: TscScale::from_khz(self.model.tsc_khz),
                flags: FLAG_TSC_STABLE,
            };
            self.publish(msr.pv_system_time & !ENABLED, &time.to_bytes(2));
        }
        if msr.pv_wall_clock != 0 {
            let wall = WallClock::new(self.clock.unix_ns(), now);
            self.publish(msr.pv_wall_clock, &wall.to_bytes(2));
            self.state.msr.pv_wall_clock = 0;
        }
    }

    /// Writes one. A guest that points it outside of RAM gets no clock.
    fn publish(&self, addr: u64, bytes: &[u8]) {
        if self.memory.find(addr).is_some_and(|(region, _)| !region.is_rom()) {
            let _ = self.memory.write(addr, bytes);
        }
    }
}
