//! Body of the fuzz target `translation`: page tables and paging registers that change under the translation cache.
//!
//! Every access is compared with a walk of the tables as they are then. A changed entry is followed by what software has
//! to do (Intel SDM vol. 3, 4.10.4.2), an INVLPG somewhere in each page that it mapped or a load of CR3, and by nothing more.

use std::sync::Arc;

use squib_core::GuestMemory;
use squib_core::x86::bits::*;
use squib_x86::env::Env;
use squib_x86::state::CodeMode;
use squib_x86::system::bits::{CR4_PKE, CR4_SMAP, CR4_SMEP};
use squib_x86::system::paging::{Access, Page, Paging};
use squib_x86::system::{control, keys, msr, tlb};
use squib_x86::{CpuState, Exception, Size, Stop};

use super::{Input, Still};
use crate::CpuModel;
use crate::cpu::Cpu;
use crate::devices::Platform;
use crate::mmu::WalkMemory;

/// Tables lie in the first 64 KiB. Those of level 4 begin with page 1, of 3 with 2, of 2 with 4, of 1 with 7.
const TABLES: [(u64, u64); 5] = [(0, 1), (7, 4), (4, 3), (2, 2), (1, 1)];
/// What they map: 8 MiB, in which pages of every size can begin.
const DATA: u64 = 1 << 30;
/// Most operations of one run.
const MOST: usize = 200;

/// How addresses are translated: the number of levels, and bytes of an entry.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Bits32,
    Pae,
    Long,
}

impl Mode {
    fn levels(self) -> u32 {
        match self {
            Self::Bits32 => 2,
            Self::Pae => 3,
            Self::Long => 4,
        }
    }

    fn entry_size(self) -> u64 {
        if self == Self::Bits32 { 4 } else { 8 }
    }

    /// The linear address that these indices, from level 1 up, lead to.
    fn address(self, indices: [u64; 4]) -> u64 {
        let bits = if self == Self::Bits32 { 10 } else { 9 };
        (0..self.levels()).fold(0, |addr, level| addr | indices[level as usize] << (12 + bits * level))
    }

    /// Every page of 4 KiB that accesses go to.
    fn pages(self) -> impl Iterator<Item = u64> {
        (0..1_u64 << (2 * self.levels()))
            .map(move |n| self.address(std::array::from_fn(|level| n >> (2 * level) & 3)))
    }
}

struct Run {
    cpu: Cpu,
    mode: Mode,
}

/// Carries out what `data` says.
pub fn translation(data: &[u8]) {
    let mut input = Input(data);
    let mode = [Mode::Long, Mode::Pae, Mode::Bits32, Mode::Long][usize::from(input.byte() & 3)];
    let mut run = Run::new(mode);
    for _ in 0..MOST {
        if input.0.is_empty() {
            break;
        }
        match input.byte() & 7 {
            0..=2 => run.change_entry(&mut input),
            3 => run.change_register(&mut input),
            _ => run.access(&mut input),
        }
    }
}

impl Run {
    fn new(mode: Mode) -> Self {
        let Ok(memory) = GuestMemory::with_regions(&[(0, 0x1_0000), (DATA, 8 << 20)]) else {
            unreachable!("a few megabytes can be had")
        };
        let mut cpu = Cpu::new(memory, CpuModel::max(), Arc::new(Still), Platform::new(None, 0));
        let s = &mut cpu.state;
        s.cr0 = CR0_PE | CR0_PG | CR0_ET;
        s.cr3 = TABLES[mode.levels() as usize].0 << 12;
        s.cr4 = if mode == Mode::Bits32 { CR4_PSE } else { CR4_PAE };
        s.efer = if mode == Mode::Long { EFER_LME | EFER_LMA | EFER_NXE } else { EFER_NXE };
        for seg in &mut s.seg {
            (seg.base, seg.limit) = (0, u32::MAX);
        }
        s.seg[squib_x86::state::sreg::CS].attr = if mode == Mode::Long { 0xa9b } else { 0xc9b };
        cpu.mode_changed();
        assert_eq!(cpu.state.mode == CodeMode::Bits64, mode == Mode::Long);
        let run = Self { cpu, mode };
        for n in 0..16_u64 {
            run.put(DATA | (n >> 2) << 21 | (n & 3) << 12, 8, n << 32 | 0x55aa_0000);
        }
        run
    }

    fn put(&self, addr: u64, size: u64, value: u64) {
        let _ = self.cpu.memory.write(addr, &value.to_le_bytes()[..size as usize]);
    }

    /// What `addr` is mapped to, whoever may use it.
    fn mapping(&self, addr: u64) -> Option<Page> {
        let open = CpuState {
            cr0: self.cpu.state.cr0 & !CR0_WP,
            cr4: self.cpu.state.cr4 & !(CR4_SMAP | CR4_PKE),
            ..self.cpu.state.clone()
        };
        let paging = Paging::of(&open, &self.cpu.model);
        paging.walk(&mut WalkMemory(self.cpu.memory.regions()), addr, Access::READ).ok()
    }

    /// Writes an entry, and invalidates what it mapped before.
    fn change_entry(&mut self, input: &mut Input<'_>) {
        let level = 1 + u32::from(input.byte()) % self.mode.levels();
        let (first, count) = TABLES[level as usize];
        let table = (first + u64::from(input.byte()) % count) << 12;
        let at = table + (u64::from(input.byte()) & 3) * self.mode.entry_size();
        let before: Vec<_> = self.mode.pages().map(|addr| (addr, self.mapping(addr))).collect();
        self.put(at, self.mode.entry_size(), self.entry(level, input));
        if level == 3 && self.mode == Mode::Pae {
            // Until then the processor goes by what it has loaded before.
            self.reload_cr3();
        }
        let by_page = input.byte();
        let (mut done, mut reload) = (Vec::new(), false);
        for (addr, page) in before {
            let Some(page) = page else { continue };
            let origin = addr >> page.shift << page.shift;
            if self.mapping(addr) == Some(page) || done.contains(&origin) {
                continue;
            }
            if page.global || by_page & 1 != 0 {
                done.push(origin);
                let offset = input.word() & ((1 << page.shift) - 1);
                self.as_supervisor(|cpu| tlb::invlpg(cpu, origin | offset));
            } else {
                reload = true;
            }
        }
        if reload {
            self.reload_cr3();
        }
    }

    /// Loads CR3 with what it holds, which global pages outlast.
    fn reload_cr3(&mut self) {
        self.as_supervisor(|cpu| control::mov_to(cpu, 3, cpu.state.cr3));
    }

    /// An entry for `level`: absent, of a table of the level below, or of a page.
    fn entry(&self, level: u32, input: &mut Input<'_>) -> u64 {
        let (bits, choice) = (u64::from(input.byte()), u64::from(input.byte()));
        let present = u64::from(bits & 7 != 0);
        if level == 3 && self.mode == Mode::Pae {
            return (TABLES[2].0 + choice % TABLES[2].1) << 12 | present;
        }
        let mut entry = present | bits >> 3 & 1 << 1 | bits >> 3 & 1 << 2;
        let is_page = level == 1 || level < 4 && bits & 0x80 != 0;
        if !is_page {
            let (first, count) = TABLES[level as usize - 1];
            return entry | (first + choice % count) << 12;
        }
        if level > 1 {
            entry |= 1 << 7;
        }
        entry |= bits << 2 & 1 << 8;
        if self.mode != Mode::Bits32 {
            entry |= u64::from(choice & 0x80 != 0) << 63;
        }
        if self.mode == Mode::Long {
            entry |= (choice >> 4 & 3) << 59;
        }
        let (n, piece) = (choice & 3, choice >> 2 & 3);
        entry
            | DATA
            | match (level, self.mode) {
                (1, _) => n << 21 | piece << 12,
                (2, Mode::Bits32) => n >> 1 << 22,
                (2, _) => n << 21,
                _ => 0,
            }
    }

    /// Runs a supervisor's instruction. None of those here can fault.
    fn as_supervisor(&mut self, f: impl FnOnce(&mut Cpu) -> Result<(), Stop>) {
        let cpl = std::mem::replace(&mut self.cpu.state.cpl, 0);
        self.cpu.mode_changed();
        let result = f(&mut self.cpu);
        assert_eq!(result, Ok(()));
        self.cpu.state.cpl = cpl;
        self.cpu.mode_changed();
    }

    /// Changes privilege, RFLAGS.AC, or a register that rights depend on.
    fn change_register(&mut self, input: &mut Input<'_>) {
        let (what, rights) = (input.byte(), u64::from(input.byte()));
        let cr4 = |bit| move |cpu: &mut Cpu| control::mov_to(cpu, 4, cpu.state.cr4 ^ bit);
        match what & 15 {
            0 => self.as_supervisor(|cpu| control::mov_to(cpu, 0, cpu.state.cr0 ^ CR0_WP)),
            1 => self.as_supervisor(cr4(CR4_SMEP)),
            2 => self.as_supervisor(cr4(CR4_SMAP)),
            3 => self.as_supervisor(cr4(CR4_PGE)),
            4 => self.as_supervisor(|cpu| msr::write(cpu, msr::index::EFER, cpu.state.efer ^ EFER_NXE)),
            5 if self.mode == Mode::Long => self.as_supervisor(cr4(CR4_PKE)),
            6 | 7 if self.cpu.state.cr4 & CR4_PKE != 0 => self.as_supervisor(|cpu| {
                (cpu.state.r[0], cpu.state.r[1], cpu.state.r[2]) = (rights, 0, 0);
                keys::wrpkru(cpu)
            }),
            8 | 9 => {
                self.cpu.state.sys_flags ^= RFLAGS_AC;
                self.cpu.mode_changed();
            }
            _ => {
                self.cpu.state.cpl ^= 3;
                self.cpu.mode_changed();
            }
        }
    }

    /// Loads, stores or fetches, and compares.
    fn access(&mut self, input: &mut Input<'_>) {
        let (kind, indices) = (input.byte(), input.byte());
        let page = self.mode.address(std::array::from_fn(|level| u64::from(indices) >> (2 * level) & 3));
        let size = [Size::B1, Size::B2, Size::B4, Size::B8][usize::from(kind >> 2 & 3)];
        // At the start of a page, or over its end.
        let addr = page + if kind & 0x10 != 0 { 4096 - size.bytes() / 2 } else { u64::from(kind >> 5) };
        let user = self.cpu.state.cpl == 3;
        let smap_open = !user && self.cpu.state.sys_flags & RFLAGS_AC != 0;
        match kind & 3 {
            0 => {
                let got = self.cpu.fetch_address(page);
                let expected = self.walk(page, Access::FETCH.user(user));
                assert_eq!(got, expected, "fetch at {page:#x}");
            }
            1 => {
                let value = input.word();
                let got = self.cpu.store(addr, size, value).map_err(|_| self.cpu.stop.take());
                let access = Access { smap_open, ..Access::WRITE.user(user) };
                let expected =
                    self.bytes(addr, size, access).map(|bytes| assert_eq!(bytes, size.trunc(value)));
                assert_eq!(got, expected, "store at {addr:#x}");
            }
            _ => {
                let got = self.cpu.load(addr, size).map_err(|_| self.cpu.stop.take());
                let access = Access { smap_open, ..Access::READ.user(user) };
                assert_eq!(got, self.bytes(addr, size, access), "load at {addr:#x}");
            }
        }
    }

    /// The physical address of `addr`, by a walk.
    fn walk(&self, addr: u64, access: Access) -> Result<u64, Exception> {
        let paging = Paging::of(&self.cpu.state, &self.cpu.model);
        paging.walk(&mut WalkMemory(self.cpu.memory.regions()), addr, access).map(|page| page.address(addr))
    }

    /// What lies at `addr`, by walks.
    fn bytes(&self, addr: u64, size: Size, access: Access) -> Result<u64, Option<Stop>> {
        let walk = |addr| self.walk(addr, access).map_err(|e| Some(Stop::Fault(e)));
        let next = (addr | 0xfff) + 1;
        let (first, second) = (walk(addr)?, if addr + size.bytes() > next { walk(next)? } else { 0 });
        Ok((0..size.bytes()).fold(0, |value, n| {
            let phys = if addr + n < next { first + n } else { second + (addr + n - next) };
            let mut byte = [0];
            let _ = self.cpu.memory.read(phys, &mut byte);
            value | u64::from(byte[0]) << (8 * n)
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn accesses_go_where_the_tables_say(data in prop::collection::vec(any::<u8>(), 0..1500)) {
            super::translation(&data);
        }
    }
}
