//! Cases on the soft backend: a supervisor of a few instructions, and the case in user mode under it.

use std::sync::Arc;

use squib_core::x86::bits::*;
use squib_core::x86::{DescriptorTable, Registers, Segment, SystemRegisters};
use squib_core::{
    Clock, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, VmConfig, VmEntry, VmExit, Waker,
};

use crate::case::Case;
use crate::layout::{self, Access, PAGE};
use crate::state::{Event, FLAGS, Outcome, State, fx};

/// Guest-physical addresses.
mod phys {
    pub const PML4: u64 = 0x1000;
    pub const LOW_PDPT: u64 = 0x2000;
    pub const LOW_PD: u64 = 0x3000;
    pub const LOW_PT: u64 = 0x4000;
    pub const HIGH_PDPT: u64 = 0x5000;
    pub const HIGH_PD: u64 = 0x6000;
    pub const HIGH_PT: u64 = 0x7000;
    pub const GDT: u64 = 0x8000;
    pub const IDT: u64 = 0x9000;
    pub const STUBS: u64 = 0xa000;
    pub const TSS: u64 = 0xb000;
    /// An IRET frame, and above it the stack that exceptions get.
    pub const STACK: u64 = 0xc000;
    pub const STACK_TOP: u64 = 0xd000;
    /// End of what the supervisor sees.
    pub const END: u64 = 0x10000;
    /// The pages of cases, the last one first.
    pub const CASE: u64 = 0x40000;
    pub const SIZE: u64 = 0x8_0000;
}

/// Linear address of guest-physical 0, for the supervisor only.
const SUPERVISOR: u64 = 0xffff_8000_0000_0000;

/// Linux's selectors for 64-bit programs, which the host has.
mod selector {
    pub const KERNEL_CODE: u16 = 0x10;
    pub const KERNEL_DATA: u16 = 0x18;
    pub const USER_DATA: u16 = 0x2b;
    pub const USER_CODE: u16 = 0x33;
    pub const TSS: u16 = 0x40;
}

const VECTORS: u64 = 32;
const STUB: u64 = 16;
const IRETQ: u64 = phys::STUBS + VECTORS * STUB;

/// Instructions after which a case counts as endless.
const BUDGET: u64 = 200_000;

/// A clock that stands still, so that runs repeat.
struct Frozen;

impl Clock for Frozen {
    fn now_ns(&self) -> u64 {
        0
    }

    fn unix_ns(&self) -> u64 {
        0
    }
}

impl Waker for Frozen {
    fn wake(&self) {}
}

/// A soft vCPU that runs cases.
pub struct Soft {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    /// What the case's memory holds now.
    holds: Box<[u8]>,
    xsave: Vec<u8>,
}

/// Why there is no outcome.
#[derive(Debug)]
pub enum Failure {
    /// The case did not end.
    Endless,
    /// The backend failed, or left for a reason that no case has.
    Broken(String),
}

/// Where page `backing` of a case is.
fn page_of(backing: usize) -> u64 {
    phys::CASE + (layout::BACKING - backing) as u64 * PAGE
}

impl Soft {
    /// A vCPU of `backend`.
    ///
    /// # Errors
    /// The backend's.
    pub fn new(backend: &dyn HypervisorBackend) -> Result<Self> {
        let memory = GuestMemory::new(phys::SIZE)?;
        write_tables(&memory)?;
        let config = VmConfig {
            memory: memory.clone(),
            irqchip: IrqchipKind::None,
            clock: Arc::new(Frozen),
            waker: Arc::new(Frozen),
        };
        let mut vcpu = backend.create_vm(&config)?.create_vcpu(0)?;
        vcpu.x86()?.set_system_registers(&system_registers())?;
        let xsave = vcpu.x86()?.xsave()?;
        Ok(Self { memory, vcpu, holds: vec![0; layout::MEMORY].into(), xsave })
    }

    /// Runs `case`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&mut self, case: &Case) -> std::result::Result<Outcome, Failure> {
        let broken = |e: squib_core::Error| Failure::Broken(e.to_string());
        self.enter(case).map_err(broken)?;
        match self.vcpu.run(VmEntry::Resume).map_err(broken)? {
            VmExit::Hypercall { .. } => self.outcome().map_err(broken),
            VmExit::BudgetSpent => Err(Failure::Endless),
            other => Err(Failure::Broken(format!("{other:?}"))),
        }
    }

    /// Puts the case's memory and registers in place.
    fn enter(&mut self, case: &Case) -> Result<()> {
        let memory = case.memory();
        for (backing, page) in memory.chunks(PAGE as usize).enumerate() {
            let range = backing * PAGE as usize..(backing + 1) * PAGE as usize;
            if self.holds[range.clone()] != *page {
                self.memory.write(page_of(backing), page)?;
                self.holds[range].copy_from_slice(page);
            }
        }
        let s = &case.state;
        let frame = [
            s.rip,
            u64::from(selector::USER_CODE),
            s.rflags | FLAGS,
            s.gpr[4],
            u64::from(selector::USER_DATA),
        ];
        for (i, word) in frame.into_iter().enumerate() {
            self.memory.write(phys::STACK + 8 * i as u64, &word.to_le_bytes())?;
        }
        let mut gpr = s.gpr;
        gpr[4] = SUPERVISOR + phys::STACK;
        self.xsave[..fx::SIZE].copy_from_slice(&s.fx);
        self.xsave[fx::MXCSR_MASK..fx::MXCSR_MASK + 4].copy_from_slice(&0xffffu32.to_le_bytes());
        self.xsave[512] |= 3;
        let x86 = self.vcpu.x86()?;
        // Where the case before ended in user mode, the supervisor's segments are missing.
        let mut system = x86.system_registers()?;
        if system.cs.selector != selector::KERNEL_CODE {
            system = system_registers();
            x86.set_system_registers(&system)?;
        }
        x86.set_xsave(&self.xsave)?;
        x86.set_registers(&Registers::from_gprs(gpr, SUPERVISOR + IRETQ, 2))?;
        self.vcpu.set_budget(Some(BUDGET))
    }

    /// What the case left, seen from the handler of the exception that ended it.
    fn outcome(&mut self) -> Result<Outcome> {
        let x86 = self.vcpu.x86()?;
        let registers = x86.registers()?;
        let vector = (registers.rip.wrapping_sub(SUPERVISOR + phys::STUBS) / STUB) as u8;
        let address = if vector == 14 { x86.system_registers()?.cr2 } else { 0 };
        let mut state = State { gpr: registers.gprs(), ..State::default() };
        state.fx.copy_from_slice(&x86.xsave()?[..fx::SIZE]);
        let mut at = registers.rsp.wrapping_sub(SUPERVISOR);
        let mut pop = || {
            let word = self.memory.read_array::<8>(at).map(u64::from_le_bytes);
            at += 8;
            word
        };
        let coded = matches!(vector, 8 | 10..=14 | 17 | 21);
        let error = if coded { pop()? as u32 } else { 0 };
        state.rip = pop()?;
        let _cs = pop()?;
        state.rflags = pop()?;
        state.gpr[4] = pop()?;
        for (backing, page) in self.holds.chunks_mut(PAGE as usize).enumerate() {
            self.memory.read(page_of(backing), page)?;
        }
        Ok(Outcome { state, memory: self.holds.clone(), event: Event { vector, error, address } })
    }
}

fn put(memory: &GuestMemory, table: u64, index: u64, entry: u64) -> Result<()> {
    memory.write(table + 8 * index, &entry.to_le_bytes())
}

/// Page tables, descriptor tables and handlers.
fn write_tables(m: &GuestMemory) -> Result<()> {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const NO_EXECUTE: u64 = 1 << 63;
    let table = |levels: [u64; 3], addr: u64, rights: u64| -> Result<()> {
        let [pdpt, pd, pt] = levels;
        put(m, phys::PML4, addr >> 39 & 511, pdpt | rights)?;
        put(m, pdpt, addr >> 30 & 511, pd | rights)?;
        put(m, pd, addr >> 21 & 511, pt | rights)
    };
    table([phys::LOW_PDPT, phys::LOW_PD, phys::LOW_PT], layout::BASE, PRESENT | WRITE | USER)?;
    table([phys::HIGH_PDPT, phys::HIGH_PD, phys::HIGH_PT], SUPERVISOR, PRESENT | WRITE)?;
    for (i, (access, backing)) in layout::MAP.into_iter().enumerate() {
        let rights = match access {
            Access::None => continue,
            Access::Code => PRESENT | WRITE | USER,
            Access::Data => PRESENT | WRITE | USER | NO_EXECUTE,
            Access::ReadOnly => PRESENT | USER | NO_EXECUTE,
        };
        let index = (layout::BASE >> 12 & 511) + i as u64;
        put(m, phys::LOW_PT, index, page_of(backing) | rights)?;
    }
    for page in 0..phys::END / PAGE {
        put(m, phys::HIGH_PT, page, (page * PAGE) | PRESENT | WRITE)?;
    }
    // Linux's: null, 32-bit kernel code, kernel code and data, 32-bit user code, user data and code.
    let tss = SUPERVISOR + phys::TSS;
    let gdt = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0,
        0x67 | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
    ];
    for (i, entry) in gdt.into_iter().enumerate() {
        put(m, phys::GDT, i as u64, entry)?;
    }
    for vector in 0..VECTORS {
        let handler = SUPERVISOR + phys::STUBS + vector * STUB;
        // User code may raise #BP by INT3, and #OF by INTO.
        let dpl: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let low = handler & 0xffff
            | u64::from(selector::KERNEL_CODE) << 16
            | (0x8e | dpl << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        put(m, phys::IDT, 2 * vector, low)?;
        put(m, phys::IDT, 2 * vector + 1, handler >> 32)?;
        // VMCALL: an exit that leaves everything as it is.
        m.write(phys::STUBS + vector * STUB, &[0x0f, 0x01, 0xc1])?;
    }
    m.write(IRETQ, &[0x48, 0xcf])?;
    m.write(phys::TSS + 4, &(SUPERVISOR + phys::STACK_TOP).to_le_bytes())?;
    m.write(phys::TSS + 102, &0x68u16.to_le_bytes())
}

fn system_registers() -> SystemRegisters {
    let null = Segment { unusable: true, ..Segment::default() };
    SystemRegisters {
        cs: Segment::flat_code(selector::KERNEL_CODE, true),
        ss: Segment::flat_data(selector::KERNEL_DATA),
        ds: null,
        es: null,
        fs: Segment { base: layout::FS_BASE, ..null },
        gs: Segment { base: layout::GS_BASE, ..null },
        ldt: null,
        tr: Segment::task_state(selector::TSS, SUPERVISOR + phys::TSS, 0x67),
        gdt: DescriptorTable { base: SUPERVISOR + phys::GDT, limit: 0x7f },
        idt: DescriptorTable { base: SUPERVISOR + phys::IDT, limit: (VECTORS * 16 - 1) as u16 },
        cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG,
        cr3: phys::PML4,
        cr4: CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT,
        efer: EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE,
        ..SystemRegisters::default()
    }
}
