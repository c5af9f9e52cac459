//! Random tables, registers and operands: nothing panics or overflows, and what faults changes nothing.

use proptest::prelude::*;
use squib_core::x86::bits::*;

use super::bits::*;
use super::interrupt::Event;
use super::mock::{GDT, IDT, Mock, TSS, flat};
use super::paging::{Access, Paging};
use super::*;
use crate::size::Size;
use crate::state::{CpuState, Seg, sreg};

/// A small generator: proptest gives the seed, and shrinks the rest.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// An address: mostly in memory, else anything near an edge.
    fn address(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => (1u64 << self.below(64)).wrapping_sub(self.below(16)),
            _ => self.below(0x1_0000),
        }
    }

    fn selector(&mut self) -> u16 {
        if self.one_in(8) {
            self.next() as u16
        } else {
            (self.below(0x14) as u16) << 3 | self.below(8) as u16
        }
    }

    /// A descriptor or gate that is often a good one.
    fn descriptor(&mut self) -> u64 {
        let attr = [0xa9b, 0xc93, 0xcfb, 0xafb, 0xcf3, 0x09b, 0x093, 0xc9f, 0xa9f][self.below(9) as usize];
        let system = (0x80 | self.below(4) << 5 | self.below(16)) << 40;
        let gate =
            self.address() & 0xffff | u64::from(self.selector()) << 16 | (self.next() & 7) << 32 | system;
        let d = if self.one_in(2) { flat(attr) } else { gate };
        if self.one_in(4) { d ^ 1 << self.below(64) } else { d }
    }

    fn segment(&mut self) -> Seg {
        let attr = if self.one_in(6) { Seg::UNUSABLE } else { (self.descriptor() >> 40) as u16 & 0xff };
        let limit = if self.one_in(2) { u32::MAX } else { self.address() as u32 };
        Seg {
            base: self.address(),
            limit,
            selector: self.selector(),
            attr: attr | (self.below(16) as u16) << 8,
        }
    }
}

fn machine(rng: &mut Rng) -> Mock {
    let mut m = match rng.below(5) {
        0 => Mock::new(),
        1 => Mock::protected(),
        2 => Mock::protected().user(),
        3 => Mock::long().user(),
        _ => Mock::long(),
    };
    for i in 0..32 {
        if rng.one_in(2) {
            let d = rng.descriptor();
            m.ram.put(GDT + 8 * i, 8, d);
        }
    }
    for i in 0..512 {
        let d = rng.descriptor();
        m.ram.put(IDT + 8 * i, 8, d);
    }
    for at in (TSS..TSS + 0x100).step_by(8) {
        let value = if rng.one_in(3) { rng.address() } else { rng.selector().into() };
        m.ram.put(at, 8, value);
    }
    for at in (0x5000..0x9000).step_by(8) {
        let value = match rng.below(3) {
            0 => rng.selector().into(),
            1 => rng.address(),
            _ => rng.next(),
        };
        m.ram.put(at, 8, value);
    }
    let s = &mut m.state;
    for r in &mut s.r[..16] {
        *r = rng.address();
    }
    s.r[4] = if rng.one_in(4) { rng.address() } else { 0x5000 + rng.below(0x3000) };
    s.sys_flags |= rng.next() & (RFLAGS_TF | RFLAGS_IF | RFLAGS_IOPL | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID);
    s.sys_flags |= if rng.one_in(16) { RFLAGS_NT } else { 0 };
    s.cr4 |= rng.next() & (CR4_DE | CR4_UMIP | CR4_FSGSBASE | CR4_SMEP | CR4_SMAP | CR4_TSD);
    (s.msr.star, s.msr.lstar, s.msr.sysenter_cs) = (rng.next(), rng.address(), rng.selector().into());
    (s.dr7, s.dr) = (rng.next() & 0xffff_23ff, [rng.address(), rng.address(), rng.address(), rng.address()]);
    if rng.one_in(4) {
        s.tr = rng.segment();
    }
    if rng.one_in(4) {
        s.ldt = rng.segment();
    }
    if rng.one_in(4) {
        (s.gdt.limit, s.idt.limit) = (rng.next() as u16, rng.next() as u16);
    }
    if rng.one_in(8) {
        (s.gdt.base, s.idt.base) = (rng.address(), rng.address());
    }
    for which in [sreg::ES, sreg::SS, sreg::DS, sreg::FS, sreg::GS] {
        if rng.one_in(8) {
            s.seg[which] = rng.segment();
        }
    }
    if rng.one_in(4) {
        s.cr3 = 0x5000;
        s.pdpte = [rng.next(), 0x6001, 0x7001, rng.next()];
        s.cr0 |= if s.cr0 & CR0_PE != 0 { CR0_PG } else { 0 };
    }
    s.update_mode();
    m
}

/// One instruction or event, by number.
fn run(m: &mut Mock, op: u8, rng: &mut Rng) -> Result<(), Stop> {
    let (selector, address, value) = (rng.selector(), rng.address(), rng.next());
    let size = [Size::B2, Size::B4, Size::B8][rng.below(3) as usize];
    let n = rng.below(9) as u8;
    match op {
        0 => segment::mov(m, usize::from(n), selector),
        1 => iret::iret(m, size),
        2 => far::jump(m, selector, address, size),
        3 => far::call(m, selector, address, size, value),
        4 => far::ret(m, size, value as u16),
        5 => interrupt::deliver(m, Event::software(value as u8), address),
        6 => interrupt::deliver(m, Event::external(value as u8), address),
        7 => tables::lldt(m, selector),
        8 => tables::ltr(m, selector),
        9 => tables::lgdt(m, address, size),
        10 => tables::sidt(m, address),
        11 => segment::lar(m, selector).map(drop),
        12 => segment::lsl(m, selector).map(drop),
        13 => segment::verify(m, selector, value & 1 != 0),
        14 => control::mov_to(m, n, value & rng.next() & rng.next() | u64::from(n & 1)),
        15 => debug::mov_to(m, n, address),
        16 => msr::write(m, msr::STATE_MSRS[value as usize % msr::STATE_MSRS.len()], rng.address()),
        17 => syscall::syscall(m, address),
        18 => syscall::sysret(m, size),
        19 => syscall::sysenter(m),
        20 => syscall::sysexit(m, size),
        21 => io::check(m, value as u16, Size::from_index(n % 3)),
        22 => tlb::invpcid(m, u64::from(n), address),
        23 => segment::write_base(m, sreg::FS, size, address),
        24 => segment::swapgs(m),
        25 => control::lmsw(m, value as u16),
        _ => {
            cpuid::cpuid(m);
            Ok(())
        }
    }
}

const OPS: u8 = 27;

/// What must not change where an instruction faults.
fn visible(s: &CpuState) -> String {
    let mut s = s.clone();
    // IRET unblocks NMIs even then; the status flags may be written down another way.
    s.nmi_masked = false;
    s.lazy = crate::flags::LazyFlags::fixed(s.lazy.bits());
    format!("{s:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn instructions_never_panic_and_fault_cleanly(seed: u64, op in 0..OPS) {
        let mut rng = Rng(seed);
        let mut m = machine(&mut rng);
        let before = visible(&m.state);
        if run(&mut m, op, &mut rng).is_err() {
            prop_assert_eq!(before, visible(&m.state));
        }
    }

    #[test]
    fn exceptions_end_in_a_handler_or_in_shutdown(seed: u64, vector in 0u8..32) {
        let mut rng = Rng(seed);
        let mut m = machine(&mut rng);
        let e = crate::Exception { vector, error: (vector & 1 != 0).then_some(vector.into()), address: rng.address() };
        prop_assert!(interrupt::raise(&mut m, e, 0x1234).is_ok() || matches!(m.left[..], [.., Leave::Unsupported(_)]));
    }

    #[test]
    fn walks_never_panic(seed: u64, write: bool, fetch: bool, user: bool) {
        let mut rng = Rng(seed);
        let mut m = machine(&mut rng);
        for at in (0x5000..0x9000).step_by(8) {
            let entry = (rng.below(8) << 12 | 0x5000) & 0xf000 | rng.next() & 0xe7 | u64::from(!rng.one_in(8));
            m.ram.put(at, 8, entry);
        }
        m.state.cr0 |= CR0_PE | CR0_PG;
        m.state.cr3 = 0x5000;
        m.state.cr4 |= rng.next() & (CR4_PSE | CR4_PKE | CR4_PGE);
        let access = Access { write: write && !fetch, fetch, user, smap_open: rng.one_in(2) };
        for _ in 0..64 {
            let addr = rng.address() & if m.state.long_mode() { u64::MAX } else { 0xffff_ffff };
            if is_canonical(addr) {
                let paging = Paging::of(&m.state, &m.model);
                if let Ok(page) = paging.walk(&mut m.ram, addr, access) {
                    prop_assert_eq!(page.base & ((1 << page.shift) - 1), 0);
                    prop_assert_eq!(paging.check(&page, access), Ok(()));
                }
            }
        }
    }
}
