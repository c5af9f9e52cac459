//! Linear memory: the inline hit path, and everything that is not a hit.
#![allow(unsafe_code, reason = "the hit path reads and writes guest RAM through its host address")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use squib_core::memory::Region;
use squib_core::x86::bits::{CR0_AM, CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT, RFLAGS_AC};
use squib_x86::address::{linear, linear_aligned};
use squib_x86::state::sreg;
use squib_x86::system::debug::{self, Watched};
use squib_x86::system::is_canonical;
use squib_x86::system::paging::{Access, Page, Paging, PhysMem};
use squib_x86::{CodeMode, Exception, Size, Stop};

use crate::code_segment::CodeSegment;
use crate::cpu::{Cpu, Halted, rights};
use crate::ram;
use crate::replay;
use crate::tlb::{self, Entries};

/// Physical memory for the page walk.
pub(crate) struct WalkMemory<'a>(pub(crate) &'a [Region]);

impl WalkMemory<'_> {
    #[inline(always)]
    fn host(&self, addr: u64, len: u64) -> Option<*mut u8> {
        self.find(addr, len).map(|(host, _)| host)
    }

    /// The same of RAM only.
    fn host_for_write(&self, addr: u64, len: u64) -> Option<*mut u8> {
        self.find(addr, len).filter(|(_, is_rom)| !is_rom).map(|(host, _)| host)
    }

    #[inline(always)]
    fn find(&self, addr: u64, len: u64) -> Option<(*mut u8, bool)> {
        self.0.iter().find_map(|r| {
            let offset = addr.wrapping_sub(r.guest_addr());
            // SAFETY: the offset is inside of the region.
            (offset < r.len() && r.len() - offset >= len)
                .then(|| (unsafe { r.host_ptr().add(offset as usize) }, r.is_rom()))
        })
    }
}

impl PhysMem for WalkMemory<'_> {
    #[inline(always)]
    fn load_u32(&mut self, addr: u64) -> u32 {
        // SAFETY: `host` has found 4 bytes there.
        self.host(addr & !3, 4).map_or(u32::MAX, |p| unsafe { ram::read(p, Size::B4) } as u32)
    }

    #[inline(always)]
    fn load_u64(&mut self, addr: u64) -> u64 {
        // SAFETY: `host` has found 8 bytes there.
        self.host(addr & !7, 8).map_or(u64::MAX, |p| unsafe { ram::read(p, Size::B8) })
    }

    fn exchange_u32(&mut self, addr: u64, old: u32, new: u32) -> bool {
        let Some(p) = self.host_for_write(addr & !3, 4) else { return true };
        // SAFETY: 4 aligned bytes of RAM, which vCPUs and devices only access as whole words or by plain copies.
        let word = unsafe { AtomicU32::from_ptr(p.cast()) };
        word.compare_exchange(old.to_le(), new.to_le(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn exchange_u64(&mut self, addr: u64, old: u64, new: u64) -> bool {
        let Some(p) = self.host_for_write(addr & !7, 8) else { return true };
        // SAFETY: as in `exchange_u32`.
        let word = unsafe { AtomicU64::from_ptr(p.cast()) };
        word.compare_exchange(old.to_le(), new.to_le(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// Where a physical page is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Physical {
    /// RAM, or ROM that is not being written: host address of the page, and whether decoded code lies in it.
    Ram { host: *mut u8, code: bool },
    /// Nothing of ours: a device, or nobody.
    Device,
}

const PAGE: u64 = 4096;
const RSP: usize = 4;

/// Bytes up to the next page.
const fn to_page_end(addr: u64) -> u64 {
    PAGE - (addr & (PAGE - 1))
}

impl Cpu {
    fn entries(&self, write: bool) -> &Entries {
        // SAFETY: both point into `self.tlbs`, see `Cpu::refresh_rights`.
        unsafe { if write { &*self.write } else { &*self.read } }
    }

    /// Loads `size` bytes.
    #[inline(always)]
    pub(crate) fn load(&mut self, addr: u64, size: Size) -> Result<u64, Halted> {
        match tlb::lookup(self.entries(false), addr, size.bytes()) {
            // SAFETY: the translation is of a whole page of RAM, and the access lies in it.
            Some(addend) => Ok(unsafe { ram::read(addr.wrapping_add(addend) as usize as *const u8, size) }),
            None => self.load_slow(addr, size),
        }
    }

    /// Stores `size` bytes.
    #[inline(always)]
    pub(crate) fn store(&mut self, addr: u64, size: Size, v: u64) -> Result<(), Halted> {
        match tlb::lookup(self.entries(true), addr, size.bytes()) {
            Some(addend) => {
                // SAFETY: as in `load`; pages that hold code are not in the write array.
                unsafe { ram::write(addr.wrapping_add(addend) as usize as *mut u8, size, v) }
                Ok(())
            }
            None => self.store_slow(addr, size, v),
        }
    }

    /// The host address of `len` bytes that may be written, where that is known.
    #[inline(always)]
    pub(crate) fn host_for_write(&self, addr: u64, len: u64) -> Option<*mut u8> {
        tlb::lookup(self.entries(true), addr, len).map(|addend| addr.wrapping_add(addend) as usize as *mut u8)
    }

    /// The host address of `len` bytes that may be read, where that is known.
    #[inline(always)]
    pub(crate) fn host_for_read(&self, addr: u64, len: u64) -> Option<*const u8> {
        tlb::lookup(self.entries(false), addr, len)
            .map(|addend| addr.wrapping_add(addend) as usize as *const u8)
    }

    /// Loads 16 bytes.
    #[inline(always)]
    pub(crate) fn load128(&mut self, addr: u64) -> Result<u128, Halted> {
        if let Some(host) = self.host_for_read(addr, 16) {
            // SAFETY: `host_for_read` has found 16 bytes of RAM.
            return Ok(u128::from_le(unsafe { host.cast::<u128>().read_unaligned() }));
        }
        self.load128_slow(addr).map_err(|stop| self.halt(stop))
    }

    /// Stores 16 bytes.
    #[inline(always)]
    pub(crate) fn store128(&mut self, addr: u64, v: u128) -> Result<(), Halted> {
        if let Some(host) = self.host_for_write(addr, 16) {
            // SAFETY: `host_for_write` has found 16 bytes of RAM.
            unsafe { host.cast::<u128>().write_unaligned(v.to_le()) };
            return Ok(());
        }
        self.store128_slow(addr, v).map_err(|stop| self.halt(stop))
    }

    // Alignment checks (Intel SDM vol. 3, 6.15 "Interrupt 17") leave 16-byte accesses that need not be aligned alone.

    #[cold]
    #[inline(never)]
    fn load128_slow(&mut self, addr: u64) -> Result<u128, Stop> {
        self.check_end(addr, 16)?;
        let access = self.access(false);
        let low = self.read_with(addr, Size::B8, access)?;
        let high = self.read_with(self.after(addr, 8), Size::B8, access)?;
        Ok(u128::from(high) << 64 | u128::from(low))
    }

    #[cold]
    #[inline(never)]
    fn store128_slow(&mut self, addr: u64, v: u128) -> Result<(), Stop> {
        let access = self.access(true);
        self.probe_with(addr, 16, access)?;
        self.write_with(addr, Size::B8, v as u64, access)?;
        self.write_with(self.after(addr, 8), Size::B8, (v >> 64) as u64, access)
    }

    /// The access as the page walk wants it, for the rights in force.
    fn access(&self, write: bool) -> Access {
        let user = self.state.cpl == 3;
        Access { write, fetch: false, user, smap_open: !user && self.state.sys_flags & RFLAGS_AC != 0 }
    }

    /// Translates one address.
    pub(crate) fn translate(&mut self, addr: u64, access: Access) -> Result<Page, Exception> {
        let addr = self.wrap(addr)?;
        self.paging.walk(&mut WalkMemory(self.memory.regions()), addr, access)
    }

    /// Checks the form of a linear address: canonical in long mode, 32 bits wide elsewhere.
    #[inline(always)]
    fn wrap(&self, addr: u64) -> Result<u64, Exception> {
        if self.state.mode == CodeMode::Bits64 || self.state.long_mode() {
            if is_canonical(addr) { Ok(addr) } else { Err(Exception::GP0) }
        } else {
            Ok(addr & 0xffff_ffff)
        }
    }

    /// The address `n` bytes behind `addr`, which starts again at 0 where addresses have 32 bits. Tables of the system
    /// may lie above that also while compatibility mode is on.
    fn after(&self, addr: u64, n: u64) -> u64 {
        let narrow = self.state.mode != CodeMode::Bits64 && addr >> 32 == 0;
        addr.wrapping_add(n) & if narrow { 0xffff_ffff } else { u64::MAX }
    }

    /// Checks the form of the last address of an access, which comes before every page fault.
    fn check_end(&self, addr: u64, len: u64) -> Result<(), Exception> {
        self.wrap(addr)?;
        self.wrap(addr.wrapping_add(len.saturating_sub(1))).map(drop)
    }

    /// What is at a physical address for a read, or a `write`.
    pub(crate) fn physical(&self, phys: u64, write: bool) -> Physical {
        for r in self.memory.regions() {
            let offset = (phys & !(PAGE - 1)).wrapping_sub(r.guest_addr());
            if offset < r.len() && !(write && r.is_rom()) {
                let code = r.code_marks()[(offset / PAGE) as usize].load(Ordering::Relaxed) != 0;
                // SAFETY: the offset is inside of the region.
                return Physical::Ram { host: unsafe { r.host_ptr().add(offset as usize) }, code };
            }
        }
        Physical::Device
    }

    /// Translates for a data access, enters the page in the TLB where it may be, and gives the physical address.
    fn resolve(&mut self, addr: u64, access: Access) -> Result<(u64, Physical), Exception> {
        let page = self.translate(addr, access)?;
        let phys = page.address(if self.state.long_mode() { addr } else { addr & 0xffff_ffff });
        let at = self.physical(phys, access.write);
        if let Physical::Ram { host, code } = at
            && access == self.access(access.write)
            && self.rights != rights::ALIGNED
            && !(self.watching && debug::watches_page(&self.state, addr))
        {
            let set = &mut self.tlbs[self.rights];
            let addr = if self.state.long_mode() { addr } else { addr & 0xffff_ffff };
            set.read.insert(addr, host as usize as u64, &page);
            if access.write && !code {
                set.write.insert(addr, host as usize as u64, &page);
            }
        }
        Ok((phys, at))
    }

    /// A load that missed the TLB, crosses a page, or reads a device.
    #[cold]
    #[inline(never)]
    pub(crate) fn load_slow(&mut self, addr: u64, size: Size) -> Result<u64, Halted> {
        let access = self.access(false);
        self.check_alignment(addr, size.bytes())
            .and_then(|()| self.read_with(addr, size, access))
            .map_err(|stop| self.halt(stop))
    }

    /// A store that missed the TLB, crosses a page, writes code, or writes a device.
    #[cold]
    #[inline(never)]
    pub(crate) fn store_slow(&mut self, addr: u64, size: Size, v: u64) -> Result<(), Halted> {
        let access = self.access(true);
        self.check_alignment(addr, size.bytes())
            .and_then(|()| self.write_with(addr, size, v, access))
            .map_err(|stop| self.halt(stop))
    }

    /// Raises #AC where alignment checks are on. It comes before every page fault and after the checks of the address
    /// itself, as Intel's processors have it.
    pub(crate) fn check_alignment(&self, addr: u64, len: u64) -> Result<(), Stop> {
        if self.rights != rights::ALIGNED || addr & (len - 1) == 0 {
            return Ok(());
        }
        self.wrap(addr)?;
        Err(Exception::ac(0).into())
    }

    /// Checks `len` bytes (1, 2, 4 or 8) for writing.
    #[cold]
    #[inline(never)]
    pub(crate) fn check_write(&mut self, addr: u64, len: u64) -> Result<(), Halted> {
        let access = self.access(true);
        self.check_alignment(addr, len)
            .and_then(|()| self.probe_with(addr, len, access))
            .map_err(|stop| self.halt(stop))
    }

    /// Reads with these rights.
    pub(crate) fn read_with(&mut self, addr: u64, size: Size, access: Access) -> Result<u64, Stop> {
        let here = to_page_end(addr);
        self.check_end(addr, size.bytes())?;
        let (phys, at) = self.resolve(addr, access)?;
        if here >= size.bytes() {
            self.watch(Watched::Read, addr, size);
            return self.read_physical(phys, at, size.bytes());
        }
        let next = self.after(addr, here);
        let (phys2, at2) = self.resolve(next, access)?;
        self.watch(Watched::Read, addr, size);
        let low = self.read_physical(phys, at, here)?;
        let high = self.read_physical(phys2, at2, size.bytes() - here)?;
        Ok(low | high << (8 * here))
    }

    /// Writes with these rights.
    pub(crate) fn write_with(&mut self, addr: u64, size: Size, v: u64, access: Access) -> Result<(), Stop> {
        let here = to_page_end(addr);
        self.check_end(addr, size.bytes())?;
        let (phys, at) = self.resolve(addr, access)?;
        if here >= size.bytes() {
            self.watch(Watched::Write, addr, size);
            return self.write_physical(phys, at, size.bytes(), v);
        }
        let next = self.after(addr, here);
        let (phys2, at2) = self.resolve(next, access)?;
        self.watch(Watched::Write, addr, size);
        self.write_physical(phys, at, here, v)?;
        self.write_physical(phys2, at2, size.bytes() - here, v >> (8 * here))
    }

    /// Notes an access to watched data; pages that hold any are not in the TLB.
    fn watch(&mut self, watched: Watched, addr: u64, size: Size) {
        if self.watching {
            self.hits |= debug::conditions(&self.state, watched, addr, size.bytes());
        }
    }

    /// Checks `len` bytes for writing with these rights.
    pub(crate) fn probe_with(&mut self, addr: u64, len: u64, access: Access) -> Result<(), Stop> {
        self.check_end(addr, len)?;
        self.resolve(addr, access)?;
        let mut done = to_page_end(addr);
        while done < len {
            self.resolve(self.after(addr, done), access)?;
            done += PAGE;
        }
        Ok(())
    }

    fn read_physical(&mut self, phys: u64, at: Physical, len: u64) -> Result<u64, Stop> {
        match at {
            Physical::Ram { host, .. } => {
                let mut bytes = [0; 8];
                let offset = (phys & (PAGE - 1)) as usize;
                for (i, b) in bytes.iter_mut().take(len as usize).enumerate() {
                    // SAFETY: `len` bytes from `phys` lie in this page of RAM.
                    *b = unsafe { host.add(offset + i).read() };
                }
                Ok(u64::from_le_bytes(bytes))
            }
            Physical::Device => {
                self.ask(replay::Access { addr: phys, width: len as u8, ..Default::default() })
            }
        }
    }

    fn write_physical(&mut self, phys: u64, at: Physical, len: u64, v: u64) -> Result<(), Stop> {
        match at {
            Physical::Ram { host, code } => {
                let offset = (phys & (PAGE - 1)) as usize;
                for (i, b) in v.to_le_bytes().iter().take(len as usize).enumerate() {
                    // SAFETY: `len` bytes from `phys` lie in this page of RAM.
                    unsafe { host.add(offset + i).write(*b) };
                }
                if code {
                    self.code_written(phys, len);
                }
                Ok(())
            }
            Physical::Device => {
                let mask = if len >= 8 { u64::MAX } else { (1 << (8 * len)) - 1 };
                let access = replay::Access {
                    addr: phys,
                    port: false,
                    width: len as u8,
                    write: true,
                    value: v & mask,
                };
                self.ask(access).map(drop)
            }
        }
    }

    /// An access to something that is not RAM, whose answer the instruction stops for.
    pub(crate) fn ask(&mut self, access: replay::Access) -> Result<u64, Stop> {
        if let Some(value) = self.replay.access(access) {
            return Ok(value);
        }
        if self.replay.is_full() {
            self.unsupported = Some("an instruction with more than 8 accesses to devices");
            return Err(Exception::UD.into());
        }
        Err(Stop::Exit)
    }

    /// The answer of the interrupt controllers to an access, where it is theirs to give.
    pub(crate) fn ask_controllers(&mut self, access: &replay::Access) -> Option<u64> {
        if access.port {
            return None;
        }
        let answer = self.platform.memory_access(access, self.clock.now_ns())?;
        self.note_interrupts();
        Some(answer)
    }

    /// Translates the linear address of code to fetch.
    pub(crate) fn fetch_address(&mut self, addr: u64) -> Result<u64, Exception> {
        let entries = self.tlbs[self.rights].fetch.entries();
        if let Some(addend) = tlb::lookup(entries, addr, 1) {
            return Ok(addr.wrapping_add(addend));
        }
        let user = self.state.cpl == 3;
        let access = Access { write: false, fetch: true, user, smap_open: false };
        let page = self.translate(addr, access)?;
        let phys = page.address(addr);
        // The fetch array gives guest-physical addresses: code is found by those.
        self.tlbs[self.rights].fetch.insert(addr, phys & !(PAGE - 1), &page);
        Ok(phys)
    }

    /// Recomputes what depends on privilege, paging and decoding mode.
    pub(crate) fn refresh_mode(&mut self) {
        self.state.update_mode();
        self.paging = Paging::of(&self.state, &self.model);
        let user = self.state.cpl == 3;
        let rights = match (user, self.state.sys_flags & RFLAGS_AC != 0) {
            (true, true) if self.state.cr0 & CR0_AM != 0 => rights::ALIGNED,
            (true, _) => rights::USER,
            (false, true) => rights::SMAP_OPEN,
            (false, false) => rights::SUPERVISOR,
        };
        self.watching = debug::watches_data(&self.state);
        // Recent blocks are known by RIP alone, which means other code in another segment.
        let code = CodeSegment::of(&self.state);
        if code != self.decoded {
            self.decoded = code;
            self.code_generation += 1;
        }
        self.rights = rights;
        self.read = self.tlbs[rights].read.entries();
        self.write = self.tlbs[rights].write.entries();
    }
}

impl Cpu {
    /// Whether the stack is flat: 64-bit mode, where SS has no base and no limit.
    #[inline(always)]
    pub(crate) fn flat_stack(&self) -> bool {
        self.state.mode == CodeMode::Bits64
    }

    /// The linear address of `len` bytes at `offset` of a segment.
    pub(crate) fn segmented(&mut self, seg: u8, offset: u64, len: u64, write: bool) -> Result<u64, Halted> {
        linear(&self.state, seg, offset, len, write).map_err(|e| self.halt(Stop::Fault(e)))
    }

    /// The linear address of 16 aligned bytes at `offset` of a segment.
    pub(crate) fn segmented_aligned(&mut self, seg: u8, offset: u64, write: bool) -> Result<u64, Halted> {
        linear_aligned(&self.state, seg, offset, write).map_err(|e| self.halt(Stop::Fault(e)))
    }

    /// Pushes on a stack that is not flat.
    #[cold]
    pub(crate) fn push_segmented(&mut self, size: Size, v: u64) -> Result<(), Halted> {
        let (addr, sp) = self.below_stack(size)?;
        self.store(addr, size, v)?;
        self.set_sp(self.state.stack_size(), sp);
        Ok(())
    }

    /// Checks that a push does not fault.
    #[cold]
    pub(crate) fn check_push(&mut self, size: Size) -> Result<(), Halted> {
        let (addr, _) = self.below_stack(size)?;
        self.check_write(addr, size.bytes())
    }

    /// The linear address that a push writes to, and the stack pointer after it.
    fn below_stack(&mut self, size: Size) -> Result<(u64, u64), Halted> {
        let sp = self.state.stack_size().trunc(self.state.r[RSP].wrapping_sub(size.bytes()));
        Ok((self.segmented(sreg::SS as u8, sp, size.bytes(), true)?, sp))
    }

    /// Reads at `offset` of a stack that is not flat.
    #[cold]
    pub(crate) fn peek_segmented(&mut self, size: Size, offset: u64) -> Result<u64, Halted> {
        let offset = self.state.stack_size().trunc(offset);
        let addr = self.segmented(sreg::SS as u8, offset, size.bytes(), false)?;
        self.load(addr, size)
    }

    /// Moves the pointer of a stack that is not flat up.
    #[cold]
    pub(crate) fn move_stack(&mut self, bytes: u64) {
        let width = self.state.stack_size();
        let sp = width.trunc(self.state.r[RSP].wrapping_add(bytes));
        self.set_sp(width, sp);
    }

    fn set_sp(&mut self, width: Size, sp: u64) {
        let keep = if width == Size::B2 { self.state.r[RSP] & !0xffff } else { 0 };
        self.state.r[RSP] = keep | sp;
    }

    /// Checks that SSE or MMX may be used (Intel SDM vol. 3, 2.5 and 13.1).
    #[inline(always)]
    pub(crate) fn check_vector(&mut self, mmx: bool) -> Result<(), Halted> {
        let blocked = self.state.cr0 & (CR0_EM | CR0_TS) != 0 || self.state.cr4 & CR4_OSFXSR == 0;
        if blocked || mmx { self.check_vector_slow(mmx) } else { Ok(()) }
    }

    #[cold]
    fn check_vector_slow(&mut self, mmx: bool) -> Result<(), Halted> {
        let fault = if self.state.cr0 & CR0_EM != 0 || !mmx && self.state.cr4 & CR4_OSFXSR == 0 {
            Exception::UD
        } else if self.state.cr0 & CR0_TS != 0 {
            Exception::NM
        } else if mmx && self.state.x87.is_pending() {
            Exception::MF
        } else {
            return Ok(());
        };
        Err(self.halt(Stop::Fault(fault)))
    }

    /// An access through the stack segment has failed: where the address is at fault, it is a stack fault.
    #[cold]
    #[inline(never)]
    pub(crate) fn stack_fault(&mut self, addr: u64, len: u64) -> Halted {
        if self.stop == Some(Stop::Fault(Exception::GP0)) && self.check_end(addr, len).is_err() {
            self.stop = Some(Stop::Fault(Exception::SS0));
        }
        Halted
    }

    /// An unmasked SIMD floating-point exception.
    #[cold]
    pub(crate) fn simd_fault(&mut self) -> Halted {
        let handled = self.state.cr4 & CR4_OSXMMEXCPT != 0;
        self.halt(Stop::Fault(if handled { Exception::XM } else { Exception::UD }))
    }
}
