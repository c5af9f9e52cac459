//! Counting exits.

use std::sync::atomic::{AtomicU64, Ordering};

use squib_core::ExitKind;

use crate::bus::{Bus, Target};

/// How many exits of each kind one vCPU has made.
///
/// One thread counts at a time, so it needs no atomic addition; any thread may read.
#[derive(Debug)]
pub struct ExitCounts {
    kinds: [AtomicU64; ExitKind::ALL.len()],
    open_bus: AtomicU64,
}

impl Default for ExitCounts {
    fn default() -> Self {
        Self { kinds: [const { AtomicU64::new(0) }; ExitKind::ALL.len()], open_bus: AtomicU64::new(0) }
    }
}

fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

impl ExitCounts {
    pub(crate) fn count(&self, kind: ExitKind) {
        bump(&self.kinds[kind as usize]);
    }

    pub(crate) fn count_open_bus(&self) {
        bump(&self.open_bus);
    }

    /// Exits of this kind.
    pub fn get(&self, kind: ExitKind) -> u64 {
        self.kinds[kind as usize].load(Ordering::Relaxed)
    }

    /// Accesses that no device claimed and that [`Unclaimed::Platform`](crate::Unclaimed::Platform) answered.
    pub fn open_bus(&self) -> u64 {
        self.open_bus.load(Ordering::Relaxed)
    }
}

/// Accesses to one range of a bus, or rings of a doorbell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCount {
    /// The range's name.
    pub name: String,
    /// First address.
    pub base: u64,
    /// Last address.
    pub last: u64,
    /// Reads so far.
    pub reads: u64,
    /// Writes so far; of a doorbell those that rang it, as far as it has been told of them.
    pub writes: u64,
}

/// Accesses to each device and doorbell that is mapped on `bus` now, ascending by address.
pub fn device_counts(bus: &Bus) -> Vec<DeviceCount> {
    let (mappings, bells) = (bus.mappings(), bus.bells());
    let devices = mappings.iter().filter(|m| !matches!(m.target(), Target::Reserved)).map(|m| DeviceCount {
        name: m.name().into(),
        base: m.base(),
        last: m.last(),
        reads: m.reads(),
        writes: m.writes(),
    });
    let doorbells = bells.iter().map(|bell| DeviceCount {
        name: bell.name().into(),
        base: bell.register().addr(),
        last: bell.register().last(),
        reads: 0,
        writes: bell.rings(),
    });
    let mut counts: Vec<_> = devices.chain(doorbells).collect();
    counts.sort_by_key(|count| count.base);
    counts
}

/// What a machine has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Exits of all vCPUs, the kinds that occurred.
    pub exits: Vec<(ExitKind, u64)>,
    /// Accesses to devices at ports.
    pub ports: Vec<DeviceCount>,
    /// Accesses to devices in memory.
    pub memory: Vec<DeviceCount>,
    /// Accesses that met no device.
    pub open_bus: u64,
    /// Accesses to model-specific registers that do not exist, up to the end of the last run; each raised #GP(0).
    pub unknown_msrs: u64,
    /// Guest instructions up to the end of the last run, where the backend counts them.
    pub instructions: Option<u64>,
    /// Nanoseconds from the machine's creation to the first byte on the console.
    pub first_output_ns: Option<u64>,
    /// Nanoseconds from the machine's creation to the start of Linux's first process, if the console told.
    pub userspace_ns: Option<u64>,
}
