//! A guest of a few instructions, and what is expected of its exits.

use std::sync::Arc;

use squib_core::arm64::{PSTATE_EL1_MASKED, Registers};
use squib_core::{
    Clock, ErrorCode, ExitData, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, Vm, VmConfig,
    VmEntry, VmExit, Waker,
};
use squib_kvm::KvmBackend;

/// Where code starts, which is where RAM starts.
pub const CODE: u64 = 0x4000_0000;
pub const MEMORY: u64 = 0x10_0000;
/// No memory, in X1 when a guest starts.
pub const DEVICE: u64 = 0x0a00_0000;

/// The backend; says so where there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub fn backend() -> Option<KvmBackend> {
    KvmBackend::open().map_err(|e| eprintln!("SKIPPED: a test of KVM, because {e}")).ok()
}

struct Nothing;

impl Clock for Nothing {
    fn now_ns(&self) -> u64 {
        0
    }

    fn unix_ns(&self) -> u64 {
        0
    }
}

impl Waker for Nothing {
    fn wake(&self) {}
}

/// A VM with a vCPU at the start of its code.
pub struct Guest {
    pub memory: Arc<GuestMemory>,
    pub vm: Arc<dyn Vm>,
    pub vcpu: Box<dyn Vcpu>,
}

impl Guest {
    pub fn new(kvm: &KvmBackend, irqchip: IrqchipKind, code: &[u32]) -> Self {
        Self::in_vm(create_vm(kvm, irqchip, CODE, MEMORY).unwrap(), code)
    }

    /// The same in a VM that the test has made.
    pub fn in_vm(vm: Arc<dyn Vm>, code: &[u32]) -> Self {
        let memory = vm.memory().clone();
        put(&memory, CODE, code);
        let mut vcpu = vm.create_vcpu(0).unwrap();
        vcpu.arm64().unwrap().set_registers(&start()).unwrap();
        Self { memory, vm, vcpu }
    }

    pub fn run(&mut self, entry: VmEntry) -> VmExit {
        self.vcpu.run(entry).unwrap()
    }

    pub fn resume(&mut self) -> VmExit {
        self.run(VmEntry::Resume)
    }

    pub fn registers(&mut self) -> Registers {
        self.vcpu.arm64().unwrap().registers().unwrap()
    }

    /// Which instruction is next, counted from the first.
    pub fn at(&mut self) -> u64 {
        (self.registers().pc - CODE) / 4
    }

    /// Asserts that `entry` is refused and that nothing comes of it.
    pub fn refuses(&mut self, entry: VmEntry) {
        let before = self.registers();
        assert_eq!(self.vcpu.run(entry).unwrap_err().code(), ErrorCode::BadEntry);
        assert_eq!(self.registers(), before);
    }
}

/// A VM with `len` bytes of RAM at `start`.
pub fn create_vm(kvm: &KvmBackend, irqchip: IrqchipKind, start: u64, len: u64) -> Result<Arc<dyn Vm>> {
    let memory = GuestMemory::with_regions(&[(start, len)])?;
    let (clock, waker) = (Arc::new(Nothing), Arc::new(Nothing));
    kvm.create_vm(&VmConfig { memory, irqchip, clock, waker, dirty_ring: None })
}

/// A VM without a GIC that logs dirty pages in rings of so many entries, or in a bitmap.
pub fn create_vm_with_ring(kvm: &KvmBackend, dirty_ring: Option<u32>) -> Result<Arc<dyn Vm>> {
    let memory = GuestMemory::with_regions(&[(CODE, MEMORY)])?;
    let (irqchip, clock, waker) = (IrqchipKind::None, Arc::new(Nothing), Arc::new(Nothing));
    kvm.create_vm(&VmConfig { memory, irqchip, clock, waker, dirty_ring })
}

/// Registers of a guest that starts.
pub fn start() -> Registers {
    let mut registers = Registers { pc: CODE, pstate: PSTATE_EL1_MASKED, ..Registers::default() };
    registers.x[1] = DEVICE;
    registers
}

pub fn put(memory: &GuestMemory, addr: u64, code: &[u32]) {
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write(addr, &bytes).unwrap();
}

pub fn answer(bytes: &[u8]) -> VmEntry {
    VmEntry::Read(ExitData::from_slice(bytes))
}

/// Asserts that `exit` is a write of these bytes to the device.
#[track_caller]
pub fn assert_write(exit: &VmExit, bytes: &[u8]) {
    assert!(
        matches!(exit, VmExit::Mmio { addr: DEVICE, write: true, data } if data[..] == *bytes),
        "{exit:x?} is no write of {bytes:x?}"
    );
}

/// Asserts that `exit` is a read of `len` bytes of the device.
#[track_caller]
pub fn assert_read(exit: &VmExit, len: usize) {
    assert!(
        matches!(exit, VmExit::Mmio { addr: DEVICE, write: false, data } if data[..] == [0; 8][..len]),
        "{exit:x?} is no read of {len} bytes"
    );
}
