//! An address space of devices: the I/O ports, or guest-physical memory outside of RAM.
//!
//! A [doorbell](Bus::map_doorbell) lies over the ranges: the writes that ring it are its own, and all others are for whoever has
//! the range below it, if anybody has.
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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use squib_core::{
    AddressSpace, Attachment, CoalescedWrites, Doorbell, DoorbellRegister, Error, ErrorCode, Result, Vm,
};

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

/// A doorbell on a bus, and how often it was rung.
pub struct Bell {
    name: Box<str>,
    register: DoorbellRegister,
    rings: AtomicU64,
    doorbell: Arc<dyn Doorbell>,
}

impl Bell {
    /// What it is called in statistics and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which writes ring it.
    pub fn register(&self) -> &DoorbellRegister {
        &self.register
    }

    /// Rings so far, those that the backend has taken note of and not told yet excepted.
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::Relaxed)
    }
}

impl Doorbell for Bell {
    fn ring(&self, times: u64) {
        self.rings.fetch_add(times, Ordering::Relaxed);
        self.doorbell.ring(times);
    }
}

/// A doorbell that is mapped. Dropping it takes the doorbell away: writes that begin later find the range below, and earlier ones
/// have been heard of.
#[must_use = "a doorbell goes with its mapping"]
pub struct DoorbellMapping {
    bus: Weak<Bus>,
    bell: Arc<Bell>,
    attachment: Option<Attachment>,
}

impl DoorbellMapping {
    /// The doorbell.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

impl Drop for DoorbellMapping {
    fn drop(&mut self) {
        // The backend gives it back first, so that it is nobody's twice: a write in between still rings, by an exit.
        self.attachment.take();
        let Some(bus) = self.bus.upgrade() else { return };
        let mut contents = bus.lock();
        let others = contents.bells.iter().filter(|bell| !Arc::ptr_eq(bell, &self.bell));
        contents.bells = others.cloned().collect();
        bus.publish();
    }
}

/// Addresses whose writes the backend may gather.
struct Gathered {
    base: u64,
    last: u64,
    /// Where the range of their device begins.
    device: u64,
    _attachment: Option<Attachment>,
}

/// Who hears of gathered writes to a range, and the range, which counts them.
struct GatheredWrites {
    mapping: Arc<Mapping>,
    writes: Arc<dyn CoalescedWrites>,
}

impl CoalescedWrites for GatheredWrites {
    fn write(&self, addr: u64, width: u8, value: u64) {
        self.mapping.count(true);
        self.writes.write(addr, width, value);
    }
}

/// What is on a bus, replaced whole where it changes.
#[derive(Clone, Default)]
struct Contents {
    map: Arc<Map>,
    /// Ascending by address.
    bells: Arc<[Arc<Bell>]>,
}

/// An address space of devices.
pub struct Bus {
    space: AddressSpace,
    last: u64,
    contents: Mutex<Contents>,
    generation: AtomicU64,
    gathered: Mutex<Vec<Gathered>>,
    /// Whose vCPUs make the accesses.
    vm: OnceLock<Weak<dyn Vm>>,
}

impl Bus {
    /// The 65,536 I/O ports.
    pub fn ports() -> Arc<Self> {
        Self::new(AddressSpace::Ports, 0xffff)
    }

    /// Guest-physical memory.
    pub fn memory() -> Arc<Self> {
        Self::new(AddressSpace::Memory, u64::MAX)
    }

    fn new(space: AddressSpace, last: u64) -> Arc<Self> {
        let (contents, generation) = (Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { space, last, contents, generation, gathered: Mutex::default(), vm: OnceLock::new() })
    }

    /// Lets the backend of `vm`, whose vCPUs use this bus, take over doorbells and gather writes from now on. Only the first VM
    /// counts.
    pub fn belongs_to(&self, vm: &Arc<dyn Vm>) {
        self.vm.get_or_init(|| Arc::downgrade(vm));
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
        let mut contents = self.lock();
        let map = &contents.map;
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
        contents.map = ranges.into();
        self.publish();
        Ok(())
    }

    /// Takes away the range that begins at `base`. Reserved ranges stay.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when no device's range begins there.
    pub fn unmap(&self, base: u64) -> Result<()> {
        let mut contents = self.lock();
        let map = &contents.map;
        let Some(at) = map.iter().position(|m| m.base == base && !matches!(m.target, Target::Reserved))
        else {
            return Err(Error::new(ErrorCode::InvalidArgument, format!("no device is mapped at {base:#x}")));
        };
        self.gathered().retain(|gathered| gathered.device != base);
        let mut ranges = map.to_vec();
        ranges.remove(at);
        contents.map = ranges.into();
        self.publish();
        Ok(())
    }

    /// Lets the backend gather writes to the `len` addresses from `base`, all of one device, where it can: a write is then no exit, and
    /// `writes` gets it before any later exit of its vCPU. On other backends, and where the backend has no room, the device itself
    /// does, so both must come to the same. It ends when the device is unmapped, and what has not been delivered by then is lost.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when no device has all of the range; [`ErrorCode::DeviceOverlap`] when a doorbell is there, or
    /// writes are gathered there already; what the backend says.
    pub fn coalesce(&self, base: u64, len: u64, writes: Arc<dyn CoalescedWrites>) -> Result<()> {
        let refuse = |code, why: &str| {
            Err(Error::new(code, format!("cannot gather writes at {base:#x}, length {len:#x}: {why}")))
        };
        let contents = self.lock();
        let at = contents.map.partition_point(|m| m.last < base);
        let owner = contents.map.get(at).filter(|m| m.offset(base, len).is_some());
        let Some(mapping) = owner.filter(|m| !matches!(m.target, Target::Reserved)) else {
            return refuse(ErrorCode::InvalidArgument, "no device has all of it");
        };
        // The device's range has all of it, so this is inside.
        let last = base + (len - 1);
        let over = |bell: &Arc<Bell>| bell.register.addr() <= last && bell.register.last() >= base;
        if contents.bells.iter().any(over) || self.gathers(base, last) {
            return refuse(ErrorCode::DeviceOverlap, "a doorbell is there, or it is done already");
        }
        let _attachment = match self.vm.get().and_then(Weak::upgrade) {
            Some(vm) => {
                let writes: Arc<dyn CoalescedWrites> =
                    Arc::new(GatheredWrites { mapping: mapping.clone(), writes });
                vm.coalesce_writes(self.space, (base, len), &writes)?
            }
            None => None,
        };
        self.gathered().push(Gathered { base, last, device: mapping.base, _attachment });
        Ok(())
    }

    fn gathers(&self, base: u64, last: u64) -> bool {
        self.gathered().iter().any(|gathered| gathered.base <= last && gathered.last >= base)
    }

    fn gathered(&self) -> MutexGuard<'_, Vec<Gathered>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a doorbell of `width` bytes at `addr`, for writes of `value` where there is one; as [`DoorbellRegister::new`].
    /// `doorbell` hears of each that matches, and the guest goes on. On a backend that takes doorbells over there is no exit, and
    /// rings may come later and several at once: in no order with other accesses.
    ///
    /// A device may have the range below: it gets reads, and writes that do not match.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when that is no register; [`ErrorCode::DeviceOverlap`] when a write would ring another
    /// doorbell too, or the address is RAM or the backend's; what the backend says.
    pub fn map_doorbell(
        self: &Arc<Self>,
        name: &str,
        (addr, width, value): (u64, u8, Option<u64>),
        doorbell: Arc<dyn Doorbell>,
    ) -> Result<DoorbellMapping> {
        let register = DoorbellRegister::new(self.space, addr, width, value)?;
        let refuse = |why: String| {
            Err(Error::new(ErrorCode::DeviceOverlap, format!("cannot map {name} at {addr:#x}: {why}")))
        };
        let mut contents = self.lock();
        if let Some(other) = contents.bells.iter().find(|bell| bell.register.conflicts(&register)) {
            return refuse(format!("{} rings by the same writes", other.name));
        }
        let at = contents.map.partition_point(|m| m.last < addr);
        let reserved = |m: &&Arc<Mapping>| m.base <= register.last() && matches!(m.target, Target::Reserved);
        if let Some(other) = contents.map.get(at).filter(reserved) {
            return refuse(format!("{} is at {:#x}–{:#x}", other.name, other.base, other.last));
        }
        if self.gathers(addr, register.last()) {
            return refuse("writes to it are gathered".into());
        }
        let bell = Arc::new(Bell { name: name.into(), register, rings: AtomicU64::new(0), doorbell });
        let attachment = match self.vm.get().and_then(Weak::upgrade) {
            Some(vm) => vm.attach_doorbell(&register, &(bell.clone() as Arc<dyn Doorbell>))?,
            None => None,
        };
        let mut bells = contents.bells.to_vec();
        bells.insert(bells.partition_point(|b| b.register.addr() < addr), bell.clone());
        contents.bells = bells.into();
        self.publish();
        Ok(DoorbellMapping { bus: Arc::downgrade(self), bell, attachment })
    }

    /// The ranges there are now, ascending.
    pub fn mappings(&self) -> Arc<[Arc<Mapping>]> {
        self.lock().map.clone()
    }

    /// The doorbells there are now.
    pub fn bells(&self) -> Arc<[Arc<Bell>]> {
        self.lock().bells.clone()
    }

    /// A vCPU's view of this bus.
    pub fn lookup(self: &Arc<Self>) -> Lookup {
        // The generation is read first: a change in between is then seen twice, not missed.
        let generation = self.generation.load(Ordering::Acquire);
        Lookup { contents: self.lock().clone(), bus: self.clone(), generation, recent: 0 }
    }

    /// Tells vCPUs that the contents have changed; under their lock.
    fn publish(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // The contents are replaced whole, so they are sound even if a thread died while it held the lock.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One vCPU's view of a [`Bus`].
pub struct Lookup {
    bus: Arc<Bus>,
    contents: Contents,
    generation: u64,
    /// Index of the range that was hit last: a guest tends to stay with one device for a while.
    recent: usize,
}

impl Lookup {
    /// The range that an access of `width` bytes at `addr` lies wholly inside, and the access's offset in it.
    /// An access that leaves a range, on either side, belongs to nobody.
    #[inline]
    pub fn find(&mut self, addr: u64, width: u8) -> Option<(&Mapping, u64)> {
        self.refresh();
        self.locate(addr, width)
    }

    /// Finds a range among those that were there at the last refresh.
    #[inline]
    pub(crate) fn locate(&mut self, addr: u64, width: u8) -> Option<(&Mapping, u64)> {
        let width = u64::from(width);
        let offset = match self.contents.map.get(self.recent).and_then(|m| m.offset(addr, width)) {
            Some(offset) => offset,
            None => self.search(addr, width)?,
        };
        self.contents.map.get(self.recent).map(|mapping| (&**mapping, offset))
    }

    /// Rings the doorbell that a write is for, of those that were there at the last refresh; says whether there is one.
    #[inline]
    pub(crate) fn ring(&self, addr: u64, width: u8, value: u64) -> bool {
        !self.contents.bells.is_empty() && self.ring_one(addr, width, value)
    }

    #[inline(never)]
    fn ring_one(&self, addr: u64, width: u8, value: u64) -> bool {
        let bells = &self.contents.bells;
        let there = bells.iter().skip(bells.partition_point(|bell| bell.register.addr() < addr));
        let mut there = there.take_while(|bell| bell.register.addr() == addr);
        there.find(|bell| bell.register.rings(addr, width, value)).inspect(|bell| bell.ring(1)).is_some()
    }

    /// Sees what has changed on the bus.
    #[inline]
    pub(crate) fn refresh(&mut self) {
        let generation = self.bus.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.renew(generation);
        }
    }

    #[cold]
    fn renew(&mut self, generation: u64) {
        self.contents = self.bus.lock().clone();
        self.generation = generation;
    }

    /// Finds an access that is not the last one's range's, and remembers whose it is. Not inlined, so that the code of those that are
    /// lies together.
    #[inline(never)]
    fn search(&mut self, addr: u64, width: u64) -> Option<u64> {
        let at = self.contents.map.partition_point(|m| m.last < addr);
        let offset = self.contents.map.get(at)?.offset(addr, width)?;
        self.recent = at;
        Some(offset)
    }
}
