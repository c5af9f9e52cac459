//! Body of the fuzz target `code`: bytes run as code in any mode, with whatever tables and registers they choose.
//!
//! The targets in `fuzz/` call it, [`msrs`](msrs()) and [`translation`](translation()) with libFuzzer's bytes, the tests with
//! proptest's.

mod msrs;
mod translation;

use std::sync::Arc;

pub use msrs::msrs;
pub use translation::translation;

use squib_core::x86::{DescriptorTable, Registers, Segment, SystemRegisters, bits::*};
use squib_core::{
    Clock, ExitData, GuestMemory, HypervisorBackend, IrqchipKind, Vcpu, VmConfig, VmEntry, VmExit, Waker,
};
use squib_x86::system::msr;

use crate::{CpuModel, SoftBackend};

const MEMORY: u64 = 1 << 20;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const CODE: u64 = 0x8000;
const STACK: u64 = 0x9000;

/// Most exits of one run.
const MOST_EXITS: usize = 64;
/// Most instructions of one run.
const BUDGET: u64 = 800;

/// Time that stands still, so that two runs see the same.
struct Still;

impl Clock for Still {
    fn now_ns(&self) -> u64 {
        1_000_000
    }

    fn unix_ns(&self) -> u64 {
        1_000_000_000
    }
}

impl Waker for Still {
    fn wake(&self) {}
}

/// What can be seen of a run.
#[derive(Debug, PartialEq)]
struct Seen {
    exits: Vec<String>,
    registers: Registers,
    system: SystemRegisters,
    xsave: Vec<u8>,
    memory: Vec<u8>,
}

/// Takes numbers from the input; zeros after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// Runs `data` with and without the specialised handlers, and asserts that nothing of the outcome differs. Where the
/// budget ends a run, which is exact only without them, the exits before it are compared.
pub fn code(data: &[u8]) {
    let fast = run(&SoftBackend::new(CpuModel::max()), data);
    let plain = run(&SoftBackend::plain(CpuModel::max()), data);
    let spent = |s: &Seen| s.exits.last().is_some_and(|e| e == "BudgetSpent");
    if spent(&fast) || spent(&plain) {
        let common = fast.exits.len().min(plain.exits.len()).saturating_sub(1);
        assert_eq!(fast.exits[..common], plain.exits[..common]);
    } else {
        assert_eq!(fast, plain);
    }
}

fn run(backend: &SoftBackend, data: &[u8]) -> Seen {
    let mut input = Input(data);
    let Ok(memory) = GuestMemory::new(MEMORY) else { unreachable!("a megabyte can be had") };
    let clock = Arc::new(Still);
    let config = VmConfig {
        memory: memory.clone(),
        irqchip: IrqchipKind::Full,
        clock: clock.clone(),
        waker: clock,
        dirty_ring: None,
    };
    let vm = backend.create_vm(&config).unwrap_or_else(|e| unreachable!("{e}"));
    let mut vcpu = vm.create_vcpu(0).unwrap_or_else(|e| unreachable!("{e}"));
    prepare(&mut input, &memory, &mut *vcpu);
    let mut exits = Vec::new();
    let mut entry = VmEntry::Resume;
    let _ = vcpu.set_budget(Some(BUDGET));
    for n in 0..MOST_EXITS {
        let exit = vcpu.run(entry).unwrap_or_else(|e| unreachable!("{e}"));
        exits.push(format!("{exit:?}"));
        entry = match exit {
            VmExit::Pio { write: false, data, .. } | VmExit::Mmio { write: false, data, .. } => {
                VmEntry::Read(ExitData::from_elem(n as u8, data.len()))
            }
            VmExit::Pio { .. } | VmExit::Mmio { .. } => VmEntry::Resume,
            VmExit::Hypercall { .. } => VmEntry::Hypercall(n as u64),
            _ => break,
        };
    }
    let mut bytes = vec![0; MEMORY as usize];
    let _ = memory.read(0, &mut bytes);
    let x86 = vcpu.x86().unwrap_or_else(|e| unreachable!("{e}"));
    Seen {
        exits,
        registers: x86.registers().unwrap_or_default(),
        system: x86.system_registers().unwrap_or_default(),
        xsave: x86.xsave().unwrap_or_default(),
        memory: bytes,
    }
}

/// Tables that mostly work and partly are the input's, registers of its choice, and its code.
fn prepare(input: &mut Input<'_>, memory: &GuestMemory, vcpu: &mut dyn Vcpu) {
    let choice = input.byte();
    let put = |addr: u64, value: u64| {
        let _ = memory.write(addr, &value.to_le_bytes());
    };
    put(PML4, PDPT | 7);
    put(PDPT, DIRECTORY | 7);
    put(DIRECTORY, TABLE | 7);
    for page in 0..MEMORY / 4096 {
        put(TABLE + page * 8, page << 12 | 0x67);
    }
    for entry in
        [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_fb00_0000_ffff, 0x00cf_f300_0000_ffff]
    {
        put(GDT + 8 * (entry >> 40 & 7), entry);
    }
    for n in 0..u64::from(choice >> 4) {
        let at = input.word();
        // Anything in the tables: page table entries, descriptors, gates.
        put(PML4 + (at % (IDT + 0x1000 - PML4)) / 8 * 8, input.word().rotate_left(n as u32));
    }
    let mut gprs: [u64; 16] = std::array::from_fn(|_| match input.byte() & 3 {
        0 => u64::from(input.byte()) << 12 | 0xff8,
        1 => input.word(),
        _ => u64::from(input.byte()),
    });
    gprs[1] = match gprs[1] {
        n @ 0x40..0x80 => msr::STATE_MSRS[n as usize % msr::STATE_MSRS.len()].into(),
        n @ 0x80..0xc0 => 0x7c0 + n,
        n => n,
    };
    let narrow = gprs[4] & 1 != 0;
    gprs[4] = STACK;
    let iopl = if choice & 8 != 0 { RFLAGS_IOPL } else { 0 };
    let flags = input.word() & 0xcd5 | RFLAGS_FIXED | iopl;
    // Behind the input's code is HLT, so that runs end there.
    let mut code = [0xf4; 2 * 4096];
    let len = input.0.len().min(code.len());
    code[..len].copy_from_slice(&input.0[..len]);
    let _ = memory.write(CODE, &code);
    let Ok(x86) = vcpu.x86() else { return };
    let mut s = x86.system_registers().unwrap_or_default();
    let (ring3, other) = (choice & 3 == 3, choice & 4 != 0);
    if choice & 3 != 0 {
        let dpl = if ring3 { 3 } else { 0 };
        let long = choice & 3 != 1;
        let data = Segment { dpl, ..Segment::flat_data(0x10) };
        // 64-bit or compatibility mode; protected mode with 32-bit paging, or without in segments of 32 and of 16 bits.
        s.cs = Segment { dpl, ..Segment::flat_code(8, long && !other) };
        (s.ds, s.es, s.ss, s.fs, s.gs) = (data, data, data, data, data);
        s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG | CR0_WP;
        s.cr3 = PML4;
        s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
        s.efer = EFER_SCE | EFER_NXE;
        if long {
            s.efer |= EFER_LME | EFER_LMA;
        } else if other {
            put(PML4, 0x87);
            s.cr4 = s.cr4 & !CR4_PAE | CR4_PSE;
        } else {
            s.cr0 &= !CR0_PG;
            s.cs.big = !narrow;
        }
        s.gdt = DescriptorTable { base: GDT, limit: 0xff };
        s.idt = DescriptorTable { base: IDT, limit: 0xfff };
        s.tr = Segment::task_state(0x28, 0x7000, 0x67);
    } else {
        s.cs = Segment { base: 0, kind: 0xb, ..Segment::real_mode(0) };
    }
    let _ = x86.set_system_registers(&s);
    let _ = x86.set_registers(&Registers::from_gprs(gprs, CODE, flags));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn any_code_does_the_same_by_either_way(data in prop::collection::vec(any::<u8>(), 0..400)) {
            super::code(&data);
        }
    }
}
