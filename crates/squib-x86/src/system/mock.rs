//! Surroundings for tests: flat memory behind the real page walk, and a record of what was asked for.

use std::collections::BTreeMap;

use squib_core::x86::bits::*;

use super::paging::{Access, Paging, PhysMem};
use crate::env::{Env, Flush, Leave, Rights};
use crate::fault::{Exception, Stop};
use crate::model::CpuModel;
use crate::size::Size;
use crate::state::{CpuState, Seg, Table, sreg};

/// Physical memory: bytes from address 0.
pub(crate) struct Ram(pub(crate) Vec<u8>);

impl Ram {
    pub(crate) fn get(&self, addr: u64, len: usize) -> u64 {
        let mut bytes = [0xff; 8];
        for (i, byte) in bytes.iter_mut().enumerate().take(len) {
            *byte = usize::try_from(addr.wrapping_add(i as u64))
                .ok()
                .and_then(|a| self.0.get(a).copied())
                .unwrap_or(0xff);
        }
        u64::from_le_bytes(bytes) & (u64::MAX >> (64 - 8 * len))
    }

    pub(crate) fn put(&mut self, addr: u64, len: usize, value: u64) {
        for (i, byte) in value.to_le_bytes().into_iter().enumerate().take(len) {
            if let Some(b) = usize::try_from(addr.wrapping_add(i as u64)).ok().and_then(|a| self.0.get_mut(a))
            {
                *b = byte;
            }
        }
    }
}

impl PhysMem for Ram {
    fn load_u32(&mut self, addr: u64) -> u32 {
        self.get(addr, 4) as u32
    }
    fn load_u64(&mut self, addr: u64) -> u64 {
        self.get(addr, 8)
    }
    fn exchange_u32(&mut self, addr: u64, old: u32, new: u32) -> bool {
        assert_eq!(self.load_u32(addr), old);
        self.put(addr, 4, new.into());
        true
    }
    fn exchange_u64(&mut self, addr: u64, old: u64, new: u64) -> bool {
        assert_eq!(self.load_u64(addr), old);
        self.put(addr, 8, new);
        true
    }
}

pub(crate) struct Mock {
    pub(crate) state: CpuState,
    pub(crate) model: CpuModel,
    pub(crate) ram: Ram,
    pub(crate) tsc: u64,
    pub(crate) tpr: u8,
    pub(crate) left: Vec<Leave>,
    pub(crate) flushed: Vec<Flush>,
    pub(crate) modes_changed: u32,
    pub(crate) clocks_changed: u32,
    pub(crate) platform_msrs: BTreeMap<u32, u64>,
}

/// Where [`Mock::long`] and [`Mock::protected`] put things.
pub(crate) const GDT: u64 = 0x1000;
pub(crate) const IDT: u64 = 0x2000;
pub(crate) const TSS: u64 = 0x4000;
/// Ring-0 stack of the task state.
pub(crate) const RSP0: u64 = 0x9000;
/// Interrupt stack 1 of the task state.
pub(crate) const IST1: u64 = 0xa000;
/// The stack that the state starts with.
pub(crate) const STACK: u64 = 0x8000;

/// Selectors of [`Mock::long`] and [`Mock::protected`].
pub(crate) mod sel {
    pub(crate) const CODE: u16 = 0x08;
    pub(crate) const DATA: u16 = 0x10;
    pub(crate) const USER_CODE32: u16 = 0x18 | 3;
    pub(crate) const USER_DATA: u16 = 0x20 | 3;
    pub(crate) const USER_CODE: u16 = 0x28 | 3;
    pub(crate) const TSS: u16 = 0x30;
    pub(crate) const CONFORMING: u16 = 0x40;
    pub(crate) const ABSENT_DATA: u16 = 0x48;
    pub(crate) const READ_ONLY: u16 = 0x50;
    pub(crate) const EXECUTE_ONLY: u16 = 0x58;
    pub(crate) const CODE32: u16 = 0x60;
    pub(crate) const LDT: u16 = 0x68;
    pub(crate) const CODE16: u16 = 0x78;
    pub(crate) const GATE: u16 = 0x80;
}

/// A code or data descriptor with base 0 and a limit of 4 GiB: `attr` as in [`Seg::attr`].
pub(crate) const fn flat(attr: u16) -> u64 {
    0xffff | 0xf << 48 | (attr as u64 & 0xff) << 40 | (attr as u64 >> 8) << 52
}

impl Mock {
    /// The processor after reset, with 1 MiB of memory.
    pub(crate) fn new() -> Self {
        Self {
            state: CpuState::reset(),
            model: CpuModel::max(),
            ram: Ram(vec![0; 1 << 20]),
            tsc: 0,
            tpr: 0,
            left: vec![],
            flushed: vec![],
            modes_changed: 0,
            clocks_changed: 0,
            platform_msrs: BTreeMap::new(),
        }
    }

    fn tables(&mut self, long: bool) {
        let (code, user) = if long { (0xa9b, 0xafb) } else { (0xc9b, 0xcfb) };
        let list = [
            (sel::CODE, flat(code)),
            (sel::DATA, flat(0xc93)),
            (sel::USER_CODE32, flat(0xcfb)),
            (sel::USER_DATA, flat(0xcf3)),
            (sel::USER_CODE, flat(user)),
            (sel::TSS, 0x67 | TSS << 16 | 0x89 << 40),
            (sel::CONFORMING, flat(code | 4)),
            (sel::ABSENT_DATA, flat(0xc13)),
            (sel::READ_ONLY, flat(0xcf0)),
            (sel::EXECUTE_ONLY, flat(0xcf8)),
            (sel::CODE32, flat(0xc9b)),
            (sel::LDT, 0x1f | 0x3000 << 16 | 0x82 << 40),
            (sel::CODE16, 0xffff | 0x9b << 40),
        ];
        for (selector, descriptor) in list {
            self.ram.put(GDT + u64::from(selector & !7), 8, descriptor);
        }
        let s = &mut self.state;
        s.gdt = Table { base: GDT, limit: 0xff };
        s.idt = Table { base: IDT, limit: 0xfff };
        s.tr = Seg { base: TSS, limit: 0x67, selector: sel::TSS, attr: 0x8b };
        s.ldt = Seg { attr: Seg::UNUSABLE, ..Seg::default() };
        for seg in &mut s.seg {
            *seg = Seg { base: 0, limit: u32::MAX, selector: sel::DATA, attr: 0xc93 };
        }
        s.seg[sreg::CS] = Seg { base: 0, limit: u32::MAX, selector: sel::CODE, attr: code };
        s.cr0 |= CR0_PE;
        s.r[4] = STACK;
        s.update_mode();
    }

    /// Ring 0, 64-bit mode; paging is left off, so linear addresses are physical.
    pub(crate) fn long() -> Self {
        let mut m = Self::new();
        m.state.efer = EFER_LME | EFER_LMA | EFER_SCE;
        m.state.cr4 = CR4_PAE;
        m.tables(true);
        m.ram.put(TSS + 4, 8, RSP0);
        m.ram.put(TSS + 0x24, 8, IST1);
        m
    }

    /// Ring 0, 32-bit protected mode, no paging.
    pub(crate) fn protected() -> Self {
        let mut m = Self::new();
        m.tables(false);
        m.ram.put(TSS + 4, 4, RSP0);
        m.ram.put(TSS + 8, 4, sel::DATA.into());
        m
    }

    /// Goes to ring 3 in the same mode.
    pub(crate) fn user(mut self) -> Self {
        let long = self.state.long_mode();
        let s = &mut self.state;
        s.cpl = 3;
        let attr = if long { 0xafb } else { 0xcfb };
        s.seg[sreg::CS] = Seg { base: 0, limit: u32::MAX, selector: sel::USER_CODE, attr };
        for seg in [sreg::SS, sreg::DS, sreg::ES] {
            s.seg[seg] = Seg { base: 0, limit: u32::MAX, selector: sel::USER_DATA, attr: 0xcf3 };
        }
        s.update_mode();
        self
    }

    /// Writes an interrupt gate: `attr` is type, DPL and P.
    pub(crate) fn gate(&mut self, vector: u8, selector: u16, offset: u64, attr: u8, ist: u8) {
        let low = offset & 0xffff
            | u64::from(selector) << 16
            | u64::from(ist) << 32
            | u64::from(attr) << 40
            | (offset >> 16 & 0xffff) << 48;
        if self.state.long_mode() {
            self.ram.put(IDT + u64::from(vector) * 16, 8, low);
            self.ram.put(IDT + u64::from(vector) * 16 + 8, 8, offset >> 32);
        } else {
            self.ram.put(IDT + u64::from(vector) * 8, 8, low);
        }
    }

    /// `n` words of `len` bytes from `addr` on.
    pub(crate) fn words(&self, addr: u64, len: usize, n: u64) -> Vec<u64> {
        (0..n).map(|i| self.ram.get(addr + i * len as u64, len)).collect()
    }

    /// Runs `f`, and checks that it changes nothing of the state when it fails.
    pub(crate) fn attempt<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Stop>) -> Result<T, Stop> {
        let before = format!("{:?}", self.state);
        let result = f(self);
        if result.is_err() {
            assert_eq!(before, format!("{:?}", self.state), "state changed before a fault");
        }
        result
    }

    fn translate(&mut self, addr: u64, write: bool, rights: Rights) -> Result<u64, Stop> {
        if self.state.long_mode() && !super::is_canonical(addr) {
            return Err(Exception::GP0.into());
        }
        let user = rights == Rights::User || rights == Rights::Current && self.state.cpl == 3;
        let smap_open = rights == Rights::Current && self.state.sys_flags & RFLAGS_AC != 0;
        let paging = Paging::of(&self.state, &self.model);
        let page = paging.walk(&mut self.ram, addr, Access { write, fetch: false, user, smap_open })?;
        Ok(page.address(addr))
    }
}

impl Env for Mock {
    fn state(&mut self) -> &mut CpuState {
        &mut self.state
    }
    fn state_ref(&self) -> &CpuState {
        &self.state
    }
    fn read(&mut self, addr: u64, size: Size, rights: Rights) -> Result<u64, Stop> {
        let mut value = 0;
        for i in 0..size.bytes() {
            let at = self.translate(addr.wrapping_add(i), false, rights)?;
            value |= self.ram.get(at, 1) << (8 * i);
        }
        Ok(value)
    }
    fn write(&mut self, addr: u64, size: Size, value: u64, rights: Rights) -> Result<(), Stop> {
        self.probe_write(addr, size.bytes(), rights)?;
        for i in 0..size.bytes() {
            let at = self.translate(addr.wrapping_add(i), true, rights)?;
            self.ram.put(at, 1, value >> (8 * i));
        }
        Ok(())
    }
    fn probe_write(&mut self, addr: u64, len: u64, rights: Rights) -> Result<(), Stop> {
        for i in 0..len {
            self.translate(addr.wrapping_add(i), true, rights)?;
        }
        Ok(())
    }
    fn load_physical(&mut self, addr: u64) -> u64 {
        self.ram.load_u64(addr)
    }
    fn flush(&mut self, what: Flush) {
        self.flushed.push(what);
    }
    fn mode_changed(&mut self) {
        self.state.update_mode();
        self.modes_changed += 1;
    }
    fn host_tsc(&mut self) -> u64 {
        self.tsc
    }
    fn model(&self) -> &CpuModel {
        &self.model
    }
    fn task_priority(&mut self) -> u8 {
        self.tpr
    }
    fn set_task_priority(&mut self, value: u8) {
        self.tpr = value;
    }
    fn platform_rdmsr(&mut self, index: u32) -> Result<u64, Stop> {
        self.platform_msrs.get(&index).copied().ok_or(Exception::GP0.into())
    }
    fn platform_wrmsr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        self.platform_msrs.get_mut(&index).map(|v| *v = value).ok_or(Exception::GP0.into())
    }
    fn pv_clock_changed(&mut self) {
        self.clocks_changed += 1;
    }
    fn port_read(&mut self, port: u16, _: Size) -> Result<u64, Stop> {
        Ok(port.into())
    }
    fn port_write(&mut self, _: u16, _: Size, _: u64) -> Result<(), Stop> {
        Ok(())
    }
    fn begin_element(&mut self) {}
    fn random(&mut self) -> Option<u64> {
        Some(4)
    }
    fn leave(&mut self, why: Leave) {
        self.left.push(why);
    }
}
