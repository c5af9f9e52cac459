//! Cases on a backend: the same address space, descriptor tables and selectors as on the host, a supervisor that does
//! nothing but halt at every exception, and the case under it.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use iced_x86::{Decoder, DecoderOptions, Instruction};
use squib_core::x86::bits::*;
use squib_core::x86::{DebugRegisters, DescriptorTable, Registers, Segment, SystemRegisters};
use squib_core::{
    Clock, Error, ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, VmConfig, VmEntry,
    VmExit, Waker,
};

use crate::case::{Case, has_error_code};
use crate::layout::{self, Access, LDT, Mode, PAGE, selector};
use crate::state::{Event, Outcome, POINTERS, State, fx};
use crate::system::SUPERVISOR;
use crate::trace::Trace;

/// Guest-physical addresses, which the supervisor sees from [`SUPERVISOR`] on.
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
    pub const LDT: u64 = 0xc000;
    /// End of the stack that every exception gets.
    pub const STACK_TOP: u64 = 0xe000;
    /// Page tables of protected mode.
    pub const PD_32: u64 = 0xe000;
    pub const PT_32: u64 = 0xf000;
    /// Tables of protected mode, in the same pages as those of long mode. Real mode's vectors are at 0.
    pub const GDT_32: u64 = GDT + 0x800;
    pub const IDT_32: u64 = IDT + 0x800;
    pub const TSS_32: u64 = TSS + 0x800;
    /// End of what the supervisor sees.
    pub const END: u64 = 0x10000;
    pub const SIZE: u64 = 0x8_0000;
}

/// CR4.FSGSBASE: user code may read and write the bases of FS and GS.
const CR4_FSGSBASE: u64 = 1 << 16;

/// Selector of the supervisor's code in protected mode.
const SUPERVISOR_CODE_32: u64 = 8;

/// Exceptions.
const VECTORS: u64 = 32;
/// Bytes from one handler to the next, and how many of them there are in real mode.
const STUB: u64 = 16;
const STUBS: u64 = 256;

/// Instructions after which a case counts as endless, unless it is asked for more.
const BUDGET: u64 = 200_000;

/// Instructions after which a trace counts as endless: more than LOOP repeats with 16 bits of count.
const TRACED: usize = 1 << 20;

/// Bytes of the longest instruction (Intel SDM vol. 2, 2.3.11).
const LONGEST: usize = 15;

/// How long a case may run where instructions are not counted.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// A vCPU that runs cases.
pub struct Guest {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    counts: bool,
    /// What the case's memory holds now.
    holds: Box<[u8]>,
    /// The supervisor's memory as it was made.
    supervisor: Vec<u8>,
    /// The case before may have changed the supervisor's state.
    disturbed: bool,
    xsave: Vec<u8>,
    xcr0: u64,
    cr4: u64,
    pointers: bool,
}

/// Why there is no outcome.
#[derive(Debug)]
pub enum Failure {
    /// The case did not end.
    Endless,
    /// The backend failed, or left for a reason that no case has.
    Broken(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Broken(e.to_string())
    }
}

/// Linear address of guest-physical 0 in the supervisor's part of an address space.
fn supervisor_base(mode: Mode) -> u64 {
    if mode.is_long() { SUPERVISOR } else { 0 }
}

/// The guest-physical address of linear address `addr`, where one can be a stack.
fn physical(mode: Mode, addr: u64) -> u64 {
    match mode.offset(addr) {
        Some(at) => layout::physical(at / PAGE as usize) + at as u64 % PAGE,
        None => addr.wrapping_sub(supervisor_base(mode)),
    }
}

impl Guest {
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
            dirty_ring: None,
        };
        let mut vcpu = backend.create_vm(&config)?.create_vcpu(0)?;
        let x86 = vcpu.x86()?;
        // Leaf 1 ECX bit 26: XSAVE. Leaf 7 EBX bit 0: FSGSBASE.
        let xsave = x86.cpuid(1, 0)?.ecx >> 26 & 1 != 0;
        let features = x86.cpuid(7, 0)?.ebx;
        let bases = features & 1 != 0;
        let mut cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
        cr4 |= if xsave { CR4_OSXSAVE } else { 0 } | if bases { CR4_FSGSBASE } else { 0 };
        let mut supervisor = vec![0; phys::END as usize];
        memory.read(0, &mut supervisor)?;
        Ok(Self {
            xsave: x86.xsave()?,
            xcr0: if xsave { 3 } else { 1 },
            memory,
            vcpu,
            counts: backend.capabilities().instruction_budget,
            holds: vec![0; layout::MEMORY].into(),
            supervisor,
            disturbed: true,
            cr4,
            pointers: features & POINTERS == POINTERS,
        })
    }

    /// Makes `limit` the limit of the segment that tells the processor's number.
    ///
    /// # Errors
    /// The backend's.
    pub fn number_processor(&mut self, limit: u32) -> Result<()> {
        let limit = u64::from(limit);
        let entry = PROCESSOR_NUMBER | limit & 0xffff | (limit >> 16 & 15) << 48;
        let at = phys::GDT + u64::from(selector::CPU_NUMBER & !7);
        self.supervisor[at as usize..at as usize + 8].copy_from_slice(&entry.to_le_bytes());
        self.memory.write(at, &entry.to_le_bytes())
    }

    /// Runs `case`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run(&mut self, case: &Case) -> std::result::Result<Outcome, Failure> {
        self.run_within(case, BUDGET)
    }

    /// Runs `case` for up to `budget` instructions, where the backend counts them.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn run_within(&mut self, case: &Case, budget: u64) -> std::result::Result<Outcome, Failure> {
        self.enter(case)?;
        let exit = if self.counts {
            self.vcpu.set_budget(Some(budget))?;
            self.vcpu.run(VmEntry::Resume)?
        } else {
            self.run_patiently()?
        };
        self.look()?;
        match exit {
            VmExit::Hlt => Ok(self.outcome(case)?),
            VmExit::TripleFault => Ok(Outcome { event: Event::TripleFault, ..self.outcome(case)? }),
            VmExit::BudgetSpent | VmExit::Cancelled => Err(Failure::Endless),
            other => Err(Failure::Broken(format!("{other:?}"))),
        }
    }

    /// What `case` runs, on a backend whose instruction budgets are exact.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn trace(&mut self, case: &Case) -> std::result::Result<Trace, Failure> {
        self.enter(case)?;
        let mut steps = Vec::new();
        let mut ended = false;
        while !ended && steps.len() < TRACED {
            steps.extend(self.next_instruction(case.mode)?);
            self.vcpu.set_budget(Some(1))?;
            ended = !matches!(self.vcpu.run(VmEntry::Resume)?, VmExit::BudgetSpent);
        }
        self.look()?;
        if ended { Ok(Trace::new(&steps, self.outcome(case)?.state.rip)) } else { Err(Failure::Endless) }
    }

    /// The instruction that comes next, and CL; `None` where it does not lie in the case's memory. Limits of segments do not
    /// count, and what is not there of an instruction is zero.
    fn next_instruction(&mut self, mode: Mode) -> Result<Option<(Instruction, u8)>> {
        let x86 = self.vcpu.x86()?;
        let registers = x86.registers()?;
        let cs = x86.system_registers()?.cs;
        let (bits, base) = match (cs.long && mode.is_long(), cs.big) {
            (true, _) => (64, 0),
            (false, true) => (32, cs.base),
            (false, false) => (16, cs.base),
        };
        let start = base.wrapping_add(registers.rip);
        if mode.offset(start).is_none() {
            return Ok(None);
        }
        let mut bytes = [0; LONGEST];
        for (addr, byte) in (start..).zip(&mut bytes) {
            let Some(at) = mode.offset(addr) else { break };
            let physical = layout::physical(at / PAGE as usize) + at as u64 % PAGE;
            self.memory.read(physical, std::slice::from_mut(byte))?;
        }
        let mut decoder = Decoder::with_ip(bits, &bytes, registers.rip, DecoderOptions::NONE);
        Ok(Some((decoder.decode(), registers.rcx as u8)))
    }

    /// Reads the case's memory. Whatever came of it, the next case counts on knowing what memory holds.
    fn look(&mut self) -> Result<()> {
        for (backing, page) in self.holds.chunks_mut(PAGE as usize).enumerate() {
            self.memory.read(layout::physical(backing), page)?;
        }
        Ok(())
    }

    fn run_patiently(&mut self) -> Result<VmExit> {
        let stop = self.vcpu.cancel_handle();
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    stop.cancel();
                }
            });
            let exit = self.vcpu.run(VmEntry::Resume);
            drop(done);
            exit
        })
    }

    /// The vCPU, for what a case left in system registers.
    pub fn vcpu(&mut self) -> &mut dyn Vcpu {
        &mut *self.vcpu
    }

    /// `len` bytes of the supervisor's memory.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] for what is not the supervisor's.
    pub fn supervisor(&self, addr: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.memory.read(supervised(addr, len)?, &mut bytes)?;
        Ok(bytes)
    }

    /// Puts the case's memory and registers in place.
    fn enter(&mut self, case: &Case) -> Result<()> {
        let memory = case.memory();
        for (backing, page) in memory.chunks(PAGE as usize).enumerate() {
            let range = backing * PAGE as usize..(backing + 1) * PAGE as usize;
            if self.holds[range.clone()] != *page {
                self.memory.write(layout::physical(backing), page)?;
                self.holds[range].copy_from_slice(page);
            }
        }
        if self.disturbed {
            self.memory.write(0, &self.supervisor)?;
        }
        for (addr, bytes) in case.patches.iter().filter(|(addr, _)| *addr >= SUPERVISOR) {
            self.memory.write(supervised(*addr, bytes.len())?, bytes)?;
        }
        let s = &case.state;
        self.xsave[..fx::SIZE].copy_from_slice(&s.fx);
        self.xsave[fx::MXCSR_MASK..fx::MXCSR_MASK + 4].copy_from_slice(&0xffffu32.to_le_bytes());
        self.xsave[512] |= 3;
        let x86 = self.vcpu.x86()?;
        x86.set_system_registers(&system_registers(case, self.cr4))?;
        if self.disturbed {
            x86.set_xcr0(self.xcr0)?;
            x86.set_debug_registers(&DebugRegisters { db: [0; 4], dr6: 0xffff_0ff0, dr7: 0x400 })?;
        }
        for (register, value) in &case.system {
            register.set(x86, *value)?;
        }
        x86.set_xsave(&self.xsave)?;
        x86.set_registers(&Registers::from_gprs(s.gpr, s.rip, s.rflags | 2))?;
        self.disturbed = !case.is_for_hosts();
        Ok(())
    }

    /// What the case left, seen from the handler of the exception that ended it, or where it halted.
    fn outcome(&mut self, case: &Case) -> Result<Outcome> {
        let x86 = self.vcpu.x86()?;
        let registers = x86.registers()?;
        let system = x86.system_registers()?;
        let mut state = State::new(case.mode);
        state.gpr = registers.gprs();
        state.rip = registers.rip;
        state.rflags = registers.rflags;
        state.segments =
            [&system.es, &system.cs, &system.ss, &system.ds, &system.fs, &system.gs].map(|s| s.selector);
        state.bases = [system.fs.base, system.gs.base];
        state.fx.copy_from_slice(&x86.xsave()?[..fx::SIZE]);
        let mode = case.mode;
        let based = |segment: &Segment, offset: u64| match mode {
            Mode::Real | Mode::Protected => segment.base.wrapping_add(offset) & 0xffff_ffff,
            _ => offset,
        };
        let stub = based(&system.cs, registers.rip).wrapping_sub(supervisor_base(mode) + phys::STUBS);
        let mut event = Event::Halt;
        let stubs = if mode == Mode::Real { STUBS } else { VECTORS };
        if stub < stubs * STUB {
            let vector = (stub / STUB) as u8;
            let (step, mask) = match mode {
                Mode::Real => (2, 0xffff),
                Mode::Protected => (4, 0xffff_ffff),
                _ => (8, u64::MAX),
            };
            let mut sp = registers.rsp & mask;
            let mut pop = || {
                let mut word = [0; 8];
                self.memory.read(physical(mode, based(&system.ss, sp)), &mut word[..step])?;
                sp = sp.wrapping_add(step as u64) & mask;
                Ok::<_, Error>(u64::from_le_bytes(word))
            };
            let error = if mode != Mode::Real && has_error_code(vector) { pop()? as u32 } else { 0 };
            state.rip = pop()?;
            state.segments[1] = pop()? as u16;
            state.rflags = pop()? | if mode == Mode::Real { registers.rflags & !mask } else { 0 };
            // The stack's pointer is on the new stack where there is one, which in long mode is always.
            if mode.is_long() || mode == Mode::Protected && state.segments[1] & 3 != 0 {
                state.gpr[4] = pop()?;
                state.segments[2] = pop()? as u16;
            } else {
                state.gpr[4] = registers.rsp & !mask | sp;
            }
            let address = if vector == 14 { system.cr2 } else { 0 };
            event = Event::Exception { vector, error, address };
        }
        Ok(Outcome { state, memory: self.holds.clone(), event, pointers: self.pointers })
    }
}

/// The guest-physical address of `len` bytes of the supervisor's memory.
fn supervised(addr: u64, len: usize) -> Result<u64> {
    let at = addr.wrapping_sub(SUPERVISOR);
    if at.checked_add(len as u64).is_none_or(|end| end > phys::END) {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("{addr:#x} is not the supervisor's memory"),
        ));
    }
    Ok(at)
}

fn put(memory: &GuestMemory, table: u64, index: u64, entry: u64) -> Result<()> {
    memory.write(table + 8 * index, &entry.to_le_bytes())
}

/// A 16-byte descriptor of a system segment in the global descriptor table (Intel SDM vol. 3, figure 8-4).
const fn system_descriptor(base: u64, limit: u64, kind: u64) -> [u64; 2] {
    let low = limit | (base & 0xff_ffff) << 16 | (0x80 | kind) << 40 | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// The global descriptor table. It is Linux's: 32-bit kernel code, kernel code and data, 32-bit user code, user data
/// and code, task state, LDT, and the segment that tells the processor's number.
fn global_descriptors() -> [u64; 16] {
    let mut gdt = [0; 16];
    gdt[1..7].copy_from_slice(&[
        0x00cf_9b00_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
    ]);
    let at = |selector: u16| usize::from(selector / 8);
    let tss = at(selector::TSS);
    gdt[tss..tss + 2].copy_from_slice(&system_descriptor(SUPERVISOR + phys::TSS, 0x67, 0xb));
    let ldt = at(selector::LDT);
    gdt[ldt..ldt + 2].copy_from_slice(&system_descriptor(SUPERVISOR + phys::LDT, LDT_LIMIT, 2));
    gdt[at(selector::CPU_NUMBER)] = PROCESSOR_NUMBER;
    gdt
}

/// Descriptor of the segment whose limit is the processor's number, for number 0.
const PROCESSOR_NUMBER: u64 = 0x0040_f500_0000_0000;

/// The global descriptor table of protected mode: code, 16-bit code and data of the supervisor; code, data and 16-bit code of the
/// user; data of the supervisor with 16-bit stack pointers; task state; LDT.
fn protected_descriptors() -> [u64; 16] {
    const TSS: u64 = 0x67 | (phys::TSS_32 & 0xffff) << 16 | 0x8b << 40;
    const LDT: u64 = LDT_LIMIT | (phys::LDT & 0xffff) << 16 | 0x82 << 40;
    let mut gdt = [0; 16];
    gdt[1..9].copy_from_slice(&[
        0x00cf_9b00_0000_ffff,
        0x008f_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x008f_fb00_0000_ffff,
        0x008f_9300_0000_ffff,
        TSS,
    ]);
    gdt[usize::from(selector::LDT / 8)] = LDT;
    gdt
}

const LDT_LIMIT: u64 = (8 * LDT.len() - 1) as u64;

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
        put(m, phys::LOW_PT, index, layout::physical(backing) | rights)?;
    }
    for page in 0..phys::END / PAGE {
        put(m, phys::HIGH_PT, page, (page * PAGE) | PRESENT | WRITE)?;
    }
    for (i, entry) in (0..).zip(global_descriptors()) {
        put(m, phys::GDT, i, entry)?;
    }
    for (i, entry) in (0..).zip(LDT) {
        put(m, phys::LDT, i, entry.map_or(0, |d| d.encode()))?;
    }
    for vector in 0..VECTORS {
        let handler = SUPERVISOR + phys::STUBS + vector * STUB;
        // User code may raise #BP by INT3, and #OF by INTO. Every exception gets the first stack of the TSS's table.
        let dpl: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let low = handler & 0xffff
            | u64::from(selector::KERNEL_CODE) << 16
            | 1 << 32
            | (0x8e | dpl << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        put(m, phys::IDT, 2 * vector, low)?;
        put(m, phys::IDT, 2 * vector + 1, handler >> 32)?;
        let offset = phys::STUBS + vector * STUB;
        let low = offset | SUPERVISOR_CODE_32 << 16 | (0x8e | dpl << 5) << 40;
        put(m, phys::IDT_32, vector, low)?;
    }
    for number in 0..STUBS {
        // HLT: an exit that leaves everything as it is.
        m.write(phys::STUBS + number * STUB, &[0xf4])?;
        let offset = number * STUB;
        let vector = (phys::STUBS >> 4) << 16 | offset;
        m.write(4 * number, &(vector as u32).to_le_bytes())?;
    }
    let stack = (SUPERVISOR + phys::STACK_TOP).to_le_bytes();
    // RSP0 and IST1.
    m.write(phys::TSS + 4, &stack)?;
    m.write(phys::TSS + 36, &stack)?;
    // No permission map for ports.
    m.write(phys::TSS + 102, &0x68u16.to_le_bytes())?;
    write_protected_tables(m)
}

/// What else protected mode needs: page tables, which show the supervisor its memory at 0, descriptors and task state.
fn write_protected_tables(m: &GuestMemory) -> Result<()> {
    const PRESENT: u32 = 1;
    const WRITE: u32 = 2;
    const USER: u32 = 4;
    const LARGE: u32 = 0x80;
    let put = |table: u64, index: u64, entry: u32| m.write(table + 4 * index, &entry.to_le_bytes());
    put(phys::PD_32, 0, PRESENT | WRITE | LARGE)?;
    put(phys::PD_32, layout::BASE >> 22, phys::PT_32 as u32 | PRESENT | WRITE | USER)?;
    for (i, (access, backing)) in (0..).zip(layout::MAP) {
        let rights = match access {
            Access::None => continue,
            Access::Code | Access::Data => PRESENT | WRITE | USER,
            Access::ReadOnly => PRESENT | USER,
        };
        put(phys::PT_32, i, layout::physical(backing) as u32 | rights)?;
    }
    for (i, entry) in (0..).zip(protected_descriptors()) {
        m.write(phys::GDT_32 + 8 * i, &entry.to_le_bytes())?;
    }
    m.write(phys::TSS_32 + 4, &(phys::STACK_TOP as u32).to_le_bytes())?;
    m.write(phys::TSS_32 + 8, &selector::KERNEL_DATA.to_le_bytes())?;
    m.write(phys::TSS_32 + 102, &0x68u16.to_le_bytes())
}

/// A segment register of real mode.
fn real_segment(selector: u16, kind: u8) -> Segment {
    Segment {
        base: u64::from(selector) << 4,
        limit: 0xffff,
        selector,
        kind,
        present: true,
        code_or_data: true,
        ..Segment::default()
    }
}

/// The hidden part that loading `selector` gives a segment register.
fn segment(selector: u16, global: &[u64]) -> Segment {
    let index = usize::from(selector / 8);
    let entry = if selector & 4 == 0 {
        global.get(index).copied().unwrap_or(0)
    } else {
        LDT.get(index).copied().flatten().map_or(0, |d| d.encode())
    };
    let bit = |n: u32| entry >> n & 1 != 0;
    let limit = (entry & 0xffff | entry >> 32 & 0xf_0000) as u32;
    Segment {
        base: entry >> 16 & 0xff_ffff | entry >> 32 & 0xff00_0000,
        limit: if bit(55) { limit << 12 | 0xfff } else { limit },
        selector,
        kind: (entry >> 40 & 15) as u8,
        dpl: (entry >> 45 & 3) as u8,
        present: bit(47),
        code_or_data: bit(44),
        long: bit(53),
        big: bit(54),
        granularity: bit(55),
        available: false,
        unusable: selector & !3 == 0,
    }
}

fn system_registers(case: &Case, cr4: u64) -> SystemRegisters {
    match case.mode {
        Mode::Real => real_registers(case, cr4),
        Mode::Protected => protected_registers(case, cr4),
        _ => long_registers(case, cr4),
    }
}

/// CR0 in every mode.
const CR0: u64 = CR0_MP | CR0_ET | CR0_NE;

fn real_registers(case: &Case, cr4: u64) -> SystemRegisters {
    let [es, cs, ss, ds, fs, gs] = case.state.segments.map(|selector| real_segment(selector, 3));
    SystemRegisters {
        es,
        cs: Segment { kind: 11, ..cs },
        ss,
        ds,
        fs,
        gs,
        tr: Segment::task_state(0, 0, 0xffff),
        ldt: Segment { unusable: true, ..Segment::default() },
        idt: DescriptorTable { base: 0, limit: 0x3ff },
        gdt: DescriptorTable { base: phys::GDT_32, limit: 0x7f },
        cr0: CR0,
        cr4: cr4 & !(CR4_PAE | CR4_PGE | CR4_FSGSBASE),
        ..SystemRegisters::default()
    }
}

fn protected_registers(case: &Case, cr4: u64) -> SystemRegisters {
    let global = protected_descriptors();
    let [es, cs, ss, ds, fs, gs] = case.state.segments.map(|selector| segment(selector, &global));
    SystemRegisters {
        es,
        cs,
        ss,
        ds,
        fs,
        gs,
        ldt: local_table(phys::LDT),
        tr: Segment::task_state(selector::TSS, phys::TSS_32, 0x67),
        gdt: DescriptorTable { base: phys::GDT_32, limit: 0x7f },
        idt: DescriptorTable { base: phys::IDT_32, limit: (VECTORS * 8 - 1) as u16 },
        cr0: CR0 | CR0_PE | CR0_WP | CR0_AM | CR0_PG,
        cr3: phys::PD_32,
        cr4: cr4 & !(CR4_PAE | CR4_PGE | CR4_FSGSBASE) | CR4_PSE,
        ..SystemRegisters::default()
    }
}

fn local_table(base: u64) -> Segment {
    Segment { code_or_data: false, kind: 2, ..Segment::task_state(selector::LDT, base, LDT_LIMIT as u32) }
}

fn long_registers(case: &Case, cr4: u64) -> SystemRegisters {
    let s = &case.state;
    let global = global_descriptors();
    let [es, cs, ss, ds, fs, gs] = s.segments.map(|selector| segment(selector, &global));
    SystemRegisters {
        es,
        cs,
        ss,
        ds,
        fs: Segment { base: s.bases[0], ..fs },
        gs: Segment { base: s.bases[1], ..gs },
        ldt: local_table(SUPERVISOR + phys::LDT),
        tr: Segment::task_state(selector::TSS, SUPERVISOR + phys::TSS, 0x67),
        gdt: DescriptorTable { base: SUPERVISOR + phys::GDT, limit: 0x7f },
        idt: DescriptorTable { base: SUPERVISOR + phys::IDT, limit: (VECTORS * 16 - 1) as u16 },
        cr0: CR0 | CR0_PE | CR0_WP | CR0_AM | CR0_PG,
        cr3: phys::PML4,
        cr4,
        efer: EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE,
        ..SystemRegisters::default()
    }
}
