//! Programs in 64-bit mode whose exceptions and interrupts are logged.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::sync::Arc;

use iced_x86::code_asm::*;
use squib_core::x86::{DescriptorTable, Registers, bits};
use squib_core::{GuestMemory, HypervisorBackend, IrqchipKind, Vcpu, Vm, VmConfig, VmEntry, VmExit};
use squib_guests::{Guest, Mode};
use squib_soft::SoftBackend;
use squib_vmm::host::{StdClock, ThreadWaker};
use squib_x86::model::CpuModel;

pub const CODE: u64 = 0x10_0000;
const IDT: u64 = 0x1_0000;
const TSS: u64 = 0x1_1000;
pub const HANDLERS: u64 = 0x1_2000;
pub const LOG: u64 = 0x2_0000;
pub const DATA: u64 = 0x3_0000;
pub const APIC: u64 = 0xfee0_0000;

/// What a handler saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub vector: u64,
    pub rip: u64,
    /// DR6 without its fixed bits, which the handler then clears.
    pub dr6: u64,
}

pub struct Started {
    pub memory: Arc<GuestMemory>,
    pub vm: Arc<dyn Vm>,
    pub vcpu: Box<dyn Vcpu>,
}

/// A handler that logs at R15, uses R14, resumes with RF set, and skips `skip` bytes.
pub fn handler(a: &mut CodeAssembler, vector: u32, error: bool, skip: i32) -> Result<(), IcedError> {
    if error {
        a.add(rsp, 8)?;
    }
    a.mov(qword_ptr(r15), vector as i32)?;
    a.mov(r14, dr6)?;
    a.mov(qword_ptr(r15 + 8), r14)?;
    a.mov(r14, qword_ptr(rsp))?;
    a.mov(qword_ptr(r15 + 16), r14)?;
    a.add(r15, 24)?;
    a.xor(r14, r14)?;
    a.mov(dr6, r14)?;
    a.add(qword_ptr(rsp), skip)?;
    a.or(dword_ptr(rsp + 16), bits::RFLAGS_RF as i32)?;
    if vector == 0x40 {
        a.mov(r14d, APIC as u32)?;
        a.mov(dword_ptr(r14 + 0xb0), 0)?;
    }
    if vector == 0x41 {
        // The same in x2APIC mode, with RAX, RCX and RDX.
        a.mov(ecx, 0x80b)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
    }
    a.iretq()
}

/// A program in 64-bit mode that ends in HLT, with RBX at [`DATA`]. An instruction that faults is skipped, as one of three
/// bytes. With `user` it runs in ring 3 with alignment checks, in the first 2 MiB, and ends in an access to port 0x80.
pub fn start(user: bool, program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Started {
    start_on(&SoftBackend::new(CpuModel::max()), user, program)
}

/// The same on a backend with another CPU.
pub fn start_on(
    backend: &SoftBackend,
    user: bool,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Started {
    let mut a = CodeAssembler::new(64).unwrap();
    program(&mut a).unwrap();
    let image = a.assemble(CODE).unwrap();
    let config = VmConfig {
        memory: GuestMemory::new(4 << 20).unwrap(),
        irqchip: IrqchipKind::Full,
        clock: StdClock::new(),
        waker: ThreadWaker::new(),
        dirty_ring: None,
    };
    let memory = config.memory.clone();
    let vm = backend.create_vm(&config).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    Guest { name: "test", about: "a test", mode: Mode::Long64, load_addr: CODE, image }
        .start(&memory, &mut *vcpu)
        .unwrap();
    for (n, (vector, error, skip)) in [
        (1, false, 0),
        (2, false, 0),
        (13, true, 3),
        (14, true, 3),
        (17, true, 3),
        (0x40, false, 0),
        (0x41, false, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let at = HANDLERS + n as u64 * 0x100;
        let mut a = CodeAssembler::new(64).unwrap();
        handler(&mut a, vector, error, skip).unwrap();
        memory.write(at, &a.assemble(at).unwrap()).unwrap();
        let gate = at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16) << 48;
        memory.write(IDT + u64::from(vector) * 16, &gate.to_le_bytes()).unwrap();
    }
    memory.write(TSS + 4, &0x7_0000_u64.to_le_bytes()).unwrap();
    let x86 = vcpu.x86().unwrap();
    let mut system = x86.system_registers().unwrap();
    system.idt = DescriptorTable { base: IDT, limit: 0xfff };
    system.tr.base = TSS;
    let mut registers = x86.registers().unwrap();
    (registers.rbx, registers.r15) = (DATA, LOG);
    if user {
        for table in [0x5000, 0x6000, 0x7000] {
            memory.write(table, &[if table == 0x7000 { 0x87 } else { 7 }]).unwrap();
        }
        system.cr0 |= bits::CR0_AM;
        memory.write(0x1018, &0x00af_fb00_0000_ffff_u64.to_le_bytes()).unwrap();
        memory.write(0x1020, &0x00cf_f300_0000_ffff_u64.to_le_bytes()).unwrap();
        system.gdt.limit = 39;
        (system.cs.dpl, system.cs.selector) = (3, 0x1b);
        (system.ss.dpl, system.ss.selector) = (3, 0x23);
        registers.rflags |= bits::RFLAGS_AC | bits::RFLAGS_IOPL;
    }
    x86.set_system_registers(&system).unwrap();
    x86.set_registers(&registers).unwrap();
    Started { memory, vm, vcpu }
}

impl Started {
    /// Runs to HLT or an access to port 0x80, and tells what the handlers saw.
    pub fn run(&mut self) -> (Registers, Vec<Seen>) {
        self.vcpu.set_budget(Some(100_000)).unwrap();
        let exit = self.vcpu.run(VmEntry::Resume).unwrap();
        assert!(matches!(exit, VmExit::Hlt | VmExit::Pio { port: 0x80, .. }), "{exit:?}");
        self.log()
    }

    /// The registers, and what the handlers saw so far.
    pub fn log(&mut self) -> (Registers, Vec<Seen>) {
        let registers = self.vcpu.x86().unwrap().registers().unwrap();
        let word = |at| {
            let mut bytes = [0; 8];
            self.memory.read(at, &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        let seen = (LOG..registers.r15)
            .step_by(24)
            .map(|at| Seen { vector: word(at), dr6: word(at + 8) & 0xe00f, rip: word(at + 16) })
            .collect();
        (registers, seen)
    }
}

pub fn seen(vector: u64, at: u64, conditions: u64) -> Seen {
    Seen { vector, rip: CODE + at, dr6: conditions }
}

/// Addresses the local APIC by R13 and enables it.
pub fn enable_apic(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(r13d, APIC as u32)?;
    a.mov(dword_ptr(r13 + 0xf0), 0x1ff)
}

/// Length in bytes of what [`enable_apic`] assembles.
pub const ENABLE_APIC: u64 = 17;
