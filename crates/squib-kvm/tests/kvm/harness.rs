//! Small guests on the real `/dev/kvm`: memory, tables, a vCPU, and code assembled by the test.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use squib_core::x86::{DescriptorTable, Registers, Segment, SystemRegisters, bits};
use squib_core::{
    Clock, DirtyTracking, ErrorCode, ExitData, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, Vm,
    VmConfig, VmEntry, VmExit, Waker,
};
use squib_kvm::KvmBackend;

/// Where a guest's code begins, in both modes.
pub(crate) const CODE: u64 = 0x1_0000;
/// What SYSCALL calls, and the handlers of interrupts and exceptions, 128 bytes each.
const SYSTEM_CALL: u64 = 0x1_4000;
const HANDLERS: u64 = 0x1_8000;
/// Where guests read and leave data.
pub(crate) const DATA: u64 = 0x2_0000;
/// Top of the ring-0 stack, and of the ring-3 stack.
pub(crate) const STACK: u64 = 0x3_0000;
pub(crate) const USER_STACK: u64 = 0x3_8000;
/// Guest-physical addresses with nothing behind them.
pub(crate) const MMIO: u64 = 0xd000_0000;
pub(crate) const PORT: u32 = 0x510;

const MEMORY: u64 = 1 << 20;
const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
const DIRECTORIES: u64 = 0x4000;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;

pub(crate) const CODE_SELECTOR: u16 = 8;
pub(crate) const DATA_SELECTOR: u16 = 16;
pub(crate) const USER_DATA_SELECTOR: u16 = 24 | 3;
pub(crate) const USER_CODE_SELECTOR: u16 = 32 | 3;
const TSS_SELECTOR: u16 = 40;

/// The backend, or `None` after saying why the test is skipped.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn backend() -> Option<KvmBackend> {
    match KvmBackend::open() {
        Ok(backend) => Some(backend),
        Err(e) => {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            eprintln!("SKIPPED: {test} because {e}");
            assert_eq!(e.code(), ErrorCode::BackendUnusable);
            None
        }
    }
}

/// Says that a part of a test is skipped.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn skip(what: &str, why: &str) {
    eprintln!("SKIPPED: {what} because {why}");
}

/// Counts its wakes; keeps no time.
#[derive(Default)]
pub(crate) struct Wakes(pub(crate) AtomicUsize);

impl Waker for Wakes {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct NoClock;

impl Clock for NoClock {
    fn now_ns(&self) -> u64 {
        0
    }

    fn unix_ns(&self) -> u64 {
        0
    }
}

pub(crate) fn config(memory: Arc<GuestMemory>, irqchip: IrqchipKind, waker: Arc<Wakes>) -> VmConfig {
    VmConfig { memory, irqchip, clock: Arc::new(NoClock), waker, dirty_ring: None }
}

/// As many entries of a dirty ring as KVM gives at least, or `None` after saying why that is skipped.
pub(crate) fn smallest_ring(backend: &KvmBackend) -> Option<u32> {
    if matches!(backend.capabilities().dirty_tracking, DirtyTracking::BitmapOrRing { .. }) {
        return Some(1024);
    }
    skip("a dirty ring", "this KVM has none");
    None
}

/// A VM with one vCPU.
pub(crate) struct Guest {
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) vcpu: Box<dyn Vcpu>,
    pub(crate) wakes: Arc<Wakes>,
}

impl Guest {
    /// A guest in the state that a vCPU has after a reset.
    pub(crate) fn new(backend: &KvmBackend, irqchip: IrqchipKind) -> Self {
        let wakes = Arc::new(Wakes::default());
        let memory = GuestMemory::new(MEMORY).unwrap();
        let vm = backend.create_vm(&config(memory, irqchip, wakes.clone())).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        Self { vm, vcpu, wakes }
    }

    /// A real-mode guest with segments 0, about to run `code`.
    pub(crate) fn real(
        backend: &KvmBackend,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Self {
        let mut guest = Self::new(backend, IrqchipKind::None);
        guest.assemble(16, CODE, code);
        let x86 = guest.vcpu.x86().unwrap();
        let mut system = x86.system_registers().unwrap();
        // The code lies in the second 64 KiB, so the code segment does too.
        system.cs = Segment { base: CODE, ..Segment::real_mode((CODE >> 4) as u16) };
        x86.set_system_registers(&system).unwrap();
        let rsp = 0x7000;
        x86.set_registers(&Registers { rip: 0, rsp, rflags: bits::RFLAGS_FIXED, ..Default::default() })
            .unwrap();
        guest
    }

    /// A guest in 64-bit mode, ring 0, the first 4 GiB mapped one to one for both rings, about to run `code`.
    pub(crate) fn long(
        backend: &KvmBackend,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Self {
        Self::long_with(backend, IrqchipKind::None, code)
    }

    /// The same with an interrupt controller.
    pub(crate) fn long_with(
        backend: &KvmBackend,
        irqchip: IrqchipKind,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Self {
        let mut guest = Self::new(backend, irqchip);
        guest.start_long(code);
        guest
    }

    /// The same in a VM that the test has made.
    pub(crate) fn long_in(
        vm: Arc<dyn Vm>,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Self {
        let mut guest = Self { vcpu: vm.create_vcpu(0).unwrap(), vm, wakes: Arc::default() };
        guest.start_long(code);
        guest
    }

    fn start_long(&mut self, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        self.assemble(64, CODE, code);
        self.write_tables();
        let x86 = self.vcpu.x86().unwrap();
        let mut system = x86.system_registers().unwrap();
        enter_long_mode(&mut system);
        x86.set_system_registers(&system).unwrap();
        let rflags = bits::RFLAGS_FIXED;
        x86.set_registers(&Registers { rip: CODE, rsp: STACK, rflags, ..Default::default() }).unwrap();
    }

    fn assemble(&self, bits: u32, at: u64, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        let mut a = CodeAssembler::new(bits).unwrap();
        code(&mut a).unwrap();
        let origin = if bits == 16 { 0 } else { at };
        self.vm.memory().write(at, &a.assemble(origin).unwrap()).unwrap();
    }

    fn write_tables(&self) {
        let put = |at: u64, value: u64| self.vm.memory().write(at, &value.to_le_bytes()).unwrap();
        put(PML4, PDPT | 7);
        for gib in 0..4 {
            put(PDPT + gib * 8, (DIRECTORIES + gib * 0x1000) | 7);
        }
        for n in 0..4 * 512 {
            put(DIRECTORIES + n * 8, (n << 21) | 0x87);
        }
        let descriptors = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            0x0000_8b00_0000_0067 | (TSS << 16),
            0,
        ];
        for (n, descriptor) in (0..).zip(descriptors) {
            put(GDT + n * 8, descriptor);
        }
        put(TSS + 4, STACK);
    }

    /// A handler for `vector`, at [`handler_of`] it, also callable from ring 3.
    pub(crate) fn handler(&self, vector: u8, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        let at = handler_of(vector);
        self.assemble(64, at, code);
        let low = (at & 0xffff) | u64::from(CODE_SELECTOR) << 16 | 0xee00 << 32 | (at >> 16 & 0xffff) << 48;
        let memory = self.vm.memory();
        memory.write(IDT + u64::from(vector) * 16, &low.to_le_bytes()).unwrap();
        memory.write(IDT + u64::from(vector) * 16 + 8, &(at >> 32).to_le_bytes()).unwrap();
    }

    /// What SYSCALL calls.
    pub(crate) fn system_call(&mut self, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
        self.assemble(64, SYSTEM_CALL, code);
        let selectors = u64::from(USER_DATA_SELECTOR - 8) << 48 | u64::from(CODE_SELECTOR) << 32;
        let x86 = self.vcpu.x86().unwrap();
        x86.set_msr(0xc000_0081, selectors).unwrap();
        x86.set_msr(0xc000_0082, SYSTEM_CALL).unwrap();
    }

    /// Ring 3 instead of ring 0.
    pub(crate) fn enter_ring3(&mut self) {
        let x86 = self.vcpu.x86().unwrap();
        let mut system = x86.system_registers().unwrap();
        system.cs = Segment { dpl: 3, ..Segment::flat_code(USER_CODE_SELECTOR, true) };
        let data = Segment { dpl: 3, ..Segment::flat_data(USER_DATA_SELECTOR) };
        (system.ss, system.ds, system.es) = (data, data, data);
        x86.set_system_registers(&system).unwrap();
        self.change_registers(|r| {
            r.rsp = USER_STACK;
            r.rflags |= bits::RFLAGS_IOPL;
        });
    }

    pub(crate) fn code_selector(&mut self) -> u16 {
        self.vcpu.x86().unwrap().system_registers().unwrap().cs.selector
    }

    pub(crate) fn registers(&mut self) -> Registers {
        self.vcpu.x86().unwrap().registers().unwrap()
    }

    pub(crate) fn change_registers(&mut self, change: impl FnOnce(&mut Registers)) {
        let x86 = self.vcpu.x86().unwrap();
        let mut registers = x86.registers().unwrap();
        change(&mut registers);
        x86.set_registers(&registers).unwrap();
    }

    /// Runs on, with nothing to say.
    pub(crate) fn resume(&mut self) -> VmExit {
        self.run(VmEntry::Resume)
    }

    /// Answers and runs on, for ten seconds at most.
    pub(crate) fn run(&mut self, entry: VmEntry) -> VmExit {
        self.run_for(Duration::from_secs(10), entry)
    }

    /// Answers and runs on, for `limit` at most.
    pub(crate) fn run_for(&mut self, limit: Duration, entry: VmEntry) -> VmExit {
        let cancel = self.vcpu.cancel_handle();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            use std::sync::mpsc::RecvTimeoutError::Timeout;
            if wait.recv_timeout(limit) == Err(Timeout) {
                cancel.cancel();
            }
        });
        let exit = self.vcpu.run(entry).unwrap();
        drop(done);
        watchdog.join().unwrap();
        exit
    }

    pub(crate) fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        self.vm.memory().read_array(at).unwrap()
    }
}

fn enter_long_mode(system: &mut SystemRegisters) {
    system.cs = Segment::flat_code(CODE_SELECTOR, true);
    for segment in [&mut system.ds, &mut system.es, &mut system.fs, &mut system.gs, &mut system.ss] {
        *segment = Segment::flat_data(DATA_SELECTOR);
    }
    system.tr = Segment::task_state(TSS_SELECTOR, TSS, 0x67);
    system.gdt = DescriptorTable { base: GDT, limit: 0x37 };
    system.idt = DescriptorTable { base: IDT, limit: 0xfff };
    system.cr0 = bits::CR0_PE | bits::CR0_MP | bits::CR0_ET | bits::CR0_NE | bits::CR0_WP | bits::CR0_PG;
    system.cr3 = PML4;
    system.cr4 = bits::CR4_PAE | bits::CR4_OSFXSR | bits::CR4_OSXMMEXCPT;
    system.efer = bits::EFER_SCE | bits::EFER_LME | bits::EFER_LMA;
}

/// Where the handler of `vector` begins.
pub(crate) fn handler_of(vector: u8) -> u64 {
    HANDLERS + u64::from(vector) * 0x80
}

/// An answer to a read.
pub(crate) fn answer(bytes: &[u8]) -> VmEntry {
    VmEntry::Read(ExitData::from_slice(bytes))
}

/// Asserts that an exit is the write or, with no data, the read of a port.
#[track_caller]
pub(crate) fn assert_out(exit: &VmExit, expected: &[u8]) {
    match exit {
        VmExit::Pio { port, write: true, data } => {
            assert_eq!(u32::from(*port), PORT);
            assert_eq!(data[..], *expected);
        }
        other => panic!("expected OUT {expected:02x?}, got {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_in(exit: &VmExit, len: usize) {
    match exit {
        VmExit::Pio { port, write: false, data } => {
            assert_eq!(u32::from(*port), PORT);
            assert_eq!(data[..], vec![0; len]);
        }
        other => panic!("expected IN of {len} bytes, got {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_mmio_write(exit: &VmExit, at: u64, expected: &[u8]) {
    match exit {
        VmExit::Mmio { addr, write: true, data } => assert_eq!((*addr, &data[..]), (at, expected)),
        other => panic!("expected a write of {expected:02x?} to {at:#x}, got {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_mmio_read(exit: &VmExit, at: u64, len: usize) {
    match exit {
        VmExit::Mmio { addr, write: false, data } => assert_eq!((*addr, data.len()), (at, len)),
        other => panic!("expected a read of {len} bytes at {at:#x}, got {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_hlt(exit: &VmExit) {
    assert!(matches!(exit, VmExit::Hlt), "expected Hlt, got {exit:?}");
}
