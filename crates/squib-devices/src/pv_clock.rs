//! The KVM paravirtual clock as data (Linux `Documentation/virt/kvm/x86/msr.rst`, MSR_KVM_SYSTEM_TIME_NEW and
//! MSR_KVM_WALL_CLOCK_NEW).
//!
//! A guest computes nanoseconds since boot from its time-stamp counter:
//! `system_time + (((tsc - tsc_timestamp) << shift) * mul >> 32)`, with a right shift where `shift` is negative.

/// Time never goes back when compared between processors.
pub const FLAG_TSC_STABLE: u8 = 1 << 0;
/// The host has stopped the guest for a while.
pub const FLAG_GUEST_STOPPED: u8 = 1 << 1;

/// Factor from counter ticks to nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TscScale {
    /// 32-bit fixed-point fraction of a nanosecond for each shifted tick.
    pub mul: u32,
    /// Power of two by which ticks are multiplied first.
    pub shift: i8,
}

impl TscScale {
    /// The most exact factor for a counter of `khz` kHz: its multiplier has the top bit set, so it is less
    /// than 2⁻³¹ of itself too small. A frequency of 0 counts as 1 kHz.
    pub const fn from_khz(khz: u32) -> Self {
        const NS_PER_MS: u64 = 1_000_000;
        let khz = if khz == 0 { 1 } else { khz as u64 };
        let mut shift: i8 = 0;
        let (mut ns, mut ticks) = (NS_PER_MS, khz);
        while ns >= ticks {
            ticks <<= 1;
            shift += 1;
        }
        while ns << 1 < ticks {
            ns <<= 1;
            shift -= 1;
        }
        // Now ns / ticks is in [1/2, 1), and ns below 2³².
        Self { mul: ((ns << 32) / ticks) as u32, shift }
    }

    /// Nanoseconds of `ticks`, as the guest computes them.
    pub const fn to_ns(self, ticks: u64) -> u64 {
        let shifted = if self.shift >= 0 {
            ticks.wrapping_shl(self.shift as u32)
        } else {
            ticks.wrapping_shr(self.shift.unsigned_abs() as u32)
        };
        ((shifted as u128 * self.mul as u128) >> 32) as u64
    }
}

/// `struct pvclock_vcpu_time_info`: one for each vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuTime {
    /// The counter when `system_time_ns` was taken.
    pub tsc_timestamp: u64,
    /// Nanoseconds since boot.
    pub system_time_ns: u64,
    /// Factor for what the counter has gone on since.
    pub scale: TscScale,
    /// [`FLAG_TSC_STABLE`] and others.
    pub flags: u8,
}

impl VcpuTime {
    /// Bytes in guest memory.
    pub const SIZE: usize = 32;

    /// The structure as it lies in guest memory.
    ///
    /// `version` is even when it is consistent. The writer of a structure that a running guest may read first
    /// makes the version odd, then writes the rest, then the next even version.
    pub fn to_bytes(&self, version: u32) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0..4].copy_from_slice(&version.to_le_bytes());
        out[8..16].copy_from_slice(&self.tsc_timestamp.to_le_bytes());
        out[16..24].copy_from_slice(&self.system_time_ns.to_le_bytes());
        out[24..28].copy_from_slice(&self.scale.mul.to_le_bytes());
        out[28..29].copy_from_slice(&self.scale.shift.to_le_bytes());
        out[29] = self.flags;
        out
    }

    /// Nanoseconds since boot when the counter shows `tsc`, as the guest computes them.
    pub const fn system_time_at(&self, tsc: u64) -> u64 {
        self.system_time_ns.wrapping_add(self.scale.to_ns(tsc.wrapping_sub(self.tsc_timestamp)))
    }
}

/// `struct pvclock_wall_clock`: the wall-clock time at which the system time was 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallClock {
    /// Seconds since 1970, modulo 2³².
    pub seconds: u32,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

impl WallClock {
    /// Bytes in guest memory.
    pub const SIZE: usize = 12;

    /// The wall clock of a guest whose system time is `system_time_ns` at `unix_ns` nanoseconds since 1970.
    pub const fn new(unix_ns: u64, system_time_ns: u64) -> Self {
        const NS_PER_S: u64 = 1_000_000_000;
        let boot = unix_ns.saturating_sub(system_time_ns);
        Self { seconds: (boot / NS_PER_S) as u32, nanoseconds: (boot % NS_PER_S) as u32 }
    }

    /// The structure as it lies in guest memory; for `version` see [`VcpuTime::to_bytes`].
    pub fn to_bytes(&self, version: u32) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0..4].copy_from_slice(&version.to_le_bytes());
        out[4..8].copy_from_slice(&self.seconds.to_le_bytes());
        out[8..12].copy_from_slice(&self.nanoseconds.to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_frequencies_are_exact() {
        assert_eq!(TscScale::from_khz(1_000_000), TscScale { mul: 1 << 31, shift: 1 });
        assert_eq!(TscScale::from_khz(2_000_000), TscScale { mul: 1 << 31, shift: 0 });
        assert_eq!(TscScale::from_khz(4_000_000), TscScale { mul: 1 << 31, shift: -1 });
        assert_eq!(TscScale::from_khz(1_000_000).to_ns(123_456_789), 123_456_789);
        assert_eq!(TscScale::from_khz(1).to_ns(7), 7_000_000);
        assert_eq!(TscScale::from_khz(0), TscScale::from_khz(1));
    }

    #[test]
    fn layout() {
        let time = VcpuTime {
            tsc_timestamp: 0x0807_0605_0403_0201,
            system_time_ns: 0x1817_1615_1413_1211,
            scale: TscScale { mul: 0x2423_2221, shift: -2 },
            flags: FLAG_TSC_STABLE,
        };
        let bytes = time.to_bytes(0x3433_3231);
        assert_eq!(bytes[..8], [0x31, 0x32, 0x33, 0x34, 0, 0, 0, 0]);
        assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[16..24], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        assert_eq!(bytes[24..], [0x21, 0x22, 0x23, 0x24, 0xfe, 1, 0, 0]);
        let wall = WallClock::new(1_700_000_000_123_456_789, 23_456_789);
        assert_eq!((wall.seconds, wall.nanoseconds), (1_700_000_000, 100_000_000));
        assert_eq!(wall.to_bytes(2)[..8], [2, 0, 0, 0, 0x00, 0xf1, 0x53, 0x65]);
    }

    proptest! {
        #[test]
        fn a_second_of_ticks_is_a_second(khz in 1_u32..) {
            let scale = TscScale::from_khz(khz);
            prop_assert!(scale.mul >> 31 == 1);
            let ns = scale.to_ns(u64::from(khz) * 1000);
            // Less than half a nanosecond from the multiplier, one from rounding, less than one from a right
            // shift.
            prop_assert!((999_999_998..=1_000_000_000).contains(&ns), "{ns}");
        }

        #[test]
        fn time_goes_on(khz in 1_u32.., tsc in any::<u64>(), ticks in 0..1_u64 << 40, ns in 0..1_u64 << 62) {
            let time = VcpuTime {
                tsc_timestamp: tsc,
                system_time_ns: ns,
                scale: TscScale::from_khz(khz),
                flags: 0,
            };
            prop_assert_eq!(time.system_time_at(tsc), ns);
            prop_assert!(time.system_time_at(tsc.wrapping_add(ticks)) >= ns);
        }
    }
}
