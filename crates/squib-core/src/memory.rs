//! Guest RAM, and the one hook through which everything but a vCPU writes it.
//!
//! Guest memory is shared between vCPU threads, devices and the embedder, as RAM is. It is therefore only
//! reached through raw pointers and copied in and out, never borrowed as a slice. See
//! `docs/design/memory.md`.
#![allow(
    unsafe_code,
    reason = "guest RAM is shared with running vCPUs, so it is copied through raw pointers"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crate::{Error, ErrorCode, Result};

/// Size of a page in bytes, the unit of RAM regions and write tracking.
pub const PAGE_SIZE: u64 = 4096;

/// Size in bytes of the largest pages that a backend's host maps memory in, which are Apple silicon's.
const LARGEST_HOST_PAGE: usize = 16 << 10;

/// RAM below 4 GiB ends here at the latest; above are the platform's device windows.
pub const LOW_RAM_END: u64 = 0xc000_0000;

/// Where RAM that does not fit below [`LOW_RAM_END`] goes on.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// Most RAM that a VM may have: 1 TiB.
pub const MAX_RAM: u64 = 1 << 40;

/// Told of outside writes to pages that hold decoded code.
pub trait CodeWriteObserver: Send + Sync {
    /// The page at guest-physical address `page` (page-aligned) was written by a device, a loader or the
    /// embedder. Called after the write, on the writer's thread.
    fn code_written(&self, page: u64);
}

/// A run of RAM or ROM, contiguous in guest-physical and in host address space.
pub struct Region {
    guest_addr: u64,
    len: u64,
    is_rom: bool,
    host: NonNull<u8>,
    allocation: NonNull<u8>,
    layout: Layout,
    /// For each page, whether a backend keeps something derived from its contents.
    code: Box<[AtomicU8]>,
}

// SAFETY: the region owns its allocation, and its contents are only touched by copying through raw pointers.
unsafe impl Send for Region {}
// SAFETY: as above; racing copies give torn guest data, as on hardware, and touch nothing of the host's.
unsafe impl Sync for Region {}

impl Region {
    fn new(guest_addr: u64, len: u64, is_rom: bool) -> Result<Self> {
        let too_large = || {
            Error::new(
                ErrorCode::OutOfMemory,
                format!("the host cannot give {len} bytes of guest memory; ask for less"),
            )
        };
        // Aligning by hand keeps the allocator on its zero-pages-on-demand path: an aligned `alloc_zeroed`
        // would clear every byte at once. Large regions are aligned for huge pages.
        let align = if len >= 2 << 20 { 2 << 20 } else { LARGEST_HOST_PAGE };
        let bytes = usize::try_from(len).ok().and_then(|l| l.checked_add(align)).ok_or_else(too_large)?;
        let layout = Layout::from_size_align(bytes, 16).map_err(|_| too_large())?;
        // SAFETY: the layout's size is at least `align`, so not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(too_large)?;
        let shift = allocation.as_ptr().align_offset(align);
        // SAFETY: `shift < align`, and the allocation is `align` bytes longer than the region.
        let host = unsafe { allocation.add(shift) };
        let pages = (len / PAGE_SIZE) as usize;
        let code = (0..pages).map(|_| AtomicU8::new(0)).collect();
        Ok(Self { guest_addr, len, is_rom, host, allocation, layout, code })
    }

    /// Guest-physical address of the first byte; page-aligned.
    pub fn guest_addr(&self) -> u64 {
        self.guest_addr
    }

    /// Length in bytes; a multiple of the page size.
    #[allow(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the guest can only read it: its writes are accesses to a device.
    pub fn is_rom(&self) -> bool {
        self.is_rom
    }

    /// Host address of the first byte; page-aligned, valid for `len` bytes as long as the memory lives.
    pub fn host_ptr(&self) -> *mut u8 {
        self.host.as_ptr()
    }

    /// The code marks, one byte a page, nonzero where a backend keeps something derived from the page.
    ///
    /// A backend sets the mark, then a sequentially consistent fence, then reads the page: a write by another thread
    /// is then in what it reads, or is told.
    pub fn code_marks(&self) -> &[AtomicU8] {
        &self.code
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `allocation` came from `alloc_zeroed` with this layout and is freed once.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

/// The RAM of a VM, and its ROM if it has any.
pub struct GuestMemory {
    regions: Box<[Region]>,
    observer: OnceLock<Arc<dyn CodeWriteObserver>>,
}

impl GuestMemory {
    /// `size` bytes of RAM from address 0, split around the device window below 4 GiB.
    ///
    /// # Errors
    /// [`ErrorCode::MemorySize`] when `size` is zero, no multiple of 4096, or over [`MAX_RAM`];
    /// [`ErrorCode::OutOfMemory`] when the host has not got it.
    pub fn new(size: u64) -> Result<Arc<Self>> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) || size > MAX_RAM {
            return Err(Error::new(
                ErrorCode::MemorySize,
                format!(
                    "a guest cannot have {size} bytes of memory: give a multiple of {PAGE_SIZE} from {PAGE_SIZE} to {MAX_RAM}"
                ),
            ));
        }
        Self::with_regions(&Self::ranges(size))
    }

    /// The (address, length) pairs of `size` bytes of RAM, split around the device window below 4 GiB.
    pub fn ranges(size: u64) -> Vec<(u64, u64)> {
        let low = size.min(LOW_RAM_END);
        let high = (size > low).then(|| (HIGH_RAM_START, size - low));
        [(0, low)].into_iter().chain(high).collect()
    }

    /// RAM at the given (address, length) pairs.
    ///
    /// # Errors
    /// [`ErrorCode::MemorySize`] for an empty list, unaligned or empty ranges or a range that leaves the
    /// address space, [`ErrorCode::MemoryOverlap`] for overlapping ones, [`ErrorCode::OutOfMemory`].
    pub fn with_regions(ranges: &[(u64, u64)]) -> Result<Arc<Self>> {
        Self::with_rom(ranges, &[])
    }

    /// RAM and ROM at the given (address, length) pairs. The embedder can write ROM as it writes RAM; the guest cannot.
    ///
    /// # Errors
    /// As [`GuestMemory::with_regions`].
    pub fn with_rom(ram: &[(u64, u64)], rom: &[(u64, u64)]) -> Result<Arc<Self>> {
        let kinds = [(ram, false), (rom, true)];
        let mut ranges: Vec<_> = kinds
            .into_iter()
            .flat_map(|(ranges, is_rom)| ranges.iter().map(move |&(addr, len)| (addr, len, is_rom)))
            .collect();
        ranges.sort_unstable();
        if ranges.is_empty() {
            return Err(Error::new(ErrorCode::MemorySize, "a guest needs at least one memory region"));
        }
        for &(addr, len, _) in &ranges {
            let aligned = addr.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE);
            if !aligned || len == 0 || len > MAX_RAM || addr.checked_add(len).is_none_or(|end| end > 1 << 52)
            {
                return Err(Error::new(
                    ErrorCode::MemorySize,
                    format!(
                        "memory region {addr:#x}+{len:#x} is not page-aligned, empty, or beyond 52 address bits"
                    ),
                ));
            }
        }
        if let Some(w) = ranges.windows(2).find(|w| w[0].0 + w[0].1 > w[1].0) {
            return Err(Error::new(
                ErrorCode::MemoryOverlap,
                format!("memory regions {:#x}+{:#x} and {:#x}+{:#x} overlap", w[0].0, w[0].1, w[1].0, w[1].1),
            ));
        }
        let regions =
            ranges.iter().map(|&(addr, len, rom)| Region::new(addr, len, rom)).collect::<Result<_>>()?;
        Ok(Arc::new(Self { regions, observer: OnceLock::new() }))
    }

    /// Refuses memory that lies in `range`, where `what` is.
    ///
    /// # Errors
    /// [`ErrorCode::MemoryOverlap`].
    pub fn keep_clear(&self, range: Range<u64>, what: &str) -> Result<()> {
        let within = |region: &&Region| {
            region.guest_addr() < range.end && region.guest_addr() + region.len() > range.start
        };
        let Some(region) = self.regions.iter().find(within) else { return Ok(()) };
        Err(Error::new(
            ErrorCode::MemoryOverlap,
            format!(
                "{:#x} bytes of memory at {:#x} lie where {what}, {:#x} to {:#x}",
                region.len(),
                region.guest_addr(),
                range.start,
                range.end
            ),
        ))
    }

    /// The regions, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Bytes of RAM in all.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(Region::len).sum()
    }

    /// Names who is told of outside writes to code. One backend VM per memory.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when there is one already.
    pub fn observe_code_writes(&self, observer: Arc<dyn CodeWriteObserver>) -> Result<()> {
        self.observer.set(observer).map_err(|_| {
            Error::new(
                ErrorCode::InvalidArgument,
                "this memory already belongs to a VM; make one memory for each VM",
            )
        })
    }

    /// The region and offset that hold `addr`.
    pub fn find(&self, addr: u64) -> Option<(&Region, u64)> {
        self.regions
            .iter()
            .find(|r| addr.wrapping_sub(r.guest_addr) < r.len)
            .map(|r| (r, addr - r.guest_addr))
    }

    /// Whether `len` bytes at `addr` are RAM. An empty range is, if its address is.
    pub fn contains(&self, addr: u64, len: u64) -> bool {
        self.chunk(addr, len).is_ok()
    }

    /// The region and offset of `len` bytes at `addr`. A range over two regions is refused: regions that
    /// touch are the exception, and callers that build images stay inside of one.
    fn chunk(&self, addr: u64, len: u64) -> Result<(&Region, u64)> {
        match self.find(addr) {
            Some((region, offset)) if len <= region.len - offset => Ok((region, offset)),
            _ => Err(Error::new(
                ErrorCode::MemoryRange,
                format!("guest-physical range {addr:#x}+{len:#x} is not RAM"),
            )),
        }
    }

    /// Copies guest memory out.
    ///
    /// # Errors
    /// [`ErrorCode::MemoryRange`] when a byte of it is not RAM; nothing is copied then.
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<()> {
        let (region, offset) = self.chunk(addr, out.len() as u64)?;
        // SAFETY: `chunk` has checked the range, and `out` is host memory that no region overlaps.
        unsafe {
            std::ptr::copy_nonoverlapping(
                region.host.as_ptr().add(offset as usize),
                out.as_mut_ptr(),
                out.len(),
            );
        }
        Ok(())
    }

    /// Copies `data` into guest memory, and tells the backend where that changes code.
    ///
    /// # Errors
    /// [`ErrorCode::MemoryRange`] when a byte of it is not RAM; nothing is written then.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<()> {
        let (region, offset) = self.chunk(addr, data.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe {
            std::ptr::copy_nonoverlapping(
                data.as_ptr(),
                region.host.as_ptr().add(offset as usize),
                data.len(),
            );
        }
        self.wrote(region, offset, data.len() as u64);
        Ok(())
    }

    /// Sets `len` bytes to `byte`.
    ///
    /// # Errors
    /// [`ErrorCode::MemoryRange`] when a byte of it is not RAM; nothing is written then.
    pub fn fill(&self, addr: u64, byte: u8, len: u64) -> Result<()> {
        let (region, offset) = self.chunk(addr, len)?;
        // SAFETY: `chunk` has checked the range.
        unsafe { std::ptr::write_bytes(region.host.as_ptr().add(offset as usize), byte, len as usize) }
        self.wrote(region, offset, len);
        Ok(())
    }

    /// Tells the backend that someone wrote `len` bytes at `addr` by other means, such as a view that the
    /// embedder holds.
    ///
    /// # Errors
    /// [`ErrorCode::MemoryRange`] when a byte of it is not RAM.
    pub fn note_write(&self, addr: u64, len: u64) -> Result<()> {
        let (region, offset) = self.chunk(addr, len)?;
        self.wrote(region, offset, len);
        Ok(())
    }

    fn wrote(&self, region: &Region, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        // Its counterpart is in the backend, between the mark and the reading of the page; see `Region::code_marks`.
        fence(Ordering::SeqCst);
        let pages = offset / PAGE_SIZE..=(offset + len - 1) / PAGE_SIZE;
        for page in pages {
            if region.code[page as usize].load(Ordering::Acquire) != 0
                && let Some(observer) = self.observer.get()
            {
                observer.code_written(region.guest_addr + page * PAGE_SIZE);
            }
        }
    }

    /// Reads a little-endian number of `N` bytes.
    ///
    /// # Errors
    /// [`ErrorCode::MemoryRange`].
    pub fn read_array<const N: usize>(&self, addr: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.read(addr, &mut out)?;
        Ok(out)
    }
}

impl std::fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges = self.regions.iter().map(|r| format!("{:#x}+{:#x}", r.guest_addr, r.len));
        f.debug_list().entries(ranges).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn code(r: Result<impl std::fmt::Debug>) -> ErrorCode {
        r.unwrap_err().code()
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for size in [0, 1, 4095, 4097, MAX_RAM + PAGE_SIZE, u64::MAX] {
            assert_eq!(code(GuestMemory::new(size)), ErrorCode::MemorySize, "{size:#x}");
        }
        assert_eq!(code(GuestMemory::with_regions(&[])), ErrorCode::MemorySize);
        assert_eq!(code(GuestMemory::with_regions(&[(u64::MAX - 4095, 4096)])), ErrorCode::MemorySize);
        assert_eq!(code(GuestMemory::with_regions(&[(0, 8192), (4096, 4096)])), ErrorCode::MemoryOverlap);
    }

    #[test]
    fn ram_is_zero_aligned_and_split_around_the_device_window() {
        let m = GuestMemory::with_regions(&[(0, 4 << 20), (HIGH_RAM_START, 8192)]).unwrap();
        assert_eq!(m.size(), (4 << 20) + 8192);
        assert_eq!(m.regions()[0].host_ptr() as usize % (2 << 20), 0);
        assert_eq!(m.read_array::<8>(HIGH_RAM_START + 8184).unwrap(), [0; 8]);
        assert!(!m.contains(4 << 20, 1));
    }

    #[test]
    fn rom_is_told_from_ram_and_neither_overlaps() {
        let m = GuestMemory::with_rom(&[(0, 8192)], &[(0x1_0000, 4096)]).unwrap();
        let kinds: Vec<_> = m.regions().iter().map(|r| (r.guest_addr(), r.is_rom())).collect();
        assert_eq!(kinds, [(0, false), (0x1_0000, true)]);
        m.write(0x1_0000, &[1]).unwrap();
        assert_eq!(m.read_array::<1>(0x1_0000).unwrap(), [1], "the embedder fills it");
        assert_eq!(code(GuestMemory::with_rom(&[(0, 8192)], &[(4096, 4096)])), ErrorCode::MemoryOverlap);
    }

    #[test]
    fn places_that_are_somebody_elses_are_kept_clear() {
        let m = GuestMemory::with_regions(&[(0, 8192), (0x1_0000, 4096)]).unwrap();
        for (range, clear) in [
            (0x2000..0x1_0000, true),
            (0x1fff..0x2000, false),
            (0x1_0fff..0x2_0000, false),
            (0x1_1000..0x2_0000, true),
            (0..u64::MAX, false),
        ] {
            let refused = m.keep_clear(range.clone(), "a test is").err().map(|e| e.code());
            assert_eq!(refused, (!clear).then_some(ErrorCode::MemoryOverlap), "{range:x?}");
        }
    }

    #[test]
    fn every_host_can_map_a_region() {
        for len in [4096, 8192, 1 << 20, 4 << 20] {
            let m = GuestMemory::new(len).unwrap();
            assert!(m.regions()[0].host_ptr().addr().is_multiple_of(LARGEST_HOST_PAGE), "{len}");
        }
    }

    #[test]
    fn wild_ranges_are_refused_and_write_nothing() {
        let m = GuestMemory::new(8192).unwrap();
        assert_eq!(code(m.write(8190, &[1, 2, 3])), ErrorCode::MemoryRange);
        assert_eq!(m.read_array::<2>(8190).unwrap(), [0, 0]);
        for addr in [8192, u64::MAX, 1 << 63] {
            assert_eq!(code(m.read(addr, &mut [0])), ErrorCode::MemoryRange);
            assert_eq!(code(m.fill(addr, 1, u64::MAX)), ErrorCode::MemoryRange);
        }
    }

    #[test]
    fn only_writes_to_marked_pages_are_told() {
        struct Log(Mutex<Vec<u64>>);
        impl CodeWriteObserver for Log {
            fn code_written(&self, page: u64) {
                self.0.lock().unwrap().push(page);
            }
        }
        let m = GuestMemory::new(5 * PAGE_SIZE).unwrap();
        let log = Arc::new(Log(Mutex::new(vec![])));
        m.observe_code_writes(log.clone()).unwrap();
        m.regions()[0].code_marks()[1].store(1, Ordering::Release);
        m.regions()[0].code_marks()[3].store(1, Ordering::Release);
        m.write(0, &[1; 4096]).unwrap();
        m.write(4095, &[1, 2]).unwrap();
        m.fill(2 * PAGE_SIZE, 7, 2 * PAGE_SIZE).unwrap();
        m.note_write(3 * PAGE_SIZE + 5, 1).unwrap();
        m.write(PAGE_SIZE, &[]).unwrap();
        assert_eq!(*log.0.lock().unwrap(), [PAGE_SIZE, 3 * PAGE_SIZE, 3 * PAGE_SIZE]);
        assert_eq!(code(m.observe_code_writes(log)), ErrorCode::InvalidArgument);
    }
}
