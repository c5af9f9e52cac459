//! Gathered writes: the device sees the same, in the same order, on every backend. KVM is skipped out loud where there is none.
#![cfg(target_arch = "x86_64")]

mod support;

use std::sync::{Arc, Mutex};

use squib_core::{
    CoalescedWrites, ErrorCode, ExitKind, GuestMemory, HypervisorBackend, IrqchipKind, Result, Vm, VmConfig,
    VmEntry, VmExit,
};
use squib_guests::{Guest, MEMORY_SIZE, Mode};
use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;
use squib_vmm::host::{StdClock, ThreadWaker};
use squib_vmm::{Action, Bus, Device, Stop, Target, Unclaimed, VcpuLoop};
use support::{RecordingHost, run_in_time};

const INDEX: u16 = 0x370;

/// An index register and one that reads it, as of a clock; notes what is written.
#[derive(Default)]
struct Indexed(Mutex<Vec<u64>>);

impl Device for Indexed {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(*self.0.lock().unwrap().last().unwrap_or(&0x5a))
    }

    fn write(&self, _: u64, _: u8, value: u64) -> Result<Action> {
        self.0.lock().unwrap().push(value);
        Ok(Action::Continue)
    }
}

impl CoalescedWrites for Indexed {
    fn write(&self, addr: u64, width: u8, value: u64) {
        assert_eq!((addr & !0xf, width), (INDEX.into(), 1));
        self.0.lock().unwrap().push(value);
    }
}

struct Board {
    vm: Arc<dyn Vm>,
    ports: Arc<Bus>,
}

impl Board {
    fn new(backend: &dyn HypervisorBackend) -> Self {
        let memory = GuestMemory::new(MEMORY_SIZE).unwrap();
        let (irqchip, clock, waker) = (IrqchipKind::None, StdClock::new(), ThreadWaker::new());
        let vm = backend.create_vm(&VmConfig { memory, irqchip, clock, waker, dirty_ring: None }).unwrap();
        let ports = Bus::ports();
        ports.belongs_to(&vm);
        Self { vm, ports }
    }

    /// An indexed device at these two ports.
    fn map(&self, port: u16) -> Arc<Indexed> {
        let device = Arc::new(Indexed::default());
        self.ports.map("indexed", port.into(), 2, Target::Device(device.clone())).unwrap();
        self.ports.coalesce(port.into(), 1, device.clone()).unwrap();
        device
    }

    /// A vCPU at the first instruction of `code`, with DX at the port.
    fn vcpu(&self, id: u32, code: &[u8], port: u16) -> VcpuLoop {
        let mut vcpu = self.vm.create_vcpu(id).unwrap();
        let image = code.to_vec();
        let guest = Guest { name: "test", about: "writes", mode: Mode::Real16, load_addr: 0x7c00, image };
        guest.start(self.vm.memory(), &mut *vcpu).unwrap();
        let x86 = vcpu.x86().unwrap();
        let mut registers = x86.registers().unwrap();
        registers.rdx = port.into();
        x86.set_registers(&registers).unwrap();
        VcpuLoop::new(vcpu, &self.ports, &Bus::memory(), Unclaimed::Return)
    }
}

fn run_to_halt(vcpu: &mut VcpuLoop) {
    let stop = run_in_time(vcpu, &mut RecordingHost::new());
    assert!(matches!(stop, Stop::Exit(VmExit::Hlt)), "{stop:?}");
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn kvm() -> Option<KvmBackend> {
    KvmBackend::open().inspect_err(|e| eprintln!("SKIPPED: gathered writes on KVM, because {e}")).ok()
}

fn on_each_backend(check: impl Fn(Board, bool)) {
    check(Board::new(&SoftBackend::default()), false);
    if let Some(kvm) = kvm() {
        check(Board::new(&kvm), true);
    }
}

/// mov cx, 600; mov al, cl; out dx, al; loop back; hlt. The kernel's ring has room for 169, or sometimes 85.
const FLOOD: [u8; 9] = [0xb9, 0x58, 0x02, 0x88, 0xc8, 0xee, 0xe2, 0xfb, 0xf4];

#[test]
fn every_write_comes_in_its_order_and_most_without_an_exit() {
    on_each_backend(|board, gathers| {
        let device = board.map(INDEX);
        let mut vcpu = board.vcpu(0, &FLOOD, INDEX);
        run_to_halt(&mut vcpu);
        let expected: Vec<u64> = (1..=600).rev().map(|n| n & 0xff).collect();
        assert_eq!(*device.0.lock().unwrap(), expected);
        assert_eq!(board.ports.mappings()[0].writes(), 600);
        let exits = vcpu.counts().get(ExitKind::Pio);
        // Each time that the ring is full there is one.
        assert!(if gathers { (3..=7).contains(&exits) } else { exits == 600 }, "{exits} exits");
    });
}

/// mov cx, 2000; then as often: mov al, cl; out dx, al; inc dx; in al, dx; dec dx; cmp al, cl; jne to the end; loop back; hlt.
/// The end: out 0x99, al.
const CHECK: [u8; 19] = [
    0xb9, 0xd0, 0x07, 0x88, 0xc8, 0xee, 0x42, 0xec, 0x4a, 0x38, 0xc8, 0x75, 0x03, 0xe2, 0xf4, 0xf4, 0xe6,
    0x99, 0xf4,
];

#[test]
fn a_read_finds_what_its_own_vcpu_wrote_before() {
    on_each_backend(|board, _| {
        let device = board.map(INDEX);
        run_to_halt(&mut board.vcpu(0, &CHECK, INDEX));
        assert_eq!(device.0.lock().unwrap().len(), 2000);
    });
}

/// Each vCPU takes out what the other one wrote, too.
#[test]
fn vcpus_that_share_the_ring_do_not_overtake_each_other() {
    let Some(kvm) = kvm() else { return };
    let board = Board::new(&kvm);
    let ports = [INDEX, INDEX + 2];
    let devices = ports.map(|port| board.map(port));
    std::thread::scope(|scope| {
        for (id, port) in (0..).zip(ports) {
            let mut vcpu = board.vcpu(id, &CHECK, port);
            scope.spawn(move || run_to_halt(&mut vcpu));
        }
    });
    for device in devices {
        let expected: Vec<u64> = (1..=2000).rev().map(|n| n & 0xff).collect();
        assert_eq!(*device.0.lock().unwrap(), expected);
    }
}

#[test]
fn it_ends_with_the_device() {
    on_each_backend(|board, _| {
        let device = board.map(INDEX);
        board.ports.unmap(INDEX.into()).unwrap();
        let mut vcpu = board.vcpu(0, &FLOOD, INDEX);
        let stop = vcpu.run(VmEntry::Resume, &mut RecordingHost::new());
        assert!(matches!(stop, Ok(Stop::Exit(VmExit::Pio { port: INDEX, .. }))), "{stop:?}");
        assert!(device.0.lock().unwrap().is_empty());
        let again = board.map(INDEX);
        run_to_halt(&mut vcpu);
        assert_eq!(again.0.lock().unwrap().len(), 599);
    });
}

#[test]
fn only_a_part_of_one_device_can_be_gathered_once() {
    let bus = Bus::ports();
    let device = Arc::new(Indexed::default());
    bus.map("indexed", 0x70, 2, Target::Device(device.clone())).unwrap();
    bus.map("next", 0x72, 2, Target::Device(device.clone())).unwrap();
    bus.map("taken", 0x80, 1, Target::Reserved).unwrap();
    let code = |base, len| bus.coalesce(base, len, device.clone()).map_err(|e| e.code());
    for (base, len) in
        [(0x70, 0), (0x71, 2), (0x6f, 2), (0x70, u64::MAX), (0x74, 1), (0x80, 1), (u64::MAX, 1)]
    {
        assert_eq!(code(base, len), Err(ErrorCode::InvalidArgument), "{base:#x} {len:#x}");
    }
    assert_eq!((code(0x70, 1), code(0x70, 2)), (Ok(()), Err(ErrorCode::DeviceOverlap)));
    let ring = |addr, width| bus.map_doorbell("bell", (addr, width, None), Arc::new(|_| ()));
    assert_eq!(ring(0x70, 2).err().unwrap().code(), ErrorCode::DeviceOverlap);
    let bell = ring(0x72, 1).unwrap();
    assert_eq!(code(0x72, 2), Err(ErrorCode::DeviceOverlap));
    drop(bell);
    assert_eq!(code(0x72, 2), Ok(()));
}
