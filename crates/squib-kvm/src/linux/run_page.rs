//! The page that a vCPU shares with the kernel: `struct kvm_run` (KVM API, 5).
//!
//! The kernel writes it while the vCPU's thread is inside `KVM_RUN`, and cancelling threads write one byte of
//! it. It is therefore never borrowed: fields are copied in and out through a raw pointer.
#![allow(unsafe_code, reason = "memory that is mapped from, and shared with, the kernel")]

use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::{io, mem};

use kvm_bindings::*;
use squib_core::memory::PAGE_SIZE;
use squib_core::{AddressSpace, Error, ErrorCode, Result};

use super::coalesced::Entry;

/// A vCPU's mapped `kvm_run` with what follows it.
pub(super) struct RunPage {
    start: NonNull<kvm_run>,
    len: usize,
}

// SAFETY: the mapping belongs to this value and is not tied to a thread.
unsafe impl Send for RunPage {}

/// Copies a field out of the page.
macro_rules! get {
    ($page:expr, $($field:tt)+) => {
        // SAFETY: the mapping holds a whole `kvm_run`, which is made of integers only, so that every bit
        // pattern is a value of every member of its union.
        unsafe { (&raw const (*$page.start.as_ptr()).$($field)+).read() }
    };
}

/// Copies a value into a field of the page.
macro_rules! set {
    ($page:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as in `get`; the kernel reads the page only inside of `KVM_RUN`, which needs the vCPU
        // exclusively.
        unsafe { (&raw mut (*$page.start.as_ptr()).$($field)+).write($value) }
    };
}

macro_rules! members {
    ($($name:ident: $type:ident,)*) => {
        $(#[doc = concat!("The union's member `", stringify!($name), "`.")]
        pub(super) fn $name(&self) -> $type {
            get!(self, __bindgen_anon_1.$name)
        })*
    };
}

pub(super) type Io = kvm_run__bindgen_ty_1__bindgen_ty_4;
pub(super) type Mmio = kvm_run__bindgen_ty_1__bindgen_ty_6;
pub(super) type Hardware = kvm_run__bindgen_ty_1__bindgen_ty_1;
pub(super) type FailEntry = kvm_run__bindgen_ty_1__bindgen_ty_2;
pub(super) type Debug = kvm_run__bindgen_ty_1__bindgen_ty_5;
pub(super) type Hypercall = kvm_run__bindgen_ty_1__bindgen_ty_8;
pub(super) type Internal = kvm_run__bindgen_ty_1__bindgen_ty_13;
pub(super) type SystemEvent = kvm_run__bindgen_ty_1__bindgen_ty_19;
pub(super) type Eoi = kvm_run__bindgen_ty_1__bindgen_ty_21;
pub(super) type ArmNisv = kvm_run__bindgen_ty_1__bindgen_ty_22;
pub(super) type Msr = kvm_run__bindgen_ty_1__bindgen_ty_23;
pub(super) type MemoryFault = kvm_run__bindgen_ty_1__bindgen_ty_27;

impl RunPage {
    members! {
        io: Io,
        mmio: Mmio,
        hw: Hardware,
        fail_entry: FailEntry,
        debug: Debug,
        hypercall: Hypercall,
        internal: Internal,
        system_event: SystemEvent,
        eoi: Eoi,
        arm_nisv: ArmNisv,
        msr: Msr,
        memory_fault: MemoryFault,
    }

    /// Maps `len` bytes of `vcpu`'s run page, as many as `KVM_GET_VCPU_MMAP_SIZE` says.
    pub(super) fn map(vcpu: &impl std::os::fd::AsRawFd, len: usize) -> Result<Self> {
        Self::mmap(len, libc::MAP_SHARED, vcpu.as_raw_fd())
    }

    fn mmap(len: usize, flags: libc::c_int, fd: libc::c_int) -> Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(Error::new(
                ErrorCode::Hypervisor,
                format!("KVM's run page of {len} bytes is shorter than its structure"),
            ));
        }
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
        let start = unsafe { libc::mmap(null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            let cause = io::Error::last_os_error();
            return Err(Error::with_source(ErrorCode::OutOfMemory, "KVM's run page cannot be mapped", cause));
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| {
            Error::new(
                ErrorCode::Hypervisor,
                "KVM's run page was mapped at address zero, which squib cannot use",
            )
        })?;
        Ok(Self { start, len })
    }

    /// Why the last `KVM_RUN` returned: `KVM_EXIT_…`.
    #[inline]
    pub(super) fn exit_reason(&self) -> u32 {
        get!(self, exit_reason)
    }

    /// How many words a system event says that it has, and the words.
    pub(super) fn system_event_words(&self) -> (u32, [u64; 16]) {
        (self.system_event().ndata, get!(self, __bindgen_anon_1.system_event.__bindgen_anon_1.data))
    }

    /// The byte that makes `KVM_RUN` finish the last access and return `EINTR`.
    pub(super) fn immediate_exit(&self) -> NonNull<AtomicU8> {
        // SAFETY: the field lies inside of the mapping.
        let field = unsafe { &raw mut (*self.start.as_ptr()).immediate_exit };
        // SAFETY: a pointer into a mapping that does not start at zero is not null.
        unsafe { NonNull::new_unchecked(field.cast()) }
    }

    /// Answers a hypercall.
    pub(super) fn set_hypercall_return(&mut self, value: u64) {
        set!(self, value, __bindgen_anon_1.hypercall.ret);
    }

    /// Answers an MSR access: the value read, or with `None` a general-protection fault.
    pub(super) fn set_msr_answer(&mut self, value: Option<u64>) {
        set!(self, u8::from(value.is_none()), __bindgen_anon_1.msr.error);
        if let Some(value) = value {
            set!(self, value, __bindgen_anon_1.msr.data);
        }
    }

    /// Whether `len` bytes at `offset` lie in the page.
    pub(super) fn holds(&self, offset: u64, len: u64) -> bool {
        let end = self.len as u64;
        len <= end && offset <= end - len
    }

    /// The `size` bytes at `offset`, 1 to 8, little-endian; 0 when they are not all in the page.
    #[inline]
    pub(super) fn data(&self, offset: usize, size: usize) -> u64 {
        if !matches!(size, 1..=8) || !self.holds(offset as u64, size as u64) {
            return 0;
        }
        // Eight bytes are read in any case: where the page ends before, those that it ends with.
        let start = offset.min(self.len - 8);
        // SAFETY: they are in the mapping, which is longer than that.
        let word = unsafe { self.start.as_ptr().byte_add(start).cast::<u64>().read_unaligned() };
        u64::from_le(word) >> (8 * (offset - start)) & u64::MAX >> (64 - 8 * size)
    }

    /// Writes 1 to 8 bytes at `offset`; nothing when there are more, or they would not all be in the page.
    #[inline]
    pub(super) fn set_data(&mut self, offset: usize, data: &[u8]) {
        let len = data.len();
        if !self.holds(offset as u64, len as u64) {
            return;
        }
        // SAFETY: all of the place is in the mapping, of which nothing is borrowed, and nothing outside of `data` is read or
        // outside of the place written: what is shorter than the parts together is covered by parts that overlap.
        unsafe {
            let to = self.start.as_ptr().cast::<u8>().add(offset);
            let copy = |at: usize, len| data.as_ptr().add(at).copy_to_nonoverlapping(to.add(at), len);
            match len {
                4..=8 => [0, len - 4].into_iter().for_each(|at| copy(at, 4)),
                1..4 => [0, len / 2, len - 1].into_iter().for_each(|at| copy(at, 1)),
                _ => {}
            }
        }
    }
}

/// The ring of coalesced writes (include/uapi/linux/kvm.h, `struct kvm_coalesced_mmio_ring`), in a page behind `kvm_run`. The kernel
/// puts entries in, one vCPU at a time takes them out, and others look whether there are any.
impl RunPage {
    /// The index `at` bytes into the ring; `None` when the mapping has no such page.
    #[inline]
    fn ring_index(&self, ring: usize, at: usize) -> Option<&AtomicU32> {
        if !self.holds(ring as u64, PAGE_SIZE) {
            return None;
        }
        // SAFETY: the whole page is in the mapping, which lives as long as `self`, and both of the ring's indices are aligned.
        // Everybody here reads and writes them as atomics.
        Some(unsafe { AtomicU32::from_ptr(self.start.as_ptr().cast::<u8>().add(ring + at).cast()) })
    }

    #[inline]
    fn ring_indices(&self, ring: usize) -> Option<(&AtomicU32, &AtomicU32)> {
        let first = self.ring_index(ring, mem::offset_of!(kvm_coalesced_mmio_ring, first))?;
        Some((first, self.ring_index(ring, mem::offset_of!(kvm_coalesced_mmio_ring, last))?))
    }

    /// Whether all entries have been taken out.
    #[inline]
    pub(super) fn ring_is_empty(&self, ring: usize) -> bool {
        self.ring_indices(ring)
            .is_none_or(|(first, last)| first.load(Ordering::Acquire) == last.load(Ordering::Acquire))
    }

    /// The oldest entry.
    pub(super) fn ring_entry(&self, ring: usize) -> Option<Entry> {
        let (first, last) = self.ring_indices(ring)?;
        let first = first.load(Ordering::Relaxed);
        if first == last.load(Ordering::Acquire) || first >= RING_ENTRIES {
            return None;
        }
        let entry =
            ring + size_of::<kvm_coalesced_mmio_ring>() + first as usize * size_of::<kvm_coalesced_mmio>();
        let field = |at, size| self.data(entry + at, size);
        let width = field(mem::offset_of!(kvm_coalesced_mmio, len), 4) as u32;
        let pio = field(mem::offset_of!(kvm_coalesced_mmio, __bindgen_anon_1), 4) != 0;
        Some(Entry {
            space: if pio { AddressSpace::Ports } else { AddressSpace::Memory },
            addr: field(mem::offset_of!(kvm_coalesced_mmio, phys_addr), 8),
            width,
            value: field(mem::offset_of!(kvm_coalesced_mmio, data), width.min(8) as usize),
        })
    }

    /// Takes it out. Only whoever has got it does, and nobody else meanwhile.
    pub(super) fn ring_advance(&self, ring: usize) {
        if let Some((first, _)) = self.ring_indices(ring) {
            first.store((first.load(Ordering::Relaxed) + 1) % RING_ENTRIES, Ordering::Release);
        }
    }
}

/// What user space and a vCPU of x86 without a local APIC in the kernel tell each other.
#[cfg(target_arch = "x86_64")]
impl RunPage {
    /// Whether the guest could take an external interrupt when it exited. Without a local APIC in the kernel.
    pub(super) fn takes_interrupts(&self) -> bool {
        get!(self, ready_for_interrupt_injection) != 0 && get!(self, if_flag) != 0
    }

    /// Notes that something has changed since the exit, so that the guest may not take an interrupt any more.
    pub(super) fn distrust_interrupt_window(&mut self) {
        set!(self, 0, ready_for_interrupt_injection);
    }

    /// Whether `KVM_RUN` shall return when the guest can take an external interrupt.
    pub(super) fn set_request_interrupt_window(&mut self, wanted: bool) {
        set!(self, u8::from(wanted), request_interrupt_window);
    }

    pub(super) fn request_interrupt_window(&self) -> bool {
        get!(self, request_interrupt_window) != 0
    }

    /// Which sets of registers (`KVM_SYNC_X86_…`) `KVM_RUN` shall leave copies of when it returns.
    pub(super) fn set_copies(&mut self, sets: u64) {
        set!(self, sets, kvm_valid_regs);
    }

    /// The copy of general registers.
    pub(super) fn general(&self) -> kvm_regs {
        get!(self, s.regs.regs)
    }

    /// Sets the copy of general registers, for `KVM_RUN` to take at the next entry; with `None` it takes them no more.
    pub(super) fn set_general(&mut self, regs: Option<kvm_regs>) {
        if let Some(regs) = regs {
            set!(self, regs, s.regs.regs);
        }
        let dirty = regs.map_or(0, |_| KVM_SYNC_X86_REGS.into());
        set!(self, dirty, kvm_dirty_regs);
    }

    /// Whether the copy of general registers was set, and `KVM_RUN` has not taken it yet.
    pub(super) fn general_is_set(&self) -> bool {
        get!(self, kvm_dirty_regs) != 0
    }

    /// The copy of segments and control registers.
    pub(super) fn system(&self) -> kvm_sregs {
        get!(self, s.regs.sregs)
    }

    /// CR8 at the next entry of a vCPU without local APIC; the kernel takes it from here.
    pub(super) fn set_cr8(&mut self, value: u64) {
        set!(self, value, cr8);
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `mmap` with this length and is not used after this.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// As many as fit the page (`KVM_COALESCED_MMIO_MAX`).
const RING_ENTRIES: u32 =
    ((PAGE_SIZE as usize - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()) as u32;

/// Where the page has the data of a memory-mapped access, 8 bytes.
pub(super) const MMIO_DATA: usize = mem::offset_of!(kvm_run, __bindgen_anon_1.mmio.data);

const _: () = assert!(mem::offset_of!(kvm_run, exit_reason) == 8, "the kernel's layout of struct kvm_run");

#[cfg(test)]
impl RunPage {
    /// A page of nobody's, to be filled by a test as the kernel would fill it.
    pub(super) fn blank() -> Self {
        Self::mmap(3 * 4096, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).unwrap()
    }

    /// Writes an exit into it.
    pub(super) fn exit(&mut self, reason: u32, fill: impl FnOnce(&mut kvm_run__bindgen_ty_1)) {
        let mut payload = kvm_run__bindgen_ty_1 { padding: [0; 256] };
        fill(&mut payload);
        set!(self, reason, exit_reason);
        set!(self, payload, __bindgen_anon_1);
    }
}
