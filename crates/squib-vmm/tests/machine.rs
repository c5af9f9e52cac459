//! The machine on a backend whose vCPUs make the exits of a script.

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use squib_core::backend::Vm;
use squib_core::x86::{
    Activity, CpuidResult, DebugRegisters, PendingEvents, Registers, SystemRegisters, X86State,
};
use squib_core::{
    Architecture, BackendCapabilities, BackendKind, CancelHandle, Clock, ErrorCode, ExitKind, ExitSet,
    GuestMemory, HypervisorBackend, IrqchipKind, Result, Vcpu, VmConfig, VmEntry, VmExit, Waker,
};
use squib_vmm::boot::{BootSource, Flat, FlatMode, Protocol};
use squib_vmm::host::{StdClock, ThreadWaker, keep_time};
use squib_vmm::machine::MAX_VCPUS;
use squib_vmm::{ConsoleListener, Machine, MachineConfig, Outcome, Stop, Target, platform};
use support::*;

/// Every vCPU makes these exits.
struct Fake {
    capabilities: BackendCapabilities,
    exits: Vec<VmExit>,
    lines: Lines,
    messages: Messages,
}

/// Interrupt line changes.
type Lines = Arc<Mutex<Vec<(u32, bool)>>>;
/// Message-signalled interrupts: address and data.
type Messages = Arc<Mutex<Vec<(u64, u32)>>>;

struct FakeVm {
    memory: Arc<GuestMemory>,
    exits: Vec<VmExit>,
    lines: Lines,
    messages: Messages,
}

struct FakeVcpu {
    id: u32,
    script: Script,
    registers: Registers,
    system: SystemRegisters,
}

impl Fake {
    fn new(exits: impl IntoIterator<Item = VmExit>) -> Self {
        let mut capabilities =
            BackendCapabilities::new(Architecture::X86_64, ExitSet::of(&ExitKind::ALL), 64);
        capabilities.irqchips = &[IrqchipKind::Full, IrqchipKind::Split];
        let exits = exits.into_iter().collect();
        Self { capabilities, exits, lines: Lines::default(), messages: Messages::default() }
    }

    fn machine(&self) -> Machine {
        self.machine_with(Box::new(()))
    }

    fn machine_with(&self, console: Box<dyn ConsoleListener>) -> Machine {
        Machine::new(self, MachineConfig { console, ..config(&[0xf4]) }).unwrap()
    }
}

fn config(kernel: &[u8]) -> MachineConfig<'_> {
    let flat = Flat::at(0x7c00, FlatMode::Real16);
    MachineConfig {
        memory_size: 2 << 20,
        vcpus: 1,
        irqchip: IrqchipKind::Full,
        boot: BootSource { protocol: Some(Protocol::Flat(flat)), ..BootSource::new(kernel) },
        clock: StdClock::new(),
        waker: ThreadWaker::new(),
        console: Box::new(()),
    }
}

impl HypervisorBackend for Fake {
    fn kind(&self) -> BackendKind {
        BackendKind::Soft
    }

    fn capabilities(&self) -> &BackendCapabilities {
        &self.capabilities
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        let (memory, exits) = (config.memory.clone(), self.exits.clone());
        Ok(Arc::new(FakeVm { memory, exits, lines: self.lines.clone(), messages: self.messages.clone() }))
    }
}

impl Vm for FakeVm {
    fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        let mut script = script();
        script.script = self.exits.iter().cloned().map(Ok).collect::<VecDeque<_>>();
        Ok(Box::new(FakeVcpu {
            id,
            script,
            registers: Registers::default(),
            system: SystemRegisters::default(),
        }))
    }

    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.lines.lock().unwrap().push((gsi, level));
        Ok(())
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<()> {
        self.messages.lock().unwrap().push((address, data));
        Ok(())
    }
}

impl Vcpu for FakeVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit> {
        self.script.run(entry)
    }

    fn cancel_handle(&self) -> CancelHandle {
        self.script.cancel_handle()
    }

    fn instructions(&self) -> Option<u64> {
        self.script.instructions()
    }

    fn is_runnable(&mut self) -> bool {
        false
    }

    fn x86(&mut self) -> Result<&mut dyn X86State> {
        Ok(self)
    }
}

#[rustfmt::skip]
impl X86State for FakeVcpu {
    fn registers(&mut self) -> Result<Registers> { Ok(self.registers) }
    fn set_registers(&mut self, regs: &Registers) -> Result<()> { self.registers = *regs; Ok(()) }
    fn system_registers(&mut self) -> Result<SystemRegisters> { Ok(self.system) }
    fn set_system_registers(&mut self, regs: &SystemRegisters) -> Result<()> { self.system = *regs; Ok(()) }
    fn debug_registers(&mut self) -> Result<DebugRegisters> { Ok(DebugRegisters::default()) }
    fn set_debug_registers(&mut self, _: &DebugRegisters) -> Result<()> { Ok(()) }
    fn msr(&mut self, _: u32) -> Result<u64> { Ok(0) }
    fn set_msr(&mut self, _: u32, _: u64) -> Result<()> { Ok(()) }
    fn msr_indices(&mut self) -> Result<Vec<u32>> { Ok(vec![]) }
    fn activity(&mut self) -> Result<Activity> { Ok(Activity::Active) }
    fn set_activity(&mut self, _: Activity) -> Result<()> { Ok(()) }
    fn xsave(&mut self) -> Result<Vec<u8>> { Ok(vec![]) }
    fn set_xsave(&mut self, _: &[u8]) -> Result<()> { Ok(()) }
    fn xcr0(&mut self) -> Result<u64> { Ok(0) }
    fn set_xcr0(&mut self, _: u64) -> Result<()> { Ok(()) }
    fn pending_events(&mut self) -> Result<PendingEvents> { Ok(PendingEvents::default()) }
    fn set_pending_events(&mut self, _: &PendingEvents) -> Result<()> { Ok(()) }
    fn cpuid(&mut self, _: u32, _: u32) -> Result<CpuidResult> { Ok(CpuidResult::default()) }
}

fn run(machine: &Machine) -> Result<Stop> {
    machine.run(0, &mut RecordingHost::new())
}

fn prints(text: &str) -> impl Iterator<Item = VmExit> {
    text.bytes().map(|b| port_out(platform::COM1, &[b]))
}

const POWER_OFF: u8 = 1 << 5 | 5 << 2;

#[test]
fn bad_configurations_are_typed_errors() {
    let backend = Fake::new([]);
    let code = |c: MachineConfig<'_>| Machine::new(&backend, c).map(|_| ()).unwrap_err().code();
    for vcpus in [0, MAX_VCPUS + 1, u32::MAX] {
        assert_eq!(code(MachineConfig { vcpus, ..config(&[0]) }), ErrorCode::VcpuCount);
    }
    for memory_size in [0, 1, 4095, u64::MAX] {
        assert_eq!(code(MachineConfig { memory_size, ..config(&[0]) }), ErrorCode::MemorySize);
    }
    let boot = BootSource::new(b"no kernel");
    assert_eq!(code(MachineConfig { boot, ..config(&[0]) }), ErrorCode::ImageFormat);
    let mut small = Fake::new([]);
    small.capabilities.max_vcpus = 1;
    let error = Machine::new(&small, MachineConfig { vcpus: 2, ..config(&[0]) }).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::VcpuCount);
}

#[test]
fn the_first_vcpu_is_at_the_entry_and_the_tables_are_in_memory() {
    let backend = Fake::new([]);
    let machine = Machine::new(&backend, MachineConfig { vcpus: 4, ..config(&[0xf4]) }).unwrap();
    let rip = machine.vcpu(0).unwrap().with(|v| Ok(v.x86()?.registers()?.rip)).unwrap();
    assert_eq!(rip, machine.boot().entry);
    assert_eq!(machine.ram().read_array(0x7c00).unwrap(), [0xf4]);
    assert_eq!(&machine.ram().read_array::<8>(0xe_0000).unwrap(), b"RSD PTR ");
    assert_ne!(machine.ram().read_array(0xf_fff0).unwrap(), [0; 4], "a guest may jump to the reset vector");
    assert_eq!(machine.vcpus().len(), 4);
    assert_eq!(machine.vcpu(4).map(|_| ()).unwrap_err().code(), ErrorCode::InvalidArgument);
}

/// A clock that is set by hand.
#[derive(Default)]
struct Manual(AtomicU64);

impl Clock for Manual {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn unix_ns(&self) -> u64 {
        self.now_ns()
    }
}

/// Turns the CMOS clock's periodic interrupt on: 1024 Hz.
fn periodic() -> [VmExit; 2] {
    [port_out(0x70, &[0xb]), port_out(0x71, &[0x42])]
}

#[test]
fn the_cmos_clock_interrupts_when_it_is_ticked_and_wakes_who_ticks_it() {
    // The flags are read, which takes the interrupt back.
    let acknowledge = [port_out(0x70, &[0xc]), port_in(0x71, 1)];
    let exits = periodic().into_iter().chain([VmExit::Cancelled]).chain(acknowledge);
    let backend = Fake::new(exits);
    let (clock, waker) = (Arc::new(Manual::default()), ThreadWaker::new());
    let config = MachineConfig { clock: clock.clone(), waker: waker.clone(), ..config(&[0xf4]) };
    let machine = Machine::new(&backend, config).unwrap();
    let lines = || backend.lines.lock().unwrap().clone();
    assert_eq!(machine.tick().unwrap(), None);
    run(&machine).unwrap();
    assert_eq!(waker.wait(0, Some(Duration::ZERO)), 1, "there is a deadline now");
    let period = 1_000_000_000 / 1024;
    let deadline = machine.tick().unwrap().unwrap();
    assert!((period..=period + 1).contains(&deadline), "{deadline}");
    assert_eq!(lines(), []);
    clock.0.store(deadline, Ordering::SeqCst);
    assert_eq!(machine.tick().unwrap(), None, "raised, and not acknowledged");
    assert_eq!(lines(), [(8, true)]);
    run(&machine).unwrap();
    assert_eq!(lines(), [(8, true), (8, false)]);
    assert_eq!(waker.wait(1, Some(Duration::ZERO)), 2, "there is another");
    assert_eq!(machine.set_irq_line(8, true).unwrap_err().code(), ErrorCode::IrqLine);
}

#[test]
fn time_is_kept_until_it_is_no_longer_wanted() {
    let backend = Fake::new(periodic());
    let (clock, waker) = (StdClock::new(), ThreadWaker::new());
    let config = MachineConfig { clock: clock.clone(), waker: waker.clone(), ..config(&[0xf4]) };
    let machine = Machine::new(&backend, config).unwrap();
    run(&machine).unwrap();
    let unraised = || backend.lines.lock().unwrap().is_empty();
    std::thread::scope(|scope| {
        let keeper = scope.spawn(|| keep_time(&machine, &*clock, &waker, unraised));
        while unraised() {
            std::thread::yield_now();
        }
        waker.wake();
        keeper.join().unwrap().unwrap();
    });
    assert_eq!(*backend.lines.lock().unwrap(), [(8, true)]);
}

#[test]
fn a_machine_too_small_for_the_tables_has_none() {
    let backend = Fake::new([]);
    assert!(Machine::new(&backend, MachineConfig { memory_size: 64 << 10, ..config(&[0xf4]) }).is_ok());
}

#[test]
fn every_way_out_has_its_outcome() {
    let cases = [
        (port_out(0x600, &[POWER_OFF]), Outcome::PowerOff),
        (port_out(0x602, &[1]), Outcome::Reset),
        (port_out(0x64, &[0xfe]), Outcome::Reset),
        (port_out(0x92, &[1]), Outcome::Reset),
        (port_out(0xf4, &[0x10]), Outcome::DebugExit(0x21)),
        (port_out(0x505, &[4]), Outcome::PowerOff),
        (VmExit::TripleFault, Outcome::TripleFault),
        (VmExit::InternalError("emulation".into()), Outcome::Failed),
    ];
    for (exit, outcome) in cases {
        let machine = Fake::new([exit]).machine();
        run(&machine).unwrap();
        assert_eq!(machine.outcome(), Some(outcome));
        assert_eq!(run(&machine).unwrap_err().code(), ErrorCode::Closed);
    }
}

#[test]
fn a_reset_after_a_panic_is_told_from_another() {
    let said = prints("Kernel panic - not syncing: Attempted to kill init!\r\n");
    let reported = [port_out(0x505, &[1])];
    for panic in [said.collect::<Vec<_>>(), reported.into()] {
        let machine = Fake::new(panic.into_iter().chain([port_out(0x602, &[1])])).machine();
        run(&machine).unwrap();
        assert_eq!(machine.outcome(), Some(Outcome::KernelPanic));
    }
}

#[test]
fn the_end_of_one_vcpu_cancels_the_others() {
    let backend = Fake::new([VmExit::Hlt, VmExit::Shutdown]);
    let machine = Machine::new(&backend, MachineConfig { vcpus: 2, ..config(&[0xf4]) }).unwrap();
    run(&machine).unwrap();
    let other = machine.vcpu(1).unwrap().run(VmEntry::Resume, &mut RecordingHost::new());
    assert!(matches!(other, Ok(Stop::Exit(VmExit::Cancelled))));
}

#[test]
fn cancelled_machines_go_on_and_closed_ones_do_not() {
    let machine = Fake::new([VmExit::Hlt, VmExit::Hlt]).machine();
    machine.cancel();
    assert!(matches!(run(&machine), Ok(Stop::Exit(VmExit::Cancelled))));
    assert_eq!(machine.outcome(), None);
    machine.close();
    assert_eq!(run(&machine).unwrap_err().code(), ErrorCode::Closed);
    assert_eq!(machine.outcome(), Some(Outcome::Aborted));
    let state = machine.vcpu(0).unwrap().with(|v| v.x86().map(|_| ()));
    assert_eq!(state.unwrap_err().code(), ErrorCode::Closed);
}

#[test]
fn a_device_cannot_lie_over_ram_or_the_board() {
    let machine = Fake::new([]).machine();
    for (bus, base) in [
        (machine.device_memory(), 0),
        (machine.device_memory(), platform::IO_APIC),
        (machine.device_memory(), platform::LOCAL_APIC),
        (machine.ports(), u64::from(platform::COM1)),
        (machine.ports(), 0x20),
        (machine.ports(), 0x40),
    ] {
        let error = bus.map("mine", base, 1, Target::External(1)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeviceOverlap);
    }
    let window = platform::DEVICE_WINDOW;
    machine
        .device_memory()
        .map("mine", window.start, window.end - window.start, Target::External(1))
        .unwrap();
    assert_eq!(machine.set_irq_line(4, true).unwrap_err().code(), ErrorCode::IrqLine);
    machine.set_irq_line(5, true).unwrap();
}

/// Counts what it is told.
#[derive(Default)]
struct Told {
    output: AtomicUsize,
    room: AtomicUsize,
}

struct Tell(Arc<Told>);

impl ConsoleListener for Tell {
    fn output(&self) {
        self.0.output.fetch_add(1, Ordering::SeqCst);
    }

    fn input_room(&self) {
        self.0.room.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn output_is_told_once_and_taken_whole() {
    let told = Arc::new(Told::default());
    let exits = prints("from COM1,").chain([port_out(0xe9, b"!"), port_out(0x402, b"?"), VmExit::Cancelled]);
    let machine = Fake::new(exits.chain(prints("more"))).machine_with(Box::new(Tell(told.clone())));
    run(&machine).unwrap();
    assert_eq!(told.output.load(Ordering::SeqCst), 1);
    assert_eq!(machine.console().take_output(), b"from COM1,!?");
    run(&machine).unwrap();
    assert_eq!(told.output.load(Ordering::SeqCst), 2);
    assert_eq!(machine.console().take_output(), b"more");
    assert_eq!(machine.console().take_output(), b"");
}

#[test]
fn output_nobody_takes_is_bounded_and_the_loss_is_counted() {
    use squib_vmm::console::OUTPUT_CAPACITY;
    let told = Arc::new(Told::default());
    let exits = std::iter::repeat_n(port_out(0xe9, b"x"), OUTPUT_CAPACITY + 4);
    let machine = Fake::new(exits).machine_with(Box::new(Tell(told.clone())));
    run(&machine).unwrap();
    assert_eq!(machine.console().take_output().len(), OUTPUT_CAPACITY / 2 + 4);
    assert_eq!(machine.console().lost_output(), OUTPUT_CAPACITY as u64 / 2);
    assert_eq!(told.output.load(Ordering::SeqCst), 2, "at the first byte and when it was full");
}

#[test]
fn input_waits_for_a_driver_and_then_interrupts() {
    let driver = [
        port_out(0x3fa, &[1]),
        port_out(0x3f9, &[1]),
        VmExit::Cancelled,
        port_out(0x3fc, &[8]),
        port_in(0x3f8, 1),
        port_in(0x3f8, 1),
    ];
    let backend = Fake::new(driver);
    let machine = backend.machine();
    assert_eq!(machine.console().send(b"hi").unwrap(), 2);
    run(&machine).unwrap();
    assert!(backend.lines.lock().unwrap().is_empty(), "the driver is still probing");
    run(&machine).unwrap();
    assert_eq!(*backend.lines.lock().unwrap(), [(4, true), (4, false)]);
}

/// The bytes that COM1's receiver has, read as a guest reads them.
fn received(machine: &Machine) -> Vec<u8> {
    let mut ports = machine.ports().lookup();
    let (mapping, _) = ports.find(platform::COM1.into(), 1).unwrap();
    let Target::Device(uart) = mapping.target() else { panic!("COM1 is a device") };
    let mut bytes = vec![];
    while uart.read(5, 1).unwrap() & 1 != 0 {
        bytes.push(uart.read(0, 1).unwrap() as u8);
    }
    bytes
}

#[test]
fn a_driver_that_empties_the_receiver_loses_no_input() {
    // The order of Linux: interrupts first, the FIFO after.
    let driver = [port_out(0x3fc, &[8]), port_out(0x3f9, &[1]), port_out(0x3fa, &[1]), VmExit::Cancelled];
    let machine = Fake::new(driver).machine();
    machine.console().send(b"typed early").unwrap();
    run(&machine).unwrap();
    assert_eq!(received(&machine), b"typed early");
}

#[test]
fn a_guest_that_polls_gets_input_too() {
    let machine = Fake::new(std::iter::repeat_n(port_in(0x3fd, 1), 16).chain([VmExit::Cancelled])).machine();
    machine.console().send(b"x").unwrap();
    run(&machine).unwrap();
    assert_eq!(received(&machine), b"x");
}

#[test]
fn more_input_than_there_is_room_for_is_asked_for_later() {
    use squib_vmm::console::INPUT_CAPACITY;
    let told = Arc::new(Told::default());
    let open = [port_out(0x3fa, &[1]), port_out(0x3f9, &[1]), port_out(0x3fc, &[8])];
    let reads = std::iter::repeat_n(port_in(0x3f8, 1), INPUT_CAPACITY / 2);
    let backend = Fake::new(open.into_iter().chain(reads));
    let machine = backend.machine_with(Box::new(Tell(told.clone())));
    assert_eq!(machine.console().send(&vec![0; INPUT_CAPACITY + 1]).unwrap(), INPUT_CAPACITY);
    assert_eq!(machine.console().send(&[0]).unwrap(), 0);
    run(&machine).unwrap();
    assert_eq!(told.room.load(Ordering::SeqCst), 1);
    assert_ne!(machine.console().send(&[0]).unwrap(), 0);
}

#[test]
fn statistics_say_who_was_accessed_and_when() {
    let exits =
        prints("Run /init as init process\n").chain([port_in(0x3fd, 1), port_in(0xcfc, 4), VmExit::Shutdown]);
    let machine = Fake::new(exits).machine();
    machine.device_memory().map("mine", 0xd000_0000, 8, Target::External(1)).unwrap();
    run(&machine).unwrap();
    let stats = machine.stats();
    assert_eq!(stats.exits, [(ExitKind::Pio, 28), (ExitKind::Shutdown, 1)]);
    let com1 = stats.ports.iter().find(|d| d.name == "COM1").unwrap();
    assert_eq!((com1.base, com1.last, com1.reads, com1.writes), (0x3f8, 0x3ff, 1, 26));
    assert_eq!(stats.memory.len(), 1);
    assert_eq!(stats.open_bus, 1);
    assert_eq!(stats.instructions, Some(29));
    assert!(stats.first_output_ns.unwrap() <= stats.userspace_ns.unwrap());
}

#[test]
fn the_cmos_clock_shows_the_time() {
    let machine = Fake::new([]).machine();
    let mut ports = machine.ports().lookup();
    let (mapping, _) = ports.find(0x70, 1).unwrap();
    let Target::Device(clock) = mapping.target() else { panic!("the clock is a device") };
    clock.write(0, 1, 0x32).unwrap();
    assert_eq!(clock.read(1, 1).unwrap(), 0x20, "the century, in BCD");
}

#[test]
fn with_a_split_irqchip_the_io_apic_is_the_boards() {
    // Pin 5 becomes level-triggered vector 0x41 of processor 0; then its interrupt ends.
    let select = |index| store(platform::IO_APIC, &[index, 0, 0, 0]);
    let window = |value: u32| store(platform::IO_APIC + 0x10, &value.to_le_bytes());
    let exits = [select(0x1a), window(0x8041), VmExit::Eoi { vector: 0x41 }];
    let backend = Fake::new(exits);
    let config = MachineConfig { irqchip: IrqchipKind::Split, ..config(&[0xf4]) };
    let machine = Machine::new(&backend, config).unwrap();
    machine.set_irq_line(5, true).unwrap();
    assert!(backend.messages.lock().unwrap().is_empty(), "all pins are masked at first");
    assert!(matches!(run(&machine), Ok(Stop::Exit(VmExit::Unknown { .. }))));
    let message = (0xfee0_0000, 0xc041);
    assert_eq!(*backend.messages.lock().unwrap(), [message, message], "once unmasked, once after its end");
    assert!(backend.lines.lock().unwrap().is_empty());
    assert_eq!(machine.set_irq_line(24, true).unwrap_err().code(), ErrorCode::IrqLine);
}

#[test]
fn a_machine_without_local_apics_is_none() {
    let config = MachineConfig { irqchip: IrqchipKind::None, ..config(&[0xf4]) };
    let error = Machine::new(&Fake::new([]), config).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
}
