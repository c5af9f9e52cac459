//! Doorbells: the same writes ring on every backend, whoever takes note of them. KVM is skipped out loud where there is none.
#![cfg(target_arch = "x86_64")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use squib_core::{ErrorCode, GuestMemory, HypervisorBackend, IrqchipKind, Vm, VmConfig, VmEntry, VmExit};
use squib_guests::{Guest, MEMORY_SIZE, Mode, TEST_MMIO, TEST_PORT, mmio, port_io};
use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;
use squib_vmm::host::{StdClock, ThreadWaker};
use squib_vmm::stats::device_counts;
use squib_vmm::{Action, Bus, DoorbellMapping, Stop, Target, Unclaimed, VcpuLoop};
use support::{Bench, Recorder, RecordingHost, port_out, run_in_time, store};

const PORT: u64 = TEST_PORT as u64;

/// Counts its rings.
#[derive(Clone, Default)]
struct Rings(Arc<AtomicU64>);

impl Rings {
    fn map(&self, bus: &Arc<Bus>, addr: u64, width: u8, value: Option<u64>) -> DoorbellMapping {
        let rings = self.0.clone();
        let ring = move |times| _ = rings.fetch_add(times, Ordering::SeqCst);
        bus.map_doorbell("bell", (addr, width, value), Arc::new(ring)).unwrap()
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits until there were as many.
    fn expect(&self, rings: u64) {
        let patience = Instant::now();
        while self.now() < rings && patience.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        assert_eq!(self.now(), rings);
    }
}

struct Board {
    vm: Arc<dyn Vm>,
    ports: Arc<Bus>,
    memory: Arc<Bus>,
    vcpu: VcpuLoop,
    host: RecordingHost,
}

impl Board {
    fn new(backend: &dyn HypervisorBackend, guest: &Guest) -> Self {
        let memory = GuestMemory::new(MEMORY_SIZE).unwrap();
        let (irqchip, clock, waker) = (IrqchipKind::None, StdClock::new(), ThreadWaker::new());
        let vm = backend.create_vm(&VmConfig { memory, irqchip, clock, waker, dirty_ring: None }).unwrap();
        let (ports, memory) = (Bus::ports(), Bus::memory());
        memory.map("RAM", 0, MEMORY_SIZE, Target::Reserved).unwrap();
        ports.belongs_to(&vm);
        memory.belongs_to(&vm);
        let mut vcpu = vm.create_vcpu(0).unwrap();
        guest.start(vm.memory(), &mut *vcpu).unwrap();
        let vcpu = VcpuLoop::new(vcpu, &ports, &memory, Unclaimed::Return);
        Self { vm, ports, memory, vcpu, host: RecordingHost::new() }
    }

    fn run(&mut self) -> Stop {
        run_in_time(&mut self.vcpu, &mut self.host)
    }

    fn run_to_halt(&mut self) {
        let stop = self.run();
        assert!(matches!(stop, Stop::Exit(VmExit::Hlt)), "{stop:?}");
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn kvm() -> Option<KvmBackend> {
    KvmBackend::open().inspect_err(|e| eprintln!("SKIPPED: doorbells on KVM, because {e}")).ok()
}

fn on_each_backend(guest: &Guest, check: impl Fn(Board)) {
    check(Board::new(&SoftBackend::default(), guest));
    if let Some(kvm) = kvm() {
        check(Board::new(&kvm, guest));
    }
}

/// out dx, al; loop back; hlt
fn many(count: u16) -> Guest {
    let [low, high] = count.to_le_bytes();
    let [port_low, port_high] = TEST_PORT.to_le_bytes();
    let image = vec![0xb9, low, high, 0xba, port_low, port_high, 0xee, 0xe2, 0xfd, 0xf4];
    Guest { name: "many", about: "port writes", mode: Mode::Real16, load_addr: 0x7c00, image }
}

/// The guest writes 11h, 3322h and 7766_5544h, each with its width, and reads three times.
#[test]
fn writes_of_its_width_and_value_ring_and_the_device_below_gets_the_others() {
    on_each_backend(&port_io(Mode::Long64), |mut board| {
        let below = Recorder::new(|| Ok(0), || Ok(Action::Continue));
        board.ports.map("below", PORT, 4, Target::Device(below.clone())).unwrap();
        let [other_value, any, value] = [(); 3].map(|()| Rings::default());
        let mapped = [
            other_value.map(&board.ports, PORT, 1, Some(0x12)),
            any.map(&board.ports, PORT, 2, None),
            value.map(&board.ports, PORT, 4, Some(0x7766_5544)),
        ];
        board.run_to_halt();
        let reads = [(0, 1, None), (0, 2, None), (0, 4, None)];
        let expected: Vec<_> = [(0, 1, Some(0x11))].into_iter().chain(reads).collect();
        assert_eq!(*below.seen.lock().unwrap(), expected);
        any.expect(1);
        value.expect(1);
        assert_eq!(other_value.now(), 0);
        let counts = device_counts(&board.ports);
        let writes = counts.iter().filter(|count| count.name == "bell").map(|count| count.writes);
        assert_eq!(writes.sum::<u64>(), 2);
        drop(mapped);
    });
}

#[test]
fn doorbells_in_memory_have_up_to_eight_bytes() {
    on_each_backend(&mmio(), |mut board| {
        let wide = Rings::default();
        let mapped = [
            wide.map(&board.memory, TEST_MMIO + 8, 8, Some(0xffee_ddcc_bbaa_9988)),
            wide.map(&board.memory, TEST_MMIO, 1, Some(0x11)),
            wide.map(&board.memory, TEST_MMIO + 2, 2, None),
            // A part of a write is none.
            wide.map(&board.memory, TEST_MMIO + 4, 2, None),
        ];
        let stop = board.run();
        assert!(
            matches!(&stop, Stop::Exit(VmExit::Mmio { write: true, data, .. }) if data.len() == 4),
            "{stop:?}"
        );
        let stop = board.run();
        assert!(matches!(&stop, Stop::Exit(VmExit::Mmio { write: false, .. })), "{stop:?}");
        wide.expect(3);
        drop(mapped);
    });
}

#[test]
fn a_storm_of_rings_is_counted() {
    on_each_backend(&many(5000), |mut board| {
        let rings = Rings::default();
        let mapped = rings.map(&board.ports, PORT, 1, None);
        board.run_to_halt();
        // The mapping's end tells of the last ones.
        drop(mapped);
        assert_eq!(rings.now(), 5000);
    });
}

/// The thread that listens is kept busy by another doorbell.
#[test]
fn the_end_of_a_mapping_tells_of_rings_that_nobody_has_heard_yet() {
    let Some(kvm) = kvm() else { return };
    // out dx, al; inc dx; out dx, al, twice; hlt
    let [low, high] = TEST_PORT.to_le_bytes();
    let mut board =
        Board::new(&kvm, &Guest { image: vec![0xba, low, high, 0xee, 0x42, 0xee, 0xee, 0xf4], ..many(0) });
    let (entered, enters) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let ring = move |_| {
        entered.send(()).unwrap();
        let _ = released.lock().unwrap().recv();
    };
    let busy = board.ports.map_doorbell("busy", (PORT, 1, None), Arc::new(ring)).unwrap();
    let rings = Rings::default();
    let mapped = rings.map(&board.ports, PORT + 1, 1, None);
    board.run_to_halt();
    enters.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(rings.now(), 0);
    drop(mapped);
    assert_eq!(rings.now(), 2);
    drop((release, busy));
}

#[test]
fn a_doorbell_that_is_gone_rings_no_more() {
    on_each_backend(&many(3), |mut board| {
        let rings = Rings::default();
        drop(rings.map(&board.ports, PORT, 1, None));
        for _ in 0..3 {
            let stop = board.run();
            assert!(matches!(stop, Stop::Exit(VmExit::Pio { write: true, .. })), "{stop:?}");
        }
        board.run_to_halt();
        assert_eq!(rings.now(), 0);
        assert!(board.ports.bells().is_empty());
    });
}

/// The one that hears it takes its own mapping away.
#[test]
fn a_doorbell_may_unmap_itself() {
    on_each_backend(&many(1), |mut board| {
        let mapping = Arc::new(Mutex::new(None));
        let (own, (sent, gone)) = (mapping.clone(), std::sync::mpsc::channel());
        let ring = move |_| {
            let mapping = own.lock().unwrap().take();
            drop(mapping);
            sent.send(()).unwrap();
        };
        *mapping.lock().unwrap() =
            Some(board.ports.map_doorbell("own", (PORT, 1, None), Arc::new(ring)).unwrap());
        board.run_to_halt();
        gone.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(board.ports.bells().is_empty());
    });
}

/// KVM's bus has room for 1,000 devices.
#[test]
fn doorbells_for_which_the_backend_has_no_room_ring_all_the_same() {
    on_each_backend(&many(7), |mut board| {
        let rings = Rings::default();
        let mut mapped: Vec<_> = (1..1100).map(|n| rings.map(&board.ports, PORT, 4, Some(n))).collect();
        mapped.push(rings.map(&board.ports, PORT, 1, None));
        board.run_to_halt();
        rings.expect(7);
    });
}

#[test]
fn a_mapping_may_outlive_its_vm() {
    on_each_backend(&many(1), |mut board| {
        let rings = Rings::default();
        let mapped = rings.map(&board.ports, PORT, 1, None);
        board.run_to_halt();
        rings.expect(1);
        drop(board);
        drop(mapped);
        assert_eq!(rings.now(), 1);
    });
}

#[test]
fn the_memory_behind_a_ring_is_there() {
    // mov word [8000h], 1234h; out dx, al; hlt
    let [low, high] = TEST_PORT.to_le_bytes();
    let image = vec![0xba, low, high, 0xc7, 0x06, 0x00, 0x80, 0x34, 0x12, 0xee, 0xf4];
    let guest = Guest { image, ..many(0) };
    on_each_backend(&guest, |mut board| {
        let (sent, heard) = std::sync::mpsc::channel();
        let memory = board.vm.memory().clone();
        let ring = move |_| sent.send(memory.read_array::<2>(0x8000).unwrap()).unwrap();
        let mapped = board.ports.map_doorbell("bell", (PORT, 1, None), Arc::new(ring)).unwrap();
        board.run_to_halt();
        assert_eq!(heard.recv_timeout(Duration::from_secs(10)).unwrap(), [0x34, 0x12]);
        drop(mapped);
    });
}

#[test]
fn what_rings_twice_or_is_taken_is_refused() {
    let (ports, memory) = (Bus::ports(), Bus::memory());
    memory.map("RAM", 0, 0x1000, Target::Reserved).unwrap();
    let rings = Rings::default();
    let code =
        |bus: &Arc<Bus>, at| bus.map_doorbell("mine", at, Arc::new(|_| ())).map(drop).map_err(|e| e.code());
    let held = [rings.map(&ports, 0x10, 2, Some(1)), rings.map(&ports, 0x20, 2, None)];
    for at in [(0x10, 2, Some(1)), (0x10, 2, None), (0x20, 2, Some(1)), (0x20, 2, None)] {
        assert_eq!(code(&ports, at), Err(ErrorCode::DeviceOverlap), "{at:?}");
    }
    for at in [(0x10, 2, Some(2)), (0x10, 1, None), (0x10, 4, None), (0x12, 2, None)] {
        assert_eq!(code(&ports, at), Ok(()), "{at:?}");
    }
    assert_eq!(code(&memory, (0xff8, 8, None)), Err(ErrorCode::DeviceOverlap));
    assert_eq!(code(&memory, (0x1000, 8, None)), Ok(()));
    for (bus, at) in [
        (&ports, (0, 8, None)),
        (&ports, (0x10000, 1, None)),
        (&memory, (0x2002, 4, None)),
        (&memory, (0x2000, 1, Some(256))),
    ] {
        assert_eq!(code(bus, at), Err(ErrorCode::InvalidArgument), "{at:?}");
    }
    drop(held);
    assert_eq!(code(&ports, (0x10, 2, None)), Ok(()));
    assert!(ports.bells().is_empty());
}

#[test]
fn an_exit_that_rings_goes_on_at_once() {
    let mut bench = Bench::new(
        Unclaimed::Return,
        [port_out(0x10, &[1, 0]), store(0x2000, &[7; 8]), port_out(0x10, &[2, 0])],
    );
    let rings = Rings::default();
    let mapped = [rings.map(&bench.ports, 0x10, 2, Some(1)), rings.map(&bench.memory, 0x2000, 8, None)];
    assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Pio { .. }))));
    assert_eq!((rings.now(), bench.entries()), (2, vec![VmEntry::Resume; 3]));
    drop(mapped);
}
