//! Rings in which KVM notes the pages that vCPUs write, one for each vCPU (KVM API, 8.29 `KVM_CAP_DIRTY_LOG_RING`).
//!
//! KVM adds entries at one end, and stops the vCPU before there is no room. Whoever wants to know takes them at the other end, marks
//! them as taken, and lets KVM watch their pages, and use their places, again. This module is for a thread at a time.
#![allow(unsafe_code, reason = "memory that is mapped from, and shared with, the kernel")]

use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, mem};

use kvm_bindings::*;
use kvm_ioctls::{Kvm, VmFd};
use squib_core::memory::PAGE_SIZE;
use squib_core::{DirtyTracking, Error, ErrorCode, Result};

use super::dirty::DirtyPages;
use super::errors::failed;
use super::sys;

/// The fewest entries that every kernel takes: some are kept for what a processor has in its own buffer.
const MIN_ENTRIES: u32 = 1024;
const ENTRY_SIZE: usize = size_of::<kvm_dirty_gfn>();

/// An entry's flags (KVM API, 8.29): KVM has filled it in; it was taken. Neither is a free entry.
const DIRTY: u32 = 1;
const TAKEN: u32 = 2;

/// How often in a row KVM may be kept from an entry by a signal.
const RESET_TRIES: u32 = 16;

/// The capabilities that give rings, the better first. The older one is for processors with strongly ordered memory only.
const CAPABILITIES: [u32; 2] = [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING];

/// How this KVM tells which pages were written.
pub(super) fn tracking(kvm: &Kvm) -> DirtyTracking {
    let bytes = CAPABILITIES.map(|cap| kvm.check_extension_raw(cap.into())).into_iter().find(|n| *n > 0);
    match bytes.map(|bytes| bytes as u32 / ENTRY_SIZE as u32) {
        Some(max_entries @ MIN_ENTRIES..) => DirtyTracking::BitmapOrRing { max_entries },
        _ => DirtyTracking::Bitmap,
    }
}

/// Whether it has rings.
pub(super) fn has_rings(kvm: &Kvm) -> bool {
    tracking(kvm) != DirtyTracking::Bitmap
}

/// The rings of a VM's vCPUs.
pub(super) struct Rings {
    entries: u32,
    rings: Vec<Ring>,
}

impl Rings {
    /// Gives each vCPU that `vm` will have a ring of so many entries.
    pub(super) fn enable(vm: &VmFd, entries: u32) -> Result<Self> {
        let found = CAPABILITIES
            .map(|cap| (cap, vm.check_extension_raw(cap.into())))
            .into_iter()
            .find(|(_, n)| *n > 0);
        let Some((cap, bytes)) = found else {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "this KVM has no dirty rings (Linux 5.11 on x86-64, 6.2 on aarch64); leave the ring out for a bitmap",
            ));
        };
        let max = bytes as u32 / ENTRY_SIZE as u32;
        if !entries.is_power_of_two() || !(MIN_ENTRIES..=max).contains(&entries) {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("a dirty ring has {MIN_ENTRIES} to {max} entries, a power of two, not {entries}"),
            ));
        }
        let args = [u64::from(entries) * ENTRY_SIZE as u64, 0, 0, 0];
        let cap = kvm_enable_cap { cap, args, ..Default::default() };
        vm.enable_cap(&cap).map_err(|e| failed("KVM_CAP_DIRTY_LOG_RING", e))?;
        Ok(Self { entries, rings: Vec::new() })
    }

    /// Adds the ring of vCPU `id`. It stays when the vCPU goes: what that has written is still to be told.
    pub(super) fn add(&mut self, id: u32, vcpu: &impl AsRawFd) -> Result<()> {
        let offset = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE;
        self.rings.push(Ring::mmap(id, self.entries, libc::MAP_SHARED, vcpu.as_raw_fd(), offset)?);
        Ok(())
    }

    /// Takes all that there is in the rings, and lets KVM go on with them. `false` when entries were lost: then any page may have been
    /// written, and may be written again without an entry.
    pub(super) fn collect(&mut self, vm: &VmFd, pages: &DirtyPages) -> Result<bool> {
        let mut whole = true;
        let mut marked = 0;
        for ring in &mut self.rings {
            marked += ring.take(pages);
            whole &= !ring.overrun;
        }
        // KVM stops at a signal, and for good at an entry that it has filled in anew before it came to it.
        let mut tries = 0;
        while marked != 0 && tries < RESET_TRIES {
            let reset = sys::reset_dirty_rings(vm).map_err(|e| failed("KVM_RESET_DIRTY_RINGS", e))?;
            marked = marked.saturating_sub(reset);
            tries += u32::from(reset == 0);
        }
        Ok(whole && marked == 0)
    }

    /// Whether anything was taken from the ring of vCPU `id`, which is full, since it last was: if not, it will stay full.
    pub(super) fn has_room(&mut self, id: u32) -> bool {
        let ring = self.rings.iter_mut().find(|ring| ring.id == id);
        ring.is_some_and(|ring| mem::replace(&mut ring.next_when_full, ring.next) != ring.next)
    }
}

/// A vCPU's ring.
struct Ring {
    /// The vCPU's number.
    id: u32,
    start: NonNull<kvm_dirty_gfn>,
    /// A power of two.
    entries: u32,
    /// The number of the entry to be taken next; it goes on beyond the ring's end.
    next: u32,
    /// What that was when the ring was last full.
    next_when_full: u32,
    /// KVM has filled in more entries than there are, and is an unknown number of entries ahead.
    overrun: bool,
}

// SAFETY: the mapping belongs to this value and is not tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    fn mmap(id: u32, entries: u32, flags: libc::c_int, fd: libc::c_int, offset: u64) -> Result<Self> {
        let len = entries as usize * ENTRY_SIZE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let start = unsafe { libc::mmap(null_mut(), len, protection, flags, fd, offset as libc::off_t) };
        match NonNull::new(start.cast::<kvm_dirty_gfn>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self { id, start, entries, next: 0, next_when_full: 0, overrun: false })
            }
            _ => {
                let cause = io::Error::last_os_error();
                Err(Error::with_source(ErrorCode::OutOfMemory, "KVM's dirty ring cannot be mapped", cause))
            }
        }
    }

    fn entry(&self, number: u32) -> *mut kvm_dirty_gfn {
        // SAFETY: the entry lies in the mapping, which has a power of two of them.
        unsafe { self.start.as_ptr().add((number & (self.entries - 1)) as usize) }
    }

    fn flags(&self, number: u32) -> &AtomicU32 {
        // SAFETY: the field is aligned, lies in the mapping, which lives as long as the borrow, and is only used as an atomic.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.entry(number)).flags) }
    }

    /// The slot and page of an entry, if it is filled in.
    fn filled(&self, number: u32) -> Option<(u32, u64)> {
        // With the kernel's release: what was filled in before is there.
        if self.flags(number).load(Ordering::Acquire) != DIRTY {
            return None;
        }
        let entry = self.entry(number);
        // SAFETY: the fields lie in the mapping, and the kernel leaves an entry alone until it is taken.
        unsafe { Some(((&raw const (*entry).slot).read(), (&raw const (*entry).offset).read())) }
    }

    /// Marks the next entry as taken.
    fn advance(&mut self) {
        // With the kernel's acquire: it fills the entry in anew after it was read.
        self.flags(self.next).store(TAKEN, Ordering::Release);
        self.next = self.next.wrapping_add(1);
    }

    /// Takes the entries there are, oldest first. Says how many it has marked.
    fn take(&mut self, pages: &DirtyPages) -> u32 {
        let start = self.next;
        let again = self.overrun && !self.catch_up();
        let mut taken = 0;
        while taken < self.entries
            && let Some((slot, page)) = self.filled(self.next)
        {
            // The high half is the address space: squib has slots in the first only, and others are no region's number.
            pages.mark(slot as usize, page);
            self.advance();
            taken += 1;
        }
        // KVM stops a vCPU well before its ring is full, but looks only between instructions, and one may write a thousand
        // times. Then the oldest entries are overwritten, and with them which pages they were of.
        if again || taken == self.entries {
            (taken..self.entries).for_each(|_| self.advance());
            self.overrun = true;
        }
        self.next.wrapping_sub(start)
    }

    /// After an overrun: goes to the entry that KVM has filled in next; it passes what it finds marked. `false` when there was
    /// another overrun meanwhile.
    fn catch_up(&mut self) -> bool {
        let filled = |ahead: u32| self.filled(self.next.wrapping_add(ahead)).is_some();
        let Some(ahead) = (0..self.entries).find(|ahead| filled(*ahead)) else { return true };
        if ahead == 0 && filled(self.entries - 1) {
            return false;
        }
        (0..ahead).for_each(|_| self.advance());
        self.overrun = false;
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `mmap` with this length and is not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.entries as usize * ENTRY_SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squib_core::GuestMemory;

    const ENTRIES: u32 = MIN_ENTRIES;

    /// KVM's end of a ring, without its care not to overrun it.
    #[derive(Default)]
    struct Kernel {
        filled: u32,
        reset: u32,
    }

    impl Kernel {
        fn fill(&mut self, ring: &Ring, slot: u32, offset: u64) {
            let entry = ring.entry(self.filled);
            // SAFETY: the entry lies in the mapping, which nobody else uses.
            unsafe { entry.write(kvm_dirty_gfn { flags: DIRTY, slot, offset }) };
            self.filled = self.filled.wrapping_add(1);
        }

        fn reset(&mut self, ring: &Ring) {
            while ring.flags(self.reset).load(Ordering::Acquire) & TAKEN != 0 {
                ring.flags(self.reset).store(0, Ordering::Release);
                self.reset = self.reset.wrapping_add(1);
            }
        }
    }

    fn ring() -> (Ring, Kernel, DirtyPages) {
        let ring = Ring::mmap(0, ENTRIES, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0).unwrap();
        let memory = GuestMemory::with_regions(&[(0, 4096 * PAGE_SIZE), (0x200_0000, PAGE_SIZE)]).unwrap();
        (ring, Kernel::default(), DirtyPages::new(&memory))
    }

    #[test]
    fn entries_are_taken_in_order_around_the_ring() {
        let (mut ring, mut kernel, pages) = ring();
        assert_eq!(ring.take(&pages), 0);
        for round in 0..50 {
            for n in 0..100 {
                kernel.fill(&ring, 0, round + n);
            }
            assert_eq!(ring.take(&pages), 100);
            assert_eq!(ring.take(&pages), 0, "each once");
            assert_eq!(pages.take(), (round..round + 100).map(|n| n * PAGE_SIZE).collect::<Vec<_>>());
            kernel.reset(&ring);
            assert_eq!(kernel.reset, kernel.filled);
        }
    }

    #[test]
    fn an_entry_of_no_memory_is_none() {
        let (mut ring, mut kernel, pages) = ring();
        let entries = [(0, 4096), (1, 1), (2, 0), (1 << 16, 0), (u32::MAX, u64::MAX), (0, u64::MAX), (1, 0)];
        for (slot, offset) in entries {
            kernel.fill(&ring, slot, offset);
        }
        assert_eq!(ring.take(&pages), entries.len() as u32);
        assert_eq!(pages.take(), [0x200_0000]);
    }

    #[test]
    fn after_an_overrun_both_ends_meet_again() {
        for more in [0, 1, 500, ENTRIES - 6] {
            let (mut ring, mut kernel, pages) = ring();
            for n in 0..ENTRIES + more {
                kernel.fill(&ring, 0, n.into());
            }
            assert_eq!(ring.take(&pages), ENTRIES);
            assert!(ring.overrun);
            pages.take();
            kernel.reset(&ring);
            assert_eq!(ring.take(&pages), 0);
            for n in 0..3 {
                for page in [7, 8] {
                    kernel.fill(&ring, 0, page + n);
                }
                assert!(ring.take(&pages) >= 2 && !ring.overrun);
                assert_eq!(pages.take(), [(7 + n) * PAGE_SIZE, (8 + n) * PAGE_SIZE]);
                kernel.reset(&ring);
                assert_eq!((kernel.reset, ring.next), (kernel.filled, kernel.filled), "{more} too many");
            }
        }
    }

    #[test]
    fn an_overrun_after_an_overrun_is_one() {
        let (mut ring, mut kernel, pages) = ring();
        for _ in 0..2 * ENTRIES - 1 {
            kernel.fill(&ring, 0, 5);
        }
        ring.take(&pages);
        kernel.reset(&ring);
        pages.take();
        for _ in 0..2 {
            kernel.fill(&ring, 0, 6);
        }
        assert_eq!(ring.take(&pages), ENTRIES);
        assert!(ring.overrun);
        kernel.reset(&ring);
        for _ in 0..2 {
            kernel.fill(&ring, 0, 7);
        }
        assert_eq!(ring.take(&pages), 3, "one was KVM's before");
        assert!(!ring.overrun);
        kernel.reset(&ring);
        assert_eq!((kernel.reset, ring.next), (kernel.filled, kernel.filled));
    }
}
