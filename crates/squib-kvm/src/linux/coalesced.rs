//! Writes that the kernel gathers in a ring (KVM API, 4.116 `KVM_(UN)REGISTER_COALESCED_MMIO`).
//!
//! All vCPUs of a VM share the ring. Whoever comes back from the kernel delivers what is in it before its own exit is looked at. An
//! entry is taken out when it has been delivered, so a vCPU that finds the ring empty knows that every write before its exit has
//! been, and one that does not waits for whoever is at it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use squib_core::memory::PAGE_SIZE;
use squib_core::{AddressSpace, Attachment, CoalescedWrites, Result};

use super::errors::failed;
use super::run_page::RunPage;
use super::vm::Machine;

/// A write as the ring has it.
pub(super) struct Entry {
    pub(super) space: AddressSpace,
    pub(super) addr: u64,
    pub(super) width: u32,
    pub(super) value: u64,
}

/// The ring of a VM, and who hears of its writes.
#[derive(Default)]
pub(super) struct Coalesced {
    /// Where the ring is in each vCPU's run page; 0 as long as nothing is gathered.
    ring: AtomicUsize,
    zones: Mutex<Vec<Arc<Zone>>>,
    /// Held by whoever delivers.
    delivering: Mutex<()>,
}

/// Addresses whose writes are gathered.
struct Zone {
    space: AddressSpace,
    base: u64,
    len: u32,
    writes: Arc<dyn CoalescedWrites>,
}

impl Zone {
    fn address(&self) -> IoEventAddress {
        match self.space {
            AddressSpace::Ports => IoEventAddress::Pio(self.base),
            AddressSpace::Memory => IoEventAddress::Mmio(self.base),
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        let (offset, width) = (entry.addr.wrapping_sub(self.base), u64::from(entry.width));
        let len = u64::from(self.len);
        self.space == entry.space && offset < len && (1..=8).contains(&width) && width <= len - offset
    }
}

impl Coalesced {
    fn zones(&self) -> MutexGuard<'_, Vec<Arc<Zone>>> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what is in the ring, which is in `page` as in every vCPU's.
    #[inline]
    pub(super) fn deliver(&self, page: &RunPage) {
        let ring = self.ring.load(Ordering::Acquire);
        if ring != 0 && !page.ring_is_empty(ring) {
            self.deliver_all(page, ring);
        }
    }

    #[cold]
    fn deliver_all(&self, page: &RunPage, ring: usize) {
        let _delivering = self.delivering.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(entry) = page.ring_entry(ring) {
            let zone = self.zones().iter().find(|zone| zone.holds(&entry)).cloned();
            // The range may be nobody's any more.
            if let Some(zone) = zone {
                zone.writes.write(entry.addr, entry.width as u8, entry.value);
            }
            page.ring_advance(ring);
        }
    }
}

/// Gathers writes to a range. `None` where this KVM cannot.
pub(super) fn attach(
    vm: &Arc<Machine>,
    space: AddressSpace,
    (base, len): (u64, u64),
    writes: &Arc<dyn CoalescedWrites>,
) -> Result<Option<Attachment>> {
    let (Some(ring), Ok(len)) = (ring(&vm.fd, space), u32::try_from(len)) else { return Ok(None) };
    let zone = Arc::new(Zone { space, base, len, writes: writes.clone() });
    vm.coalesced.zones().push(zone.clone());
    vm.coalesced.ring.store(ring, Ordering::Release);
    let attached = Attached { vm: Arc::downgrade(vm), zone };
    match vm.fd.register_coalesced_mmio(attached.zone.address(), len) {
        Ok(()) => Ok(Some(Box::new(attached))),
        // The kernel's bus is full.
        Err(e) if e.errno() == libc::ENOSPC => Ok(None),
        Err(e) => Err(failed("KVM_REGISTER_COALESCED_MMIO", e)),
    }
}

/// Where the ring is, if writes to this space can be gathered.
fn ring(vm: &VmFd, space: AddressSpace) -> Option<usize> {
    if space == AddressSpace::Ports && !vm.check_extension(Cap::CoalescedPio) {
        return None;
    }
    let page = usize::try_from(vm.check_extension_int(Cap::CoalescedMmio)).ok()?;
    (page != 0).then_some(page * PAGE_SIZE as usize)
}

/// A range until the kernel gives it back.
struct Attached {
    vm: Weak<Machine>,
    zone: Arc<Zone>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let Some(vm) = self.vm.upgrade() else { return };
        let _ = vm.fd.unregister_coalesced_mmio(self.zone.address(), self.zone.len);
        vm.coalesced.zones().retain(|zone| !Arc::ptr_eq(zone, &self.zone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: usize = 2 * PAGE_SIZE as usize;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, u8, u64)>>);

    impl CoalescedWrites for Log {
        fn write(&self, addr: u64, width: u8, value: u64) {
            self.0.lock().unwrap().push((addr, width, value));
        }
    }

    /// Puts an entry where the kernel would.
    fn put(page: &mut RunPage, index: usize, (pio, addr, len, value): (u64, u64, u64, u64)) {
        let at = RING + 8 + 24 * index;
        for (offset, size, field) in [(0, 8, addr), (8, 4, len), (12, 4, pio), (16, 8, value)] {
            page.set_data(at + offset, &field.to_le_bytes()[..size]);
        }
    }

    fn zones(log: &Arc<Log>) -> Coalesced {
        let zone = |space, base, len| Arc::new(Zone { space, base, len, writes: log.clone() });
        let zones = vec![zone(AddressSpace::Ports, 0x70, 2), zone(AddressSpace::Memory, u64::MAX - 3, 4)];
        Coalesced { ring: AtomicUsize::new(RING), zones: Mutex::new(zones), ..Coalesced::default() }
    }

    #[test]
    fn entries_go_to_their_zone_and_those_of_nobody_are_lost() {
        let (log, mut page) = (Arc::new(Log::default()), RunPage::blank());
        let coalesced = zones(&log);
        let entries = [
            (1, 0x70, 1, 0xaa),
            (1, 0x71, 1, 0xbbcc),
            (1, 0x71, 2, 1),
            (1, 0x70, 0, 2),
            (1, 0x70, 9, 3),
            (1, 0x70, u64::from(u32::MAX), 4),
            (0, 0x70, 1, 5),
            (1, 0x6f, 2, 6),
            (0, u64::MAX - 3, 4, 0x1122_3344_5566),
            (0, u64::MAX, 2, 7),
        ];
        // They go round the end of the ring.
        let first = 165;
        for (n, entry) in entries.into_iter().enumerate() {
            put(&mut page, (first + n) % 170, entry);
        }
        page.set_data(RING, &(first as u32).to_le_bytes());
        page.set_data(RING + 4, &(((first + entries.len()) % 170) as u32).to_le_bytes());
        coalesced.deliver(&page);
        let delivered = [(0x70, 1, 0xaa), (0x71, 1, 0xcc), (u64::MAX - 3, 4, 0x3344_5566)];
        assert_eq!(*log.0.lock().unwrap(), delivered);
        assert!(page.ring_is_empty(RING));
    }

    #[test]
    fn a_ring_that_makes_no_sense_delivers_nothing() {
        let (log, mut page) = (Arc::new(Log::default()), RunPage::blank());
        let coalesced = zones(&log);
        put(&mut page, 0, (1, 0x70, 1, 1));
        for (first, last) in [(170, 0), (u32::MAX, 1)] {
            page.set_data(RING, &u32::to_le_bytes(first));
            page.set_data(RING + 4, &u32::to_le_bytes(last));
            coalesced.deliver(&page);
        }
        coalesced.ring.store(3 * PAGE_SIZE as usize, Ordering::Release);
        coalesced.deliver(&page);
        coalesced.ring.store(usize::MAX & !7, Ordering::Release);
        coalesced.deliver(&page);
        assert!(log.0.lock().unwrap().is_empty());
    }
}
