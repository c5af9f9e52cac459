//! An address space of devices: the I/O ports, or guest-physical memory outside of RAM.
//!
//! The ranges live in an immutable, sorted map behind an `Arc`. Changing them builds a new map and raises a
//! generation number; each vCPU looks addresses up in its own [`Lookup`], which takes the new map when it
//! sees that the number has moved. So a look-up takes no lock, and none is held while a device handles an
//! access.
//!
//! What [`Bus::map`] or [`Bus::unmap`] changed holds for every access that begins after it returned. An access
//! under way finishes with the device it began with, so a device may unmap itself. It is dropped when no vCPU
//! holds the old map any more: each lets go of it at its next access.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use squib_core::{Error, ErrorCode, Result};

use crate::device::Device;

/// Who answers for a range of addresses.
#[derive(Clone)]
pub enum Target {
    /// A device in Rust.
    Device(Arc<dyn Device>),
    /// A device that the caller of the run answers for: see [`Host`](crate::Host).
    External(u32),
    /// RAM, or something inside the backend. Nothing can be mapped here, and an access that comes out all
    /// the same counts as unclaimed.
    Reserved,
}

/// A range of addresses and who answers for it.
pub struct Mapping {
    name: Box<str>,
    base: u64,
    /// Last address, so that a range may end with the address space.
    last: u64,
    target: Target,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Mapping {
    /// What the range is called in statistics and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Last address.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Who answers.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Reads routed here so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Writes routed here so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, write: bool) {
        let counter = if write { &self.writes } else { &self.reads };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The offset of an access of `width` bytes at `addr`, if it lies wholly in the range.
    fn offset(&self, addr: u64, width: u64) -> Option<u64> {
        // What is below the base wraps round to beyond the end.
        let (offset, end) = (addr.wrapping_sub(self.base), self.last - self.base);
        (offset <= end && width.wrapping_sub(1) <= end - offset).then_some(offset)
    }
}

/// Ranges that do not overlap, ascending.
type Map = [Arc<Mapping>];

/// An address space of devices.
pub struct Bus {
    last: u64,
    map: Mutex<Arc<Map>>,
    generation: AtomicU64,
}

impl Bus {
    /// The 65,536 I/O ports.
    pub fn ports() -> Arc<Self> {
        Self::new(0xffff)
    }

    /// Guest-physical memory.
    pub fn memory() -> Arc<Self> {
        Self::new(u64::MAX)
    }

    fn new(last: u64) -> Arc<Self> {
        Arc::new(Self { last, map: Mutex::new(Arc::new([])), generation: AtomicU64::new(0) })
    }

    /// Gives the `len` addresses from `base` to `target`. `name` is for statistics and messages.
    ///
    /// # Errors
    /// [`ErrorCode::DeviceOverlap`] when the range is empty, leaves the address space, or overlaps another; nothing
    /// has changed then.
    pub fn map(&self, name: &str, base: u64, len: u64, target: Target) -> Result<()> {
        let refuse = |why: String| {
            Err(Error::new(
                ErrorCode::DeviceOverlap,
                format!("cannot map {name} at {base:#x}, length {len:#x}: {why}"),
            ))
        };
        let Some(last) =
            len.checked_sub(1).and_then(|l| base.checked_add(l)).filter(|last| *last <= self.last)
        else {
            return refuse(format!("the range is empty or goes beyond {:#x}", self.last));
        };
        let mut map = self.lock();
        let at = map.partition_point(|m| m.last < base);
        if let Some(other) = map.get(at).filter(|m| m.base <= last) {
            return refuse(format!("{} is at {:#x}–{:#x}", other.name, other.base, other.last));
        }
        let new = Mapping {
            name: name.into(),
            base,
            last,
            target,
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        };
        let mut ranges = map.to_vec();
        ranges.insert(at, Arc::new(new));
        self.publish(&mut map, ranges);
        Ok(())
    }

    /// Takes away the range that begins at `base`. Reserved ranges stay.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when no device's range begins there.
    pub fn unmap(&self, base: u64) -> Result<()> {
        let mut map = self.lock();
        let Some(at) = map.iter().position(|m| m.base == base && !matches!(m.target, Target::Reserved))
        else {
            return Err(Error::new(ErrorCode::InvalidArgument, format!("no device is mapped at {base:#x}")));
        };
        let mut ranges = map.to_vec();
        ranges.remove(at);
        self.publish(&mut map, ranges);
        Ok(())
    }

    /// The ranges there are now, ascending.
    pub fn mappings(&self) -> Arc<[Arc<Mapping>]> {
        self.lock().clone()
    }

    /// A vCPU's view of this bus.
    pub fn lookup(self: &Arc<Self>) -> Lookup {
        // The generation is read first: a change in between is then seen twice, not missed.
        let generation = self.generation.load(Ordering::Acquire);
        Lookup { map: self.mappings(), bus: self.clone(), generation, recent: 0 }
    }

    fn publish(&self, map: &mut Arc<Map>, ranges: Vec<Arc<Mapping>>) {
        *map = ranges.into();
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Map>> {
        // The map is replaced whole, so it is sound even if a thread died while it held the lock.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One vCPU's view of a [`Bus`].
pub struct Lookup {
    bus: Arc<Bus>,
    map: Arc<Map>,
    generation: u64,
    /// Index of the range that was hit last: a guest tends to stay with one device for a while.
    recent: usize,
}

impl Lookup {
    /// The range that an access of `width` bytes at `addr` lies wholly inside, and the access's offset in it.
    /// An access that leaves a range, on either side, belongs to nobody.
    #[inline]
    pub fn find(&mut self, addr: u64, width: u8) -> Option<(&Mapping, u64)> {
        let generation = self.bus.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.map = self.bus.mappings();
            self.generation = generation;
        }
        let width = u64::from(width);
        let offset = match self.map.get(self.recent).and_then(|m| m.offset(addr, width)) {
            Some(offset) => offset,
            None => self.search(addr, width)?,
        };
        self.map.get(self.recent).map(|mapping| (&**mapping, offset))
    }

    /// Finds an access that is not the last one's range's, and remembers whose it is.
    fn search(&mut self, addr: u64, width: u64) -> Option<u64> {
        let at = self.map.partition_point(|m| m.last < addr);
        let offset = self.map.get(at)?.offset(addr, width)?;
        self.recent = at;
        Some(offset)
    }
}
