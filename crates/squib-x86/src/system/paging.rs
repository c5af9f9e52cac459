//! The page walk (Intel SDM vol. 3, chapter 4): 32-bit, PAE and 4-level paging in every page size.
//!
//! A pure function of the paging registers ([`Paging`]) and physical memory ([`PhysMem`]). It runs on every miss
//! of the translation cache, so it allocates nothing and reads each entry once.

use squib_core::x86::bits::*;

use crate::fault::Exception;
use crate::model::{CpuModel, Feature};
use crate::state::CpuState;

use super::bits::*;

/// Error code bits of a page fault (Intel SDM vol. 3, 4.7).
pub mod error {
    /// The translation exists; the access violates it.
    pub const PRESENT: u32 = 1 << 0;
    /// A write.
    pub const WRITE: u32 = 1 << 1;
    /// With user rights.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit is set in an entry.
    pub const RESERVED: u32 = 1 << 3;
    /// An instruction fetch, where NX or SMEP is on.
    pub const FETCH: u32 = 1 << 4;
    /// A protection key forbids it.
    pub const KEY: u32 = 1 << 5;
}

/// Physical memory as the page walk sees it. Addresses are aligned to the access.
pub trait PhysMem {
    /// Reads 4 bytes; all ones where there is no RAM.
    fn load_u32(&mut self, addr: u64) -> u32;
    /// Reads 8 bytes; all ones where there is no RAM.
    fn load_u64(&mut self, addr: u64) -> u64;
    /// Replaces `old` by `new`, atomically. `false` when something else is there, and the walk starts again;
    /// `true` where there is no RAM.
    fn exchange_u32(&mut self, addr: u64, old: u32, new: u32) -> bool;
    /// The same for 8 bytes.
    fn exchange_u64(&mut self, addr: u64, old: u64, new: u64) -> bool;
}

/// How an access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// It writes.
    pub write: bool,
    /// It fetches code.
    pub fetch: bool,
    /// With user rights.
    pub user: bool,
    /// A supervisor's explicit access with RFLAGS.AC set, which SMAP lets pass.
    pub smap_open: bool,
}

impl Access {
    /// A read with supervisor rights that SMAP applies to.
    pub const READ: Self = Self { write: false, fetch: false, user: false, smap_open: false };
    /// The same, a write.
    pub const WRITE: Self = Self { write: true, ..Self::READ };
    /// An instruction fetch with supervisor rights.
    pub const FETCH: Self = Self { fetch: true, ..Self::READ };

    /// The same with user rights, or not.
    pub const fn user(mut self, user: bool) -> Self {
        self.user = user;
        self
    }
}

/// What a linear address translates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Physical address of the page's first byte.
    pub base: u64,
    /// log2 of its size: 12, 21, 22 or 30.
    pub shift: u8,
    /// Every level allows writes.
    pub writable: bool,
    /// Every level allows user accesses.
    pub user: bool,
    /// No level forbids execution.
    pub executable: bool,
    /// Stays over a change of CR3.
    pub global: bool,
    /// The dirty bit is set: writes need no further walk.
    pub dirty: bool,
    /// Protection key.
    pub key: u8,
}

impl Page {
    /// The physical address of `linear`, which lies in the page.
    #[inline(always)]
    pub const fn address(&self, linear: u64) -> u64 {
        self.base | linear & ((1 << self.shift) - 1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Off,
    Bits32,
    Pae,
    Long,
}

/// The registers that decide how addresses are translated. Made anew whenever one of them changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    kind: Kind,
    root: u64,
    pdpte: [u64; 4],
    /// Bits that must be zero in every 8-byte entry.
    reserved: u64,
    pkru: u32,
    nx: bool,
    write_protect: bool,
    smep: bool,
    smap: bool,
    keys: bool,
    global: bool,
    large_32: bool,
    gigabyte: bool,
}

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

impl Paging {
    /// The registers as they are in `state`.
    pub fn of(state: &CpuState, model: &CpuModel) -> Self {
        let (cr0, cr4) = (state.cr0, state.cr4);
        let kind = match (cr0 & CR0_PG != 0, cr4 & CR4_PAE != 0, state.efer & EFER_LMA != 0) {
            (false, ..) => Kind::Off,
            (_, false, _) => Kind::Bits32,
            (_, _, false) => Kind::Pae,
            _ => Kind::Long,
        };
        let nx = state.efer & EFER_NXE != 0 && kind != Kind::Bits32;
        let beyond_width = FRAME & !model.physical_mask();
        // Bits 52 to 62 are for software and protection keys, but not in PAE paging.
        let high = if kind == Kind::Pae { 0x7ff << 52 } else { 0 };
        Self {
            kind,
            root: match kind {
                Kind::Off => 0,
                Kind::Bits32 => state.cr3 & 0xffff_f000,
                Kind::Pae => state.cr3 & 0xffff_ffe0,
                Kind::Long => state.cr3 & FRAME,
            },
            pdpte: state.pdpte,
            reserved: beyond_width | high | if nx { 0 } else { NX },
            pkru: state.pkru,
            nx,
            write_protect: cr0 & CR0_WP != 0,
            smep: cr4 & CR4_SMEP != 0,
            smap: cr4 & CR4_SMAP != 0,
            keys: cr4 & CR4_PKE != 0 && kind == Kind::Long,
            global: cr4 & CR4_PGE != 0,
            large_32: cr4 & CR4_PSE != 0,
            gigabyte: model.has(Feature::PDPE1GB),
        }
    }

    /// Translates `addr`, which is canonical in 64-bit mode and below 2^32 elsewhere, and sets accessed and dirty bits.
    ///
    /// # Errors
    /// #PF with its error code.
    #[inline]
    pub fn walk<M: PhysMem + ?Sized>(
        &self,
        mem: &mut M,
        addr: u64,
        access: Access,
    ) -> Result<Page, Exception> {
        let found = match self.kind {
            Kind::Off => Ok(Page {
                base: addr & !0xfff,
                shift: 12,
                writable: true,
                user: true,
                executable: true,
                global: false,
                dirty: true,
                key: 0,
            }),
            Kind::Bits32 => self.walk_32(mem, addr, access),
            Kind::Pae => {
                let entry = self.pdpte[(addr >> 30 & 3) as usize];
                if entry & P == 0 { Err(0) } else { self.walk_64(mem, entry & FRAME, 21, addr, access) }
            }
            Kind::Long => self.walk_64(mem, self.root, 39, addr, access),
        };
        found.map_err(|bits| Exception::pf(bits | self.describe(access), addr))
    }

    /// Whether `access` is allowed on a page that a walk has found.
    ///
    /// # Errors
    /// The page fault's error code.
    #[inline]
    pub fn check(&self, page: &Page, access: Access) -> Result<(), u32> {
        self.permits(page, access).map_err(|bits| bits | self.describe(access))
    }

    /// The error code bits that tell what kind of access it was.
    fn describe(&self, access: Access) -> u32 {
        let fetch = access.fetch && (self.nx || self.smep);
        [(access.write, error::WRITE), (access.user, error::USER), (fetch, error::FETCH)]
            .into_iter()
            .fold(0, |bits, (set, bit)| if set { bits | bit } else { bits })
    }

    #[inline]
    fn permits(&self, page: &Page, access: Access) -> Result<(), u32> {
        if self.kind == Kind::Off {
            return Ok(());
        }
        let writable = page.writable || !access.user && !self.write_protect;
        let allowed = if access.user {
            page.user
        } else if access.fetch {
            !(self.smep && page.user)
        } else {
            !self.smap || access.smap_open || !page.user
        };
        let denied = !allowed || access.write && !writable || access.fetch && !page.executable;
        // The key is told also where the page itself forbids the access (Intel SDM vol. 3, 4.7).
        match (denied, self.key_denies(page, access)) {
            (_, true) => Err(error::PRESENT | error::KEY),
            (true, false) => Err(error::PRESENT),
            (false, false) => Ok(()),
        }
    }

    /// Whether PKRU forbids a data access (Intel SDM vol. 3, 4.6.2).
    #[inline]
    fn key_denies(&self, page: &Page, access: Access) -> bool {
        if !self.keys || !page.user || access.fetch {
            return false;
        }
        let rights = self.pkru >> (2 * page.key);
        rights & 1 != 0 || rights & 2 != 0 && access.write && (access.user || self.write_protect)
    }

    /// Walks 8-byte entries from the table at `root`, whose entries map `1 << shift` bytes each.
    #[inline]
    fn walk_64<M: PhysMem + ?Sized>(
        &self,
        mem: &mut M,
        root: u64,
        top: u32,
        addr: u64,
        access: Access,
    ) -> Result<Page, u32> {
        'again: loop {
            let (mut table, mut shift) = (root, top);
            let mut common = RW | US;
            let mut any = 0;
            loop {
                let at = table + (addr >> shift & 511) * 8;
                let entry = mem.load_u64(at);
                if entry & P == 0 {
                    return Err(0);
                }
                common &= entry;
                any |= entry;
                let leaf = shift == 12 || entry & PS != 0;
                let forbidden = match shift {
                    39 => PS,
                    30 if leaf && !self.gigabyte => PS,
                    30 if leaf => 0x3fff_e000,
                    21 if leaf => 0x001f_e000,
                    _ => 0,
                };
                if entry & (self.reserved | forbidden) != 0 {
                    return Err(error::PRESENT | error::RESERVED);
                }
                if !leaf {
                    if entry & A == 0 && !mem.exchange_u64(at, entry, entry | A) {
                        continue 'again;
                    }
                    table = entry & FRAME;
                    shift -= 9;
                    continue;
                }
                let size = 1u64 << shift;
                let page = Page {
                    base: entry & FRAME & !(size - 1),
                    shift: shift as u8,
                    writable: common & RW != 0,
                    user: common & US != 0,
                    executable: any & NX == 0,
                    global: self.global && entry & G != 0,
                    dirty: access.write || entry & D != 0,
                    key: (entry >> 59 & 15) as u8,
                };
                self.permits(&page, access)?;
                let touched = entry | A | if access.write { D } else { 0 };
                if touched != entry && !mem.exchange_u64(at, entry, touched) {
                    continue 'again;
                }
                return Ok(page);
            }
        }
    }

    /// 32-bit paging: two levels of 4-byte entries, with 4 MiB pages (PSE, and PSE-36's 40-bit addresses).
    #[inline]
    fn walk_32<M: PhysMem + ?Sized>(&self, mem: &mut M, addr: u64, access: Access) -> Result<Page, u32> {
        loop {
            let at = self.root + (addr >> 22 & 1023) * 4;
            let entry = mem.load_u32(at);
            if entry & P as u32 == 0 {
                return Err(0);
            }
            let (mut leaf_at, mut leaf, mut common, mut shift) = (at, entry, entry, 22);
            if !self.large_32 || entry & PS as u32 == 0 {
                if entry & A as u32 == 0 && !mem.exchange_u32(at, entry, entry | A as u32) {
                    continue;
                }
                leaf_at = u64::from(entry & 0xffff_f000) + (addr >> 12 & 1023) * 4;
                leaf = mem.load_u32(leaf_at);
                if leaf & P as u32 == 0 {
                    return Err(0);
                }
                common &= leaf;
                shift = 12;
            } else if entry & 1 << 21 != 0 {
                return Err(error::PRESENT | error::RESERVED);
            }
            let base = match shift {
                12 => u64::from(leaf & 0xffff_f000),
                _ => u64::from(leaf & 0xffc0_0000) | u64::from(leaf >> 13 & 0xff) << 32,
            };
            let page = Page {
                base,
                shift,
                writable: common & RW as u32 != 0,
                user: common & US as u32 != 0,
                executable: true,
                global: self.global && leaf & G as u32 != 0,
                dirty: access.write || leaf & D as u32 != 0,
                key: 0,
            };
            self.permits(&page, access)?;
            let touched = leaf | A as u32 | if access.write { D as u32 } else { 0 };
            if touched != leaf && !mem.exchange_u32(leaf_at, leaf, touched) {
                continue;
            }
            return Ok(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mock::Ram;
    use super::*;

    const PML4: u64 = 0x1000;
    const PDPT: u64 = 0x2000;
    const PD: u64 = 0x3000;
    const PT: u64 = 0x4000;
    const ALL: u64 = P | RW | US;

    /// Paging registers that are on, by name.
    #[derive(Clone, Copy, Default)]
    struct On {
        nx: bool,
        wp: bool,
        smep: bool,
        smap: bool,
        pge: bool,
        pke: bool,
    }

    fn long(on: On) -> CpuState {
        let mut s = CpuState::reset();
        s.cr0 = CR0_PE | CR0_PG | if on.wp { CR0_WP } else { 0 };
        s.cr4 = CR4_PAE
            | if on.smep { CR4_SMEP } else { 0 }
            | if on.smap { CR4_SMAP } else { 0 }
            | if on.pge { CR4_PGE } else { 0 }
            | if on.pke { CR4_PKE } else { 0 };
        s.efer = EFER_LMA | EFER_LME | if on.nx { EFER_NXE } else { 0 };
        s.cr3 = PML4;
        s
    }

    /// Four levels; the entries of linear address `0x8060_5000` with these flags.
    fn tables(flags: [u64; 4]) -> Ram {
        let mut ram = Ram(vec![0; 0x10000]);
        ram.put(PML4, 8, PDPT | flags[0]);
        ram.put(PDPT + 2 * 8, 8, PD | flags[1]);
        ram.put(PD + 3 * 8, 8, PT | flags[2]);
        ram.put(PT + 5 * 8, 8, 0x9000 | flags[3]);
        ram
    }

    const LINEAR: u64 = 0x8060_5123;

    fn walk(s: &CpuState, ram: &mut Ram, access: Access) -> Result<Page, u32> {
        Paging::of(s, &CpuModel::max()).walk(ram, LINEAR, access).map_err(|e| {
            assert_eq!((e.vector, e.address), (14, LINEAR));
            e.error.unwrap()
        })
    }

    /// The ways in which a page can be mapped, by the size of the page.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Shape {
        Long(u32),
        Pae(u32),
        TwoLevels(u32),
    }

    const SHAPES: [Shape; 7] = [
        Shape::Long(12),
        Shape::Long(21),
        Shape::Long(30),
        Shape::Pae(12),
        Shape::Pae(21),
        Shape::TwoLevels(12),
        Shape::TwoLevels(22),
    ];

    impl Shape {
        /// Paging in this way.
        fn state(self, on: On) -> CpuState {
            let mut s = long(on);
            match self {
                Self::Long(_) => {}
                Self::Pae(_) => {
                    s.efer &= EFER_NXE;
                    s.pdpte[2] = PD | P;
                }
                Self::TwoLevels(_) => {
                    s.efer &= EFER_NXE;
                    s.cr4 = s.cr4 & !CR4_PAE | CR4_PSE;
                }
            }
            s
        }

        /// Memory in which [`LINEAR`] is mapped, with these flags in the entry of the page and in the one above it. Also where the
        /// page's entry is, and its size in bytes.
        fn map(self, upper: u64, leaf: u64) -> (Ram, u64, usize) {
            let large = leaf | PS;
            let (flags, at) = match self {
                Self::Long(12) | Self::Pae(12) => ([ALL, ALL, upper, leaf], PT + 5 * 8),
                Self::Long(21) => ([ALL, upper, large, 0], PD + 3 * 8),
                Self::Long(_) => ([upper, large, 0, 0], PDPT + 2 * 8),
                // Page-directory pointers have no rights.
                Self::Pae(_) => ([0, 0, large, 0], PD + 3 * 8),
                Self::TwoLevels(_) => ([0; 4], PT + 0x205 * 4),
            };
            let mut ram = tables(flags);
            let page = |shift: u32| 0x4000_0000 >> shift << shift;
            match self {
                Self::Long(12) | Self::Pae(12) => (ram, at, 8),
                Self::Long(shift) | Self::Pae(shift) => {
                    ram.put(at, 8, page(shift) | large);
                    (ram, at, 8)
                }
                Self::TwoLevels(12) => {
                    ram.put(PML4 + (LINEAR >> 22) * 4, 4, PT | upper);
                    ram.put(at, 4, 0x9000 | leaf);
                    (ram, at, 4)
                }
                Self::TwoLevels(shift) => {
                    let at = PML4 + (LINEAR >> 22) * 4;
                    ram.put(at, 4, page(shift) | large);
                    (ram, at, 4)
                }
            }
        }

        /// Whether the entry above the page's has rights of its own.
        fn has_upper(self) -> bool {
            !matches!(self, Self::Pae(21) | Self::TwoLevels(22))
        }

        /// Bits of the page's entry that have to be zero.
        fn reserved(self) -> Vec<u32> {
            let beyond = [46, 51];
            match self {
                Self::Long(12) => beyond.to_vec(),
                Self::Long(21) => [beyond, [13, 20]].concat(),
                Self::Long(_) => [beyond, [13, 29]].concat(),
                Self::Pae(12) => [beyond, [52, 62]].concat(),
                Self::Pae(_) => [beyond, [52, 62], [13, 20]].concat(),
                Self::TwoLevels(12) => vec![],
                Self::TwoLevels(_) => vec![21],
            }
        }
    }

    #[test]
    fn permissions_are_those_of_all_levels() {
        // Every combination of RW, US and NX at the leaf and the level above, with every setting and access, in every
        // kind of paging with every size of pages, against the rules spelt out.
        for shape in SHAPES {
            for bits in 0..16u64 {
                let leaf = P | (bits & 3) << 1;
                let upper = if shape.has_upper() { P | (bits >> 2 & 3) << 1 } else { ALL };
                for nx in [0, NX] {
                    if nx == 0 || !matches!(shape, Shape::TwoLevels(_)) {
                        permissions(shape, upper, leaf, nx);
                    }
                }
            }
        }
    }

    fn permissions(shape: Shape, upper: u64, leaf: u64, nx: u64) {
        for set in 0..16 {
            let on = On {
                nx: set & 1 != 0,
                wp: set & 2 != 0,
                smep: set & 4 != 0,
                smap: set & 8 != 0,
                ..On::default()
            };
            for how in 0..12 {
                let access = Access {
                    write: how % 3 == 1,
                    fetch: how % 3 == 2,
                    user: (how / 3) & 1 != 0,
                    smap_open: how / 6 != 0,
                };
                let both = leaf & upper;
                let (w, u) = (both & RW != 0, both & US != 0);
                let expected = if nx != 0 && !on.nx {
                    Err(error::PRESENT | error::RESERVED)
                } else {
                    let ok = match (access.user, access.write, access.fetch) {
                        (true, false, false) => u,
                        (true, true, _) => u && w,
                        (true, _, true) => u && nx == 0,
                        (false, false, false) => !u || !on.smap || access.smap_open,
                        (false, true, _) => (w || !on.wp) && (!u || !on.smap || access.smap_open),
                        (false, _, true) => nx == 0 && !(u && on.smep),
                    };
                    if ok { Ok(()) } else { Err(error::PRESENT) }
                };
                // Two levels have no NX, and so it is not told either (SDM vol. 3, 4.7).
                let has_nx = on.nx && !matches!(shape, Shape::TwoLevels(_));
                let fetch = access.fetch && (has_nx || on.smep);
                let expected = expected.map_err(|e| {
                    e | u32::from(access.write) << 1 | u32::from(access.user) << 2 | u32::from(fetch) << 4
                });
                let state = shape.state(on);
                let (mut ram, at, size) = shape.map(upper, leaf | nx);
                let got = walk(&state, &mut ram, access);
                let case = format!("{shape:?} {upper:#x} {leaf:#x} {nx:#x} {set} {access:?}");
                assert_eq!(got.map(|_| ()), expected, "{case}");
                if let Ok(page) = got {
                    assert_eq!(Paging::of(&state, &CpuModel::max()).check(&page, access), Ok(()), "{case}");
                }
                let entry = ram.get(at, size);
                assert_eq!(entry & A != 0, got.is_ok(), "{case}");
                assert_eq!(entry & D != 0, got.is_ok() && access.write, "{case}");
            }
        }
    }

    #[test]
    fn reserved_bits_of_pages_fault_whatever_their_size() {
        for shape in SHAPES {
            let (mut ram, ..) = shape.map(ALL, ALL);
            assert!(walk(&shape.state(On::default()), &mut ram, Access::READ).is_ok(), "{shape:?}");
            for bit in shape.reserved() {
                let (mut ram, at, size) = shape.map(ALL, ALL);
                let entry = ram.get(at, size);
                ram.put(at, size, entry | 1 << bit);
                let got = walk(&shape.state(On::default()), &mut ram, Access::READ);
                assert_eq!(got, Err(error::PRESENT | error::RESERVED), "{shape:?} bit {bit}");
            }
        }
    }

    #[test]
    fn absent_entries_fault_at_every_level() {
        for level in 0..4 {
            let mut flags = [ALL; 4];
            flags[level] = 0;
            let access = Access::WRITE.user(true);
            assert_eq!(
                walk(&long(On::default()), &mut tables(flags), access),
                Err(error::WRITE | error::USER)
            );
        }
    }

    #[test]
    fn reserved_bits_fault_at_every_level() {
        for level in 0..4 {
            for bit in [46, 51] {
                let mut flags = [ALL; 4];
                flags[level] |= 1 << bit;
                let got = walk(&long(On::default()), &mut tables(flags), Access::READ);
                assert_eq!(got, Err(error::PRESENT | error::RESERVED), "level {level} bit {bit}");
            }
            let mut flags = [ALL; 4];
            flags[level] |= 0x7ff << 52;
            assert!(walk(&long(On::default()), &mut tables(flags), Access::READ).is_ok());
        }
        let reserved = Err(error::PRESENT | error::RESERVED);
        assert_eq!(
            walk(&long(On::default()), &mut tables([ALL | PS, ALL, ALL, ALL]), Access::READ),
            reserved
        );
        assert_eq!(
            walk(&long(On::default()), &mut tables([ALL, ALL, ALL | PS | 1 << 13, ALL]), Access::READ),
            reserved
        );
    }

    #[test]
    fn large_pages_translate() {
        let s = long(On { pge: true, ..On::default() });
        let mut ram = tables([ALL, ALL, 0, 0]);
        ram.put(PD + 3 * 8, 8, 0x1234_0060_0000 | ALL | PS | G | 1 << 12);
        let page = walk(&s, &mut ram, Access::READ).unwrap();
        assert_eq!((page.base, page.shift, page.global, page.dirty), (0x1234_0060_0000, 21, true, false));
        assert_eq!(page.address(LINEAR), 0x1234_0060_5123);
        ram.put(PDPT + 2 * 8, 8, 0x1_4000_0000 | ALL | PS);
        let page = walk(&s, &mut ram, Access::WRITE).unwrap();
        assert_eq!((page.base, page.shift, page.dirty), (0x1_4000_0000, 30, true));
        assert_eq!(page.address(LINEAR), 0x1_4060_5123);
        let without = Paging::of(&s, &CpuModel::v1()).walk(&mut ram, LINEAR, Access::READ);
        assert_eq!(without, Err(Exception::pf(error::PRESENT | error::RESERVED, LINEAR)));
    }

    #[test]
    fn protection_keys_guard_user_pages() {
        let mut s = long(On { pke: true, wp: true, ..On::default() });
        let key = 5u64;
        let mut ram = tables([ALL, ALL, ALL, ALL | key << 59]);
        for (rights, user, write, supervisor_write) in
            [(0, true, true, true), (2, true, false, false), (1, false, false, false)]
        {
            s.pkru = rights << (2 * key);
            let mut ok = |access| match walk(&s, &mut ram, access) {
                Ok(_) => true,
                Err(e) => {
                    assert_ne!(e & error::KEY, 0);
                    false
                }
            };
            assert_eq!(ok(Access::READ.user(true)), user);
            assert_eq!(ok(Access::WRITE.user(true)), write);
            assert_eq!(ok(Access::WRITE), supervisor_write);
            assert!(ok(Access::FETCH));
        }
        // A page that forbids the access by itself hides nothing of the key.
        let mut ram = tables([ALL, ALL, ALL, P | US | key << 59]);
        for (rights, bits) in [(0, 0), (2, error::KEY), (1, error::KEY)] {
            s.pkru = rights << (2 * key);
            let got = walk(&s, &mut ram, Access::WRITE.user(true));
            assert_eq!(got, Err(error::PRESENT | error::WRITE | error::USER | bits), "{rights}");
        }
    }

    #[test]
    fn pae_paging_starts_from_its_registers() {
        let mut s = long(On::default());
        s.efer = EFER_NXE;
        s.pdpte[2] = PD | P;
        let mut ram = tables([0, 0, ALL, ALL | NX]);
        assert_eq!(walk(&s, &mut ram, Access::READ).unwrap().address(LINEAR), 0x9123);
        assert_eq!(walk(&s, &mut ram, Access::FETCH), Err(error::PRESENT | error::FETCH));
        ram.put(PD + 3 * 8, 8, PT | ALL | 1 << 52);
        assert_eq!(walk(&s, &mut ram, Access::READ), Err(error::PRESENT | error::RESERVED));
        s.pdpte[2] = 0;
        assert_eq!(walk(&s, &mut ram, Access::READ), Err(0));
    }

    #[test]
    fn two_level_paging_with_large_pages() {
        let mut s = CpuState::reset();
        s.cr0 = CR0_PE | CR0_PG | CR0_WP;
        s.cr3 = PML4 | 0xfff;
        let directory = PML4 + (LINEAR >> 22) * 4;
        let mut ram = Ram(vec![0; 0x10000]);
        ram.put(directory, 4, PT | ALL | PS);
        ram.put(PT + 0x205 * 4, 4, 0x9000 | P | US);
        let page = walk(&s, &mut ram, Access::READ.user(true)).unwrap();
        assert_eq!((page.address(LINEAR), page.shift, page.writable), (0x9123, 12, false));
        assert_eq!(ram.get(directory, 4) & A, A);
        assert_eq!(walk(&s, &mut ram, Access::WRITE), Err(error::PRESENT | error::WRITE));
        s.cr4 = CR4_PSE;
        ram.put(directory, 4, 0x8040_0000 | 3 << 13 | ALL | PS);
        let page = walk(&s, &mut ram, Access::WRITE).unwrap();
        assert_eq!((page.address(LINEAR), page.shift), (0x3_8060_5123, 22));
        assert_eq!(ram.get(directory, 4) & (A | D), A | D);
        ram.put(directory, 4, 1 << 21 | ALL | PS);
        assert_eq!(walk(&s, &mut ram, Access::READ), Err(error::PRESENT | error::RESERVED));
    }

    #[test]
    fn tables_outside_of_memory_are_all_ones() {
        let mut s = long(On::default());
        s.cr3 = 1 << 40;
        let got = walk(&s, &mut Ram(vec![]), Access::READ);
        assert_eq!(got, Err(error::PRESENT | error::RESERVED));
    }
}
