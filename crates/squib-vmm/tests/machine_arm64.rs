//! The machine for aarch64 on a backend whose vCPUs make the exits of a script.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use squib_core::arm64::gic::GicVersion;
use squib_core::arm64::{
    Arm64State, PowerState, Registers, SystemRegister, VectorRegisters, system_registers,
};
use squib_core::backend::Vm;
use squib_core::{
    Architecture, BackendCapabilities, BackendKind, CancelHandle, Clock, ErrorCode, ExitKind, ExitSet,
    GuestMemory, HypervisorBackend, IrqchipKind, Result, SystemEventKind, Vcpu, VmConfig, VmEntry, VmExit,
};
use squib_vmm::boot::BootSource;
use squib_vmm::host::ThreadWaker;
use squib_vmm::{Machine, MachineConfig, Outcome, Stop, virt};
use support::*;

/// Interrupt line changes.
type Lines = Arc<Mutex<Vec<(u32, bool)>>>;

struct Fake {
    capabilities: BackendCapabilities,
    exits: Vec<VmExit>,
    lines: Lines,
    clock: Arc<Manual>,
}

struct FakeVm {
    memory: Arc<GuestMemory>,
    exits: Vec<VmExit>,
    lines: Lines,
}

struct FakeVcpu {
    id: u32,
    script: Script,
    registers: Registers,
}

/// A clock that is set by hand.
#[derive(Default)]
struct Manual(AtomicU64);

impl Clock for Manual {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn unix_ns(&self) -> u64 {
        1_000_000_000_000 + self.now_ns()
    }
}

impl Fake {
    fn new(exits: impl IntoIterator<Item = VmExit>) -> Self {
        let mut capabilities = BackendCapabilities::new(Architecture::Arm64, ExitSet::of(&ExitKind::ALL), 64);
        capabilities.irqchips = &[IrqchipKind::Full];
        capabilities.gic = Some(GicVersion::V3);
        let exits = exits.into_iter().collect();
        Self { capabilities, exits, lines: Lines::default(), clock: Arc::default() }
    }

    fn config<'a>(&self, kernel: &'a [u8]) -> MachineConfig<'a> {
        MachineConfig {
            memory_size: 16 << 20,
            vcpus: 1,
            irqchip: IrqchipKind::Full,
            boot: BootSource { command_line: "console=ttyAMA0", ..BootSource::new(kernel) },
            clock: self.clock.clone(),
            waker: ThreadWaker::new(),
            console: Box::new(()),
        }
    }

    fn machine(&self) -> Machine {
        Machine::new(self, self.config(&image())).unwrap()
    }

    fn lines(&self) -> Vec<(u32, bool)> {
        self.lines.lock().unwrap().clone()
    }
}

/// The header of a kernel of a page.
fn image() -> [u8; 64] {
    let mut image = [0; 64];
    image[17] = 0x10;
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

impl HypervisorBackend for Fake {
    fn kind(&self) -> BackendKind {
        BackendKind::Kvm
    }

    fn capabilities(&self) -> &BackendCapabilities {
        &self.capabilities
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        Ok(Arc::new(FakeVm {
            memory: config.memory.clone(),
            exits: self.exits.clone(),
            lines: self.lines.clone(),
        }))
    }
}

impl Vm for FakeVm {
    fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        let mut script = script();
        script.script = self.exits.iter().cloned().map(Ok).collect();
        Ok(Box::new(FakeVcpu { id, script, registers: Registers::default() }))
    }

    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.lines.lock().unwrap().push((gsi, level));
        Ok(())
    }

    fn signal_msi(&self, _: u64, _: u32) -> Result<()> {
        unreachable!("there is nobody to send a message")
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

    fn arm64(&mut self) -> Result<&mut dyn Arm64State> {
        Ok(self)
    }
}

#[rustfmt::skip]
impl Arm64State for FakeVcpu {
    fn registers(&mut self) -> Result<Registers> { Ok(self.registers) }
    fn set_registers(&mut self, regs: &Registers) -> Result<()> { self.registers = *regs; Ok(()) }
    fn vector_registers(&mut self) -> Result<VectorRegisters> { Ok(VectorRegisters::default()) }
    fn set_vector_registers(&mut self, _: &VectorRegisters) -> Result<()> { Ok(()) }
    fn system_register(&mut self, register: SystemRegister) -> Result<u64> {
        assert_eq!(register, system_registers::MPIDR_EL1);
        Ok(0x8000_0000 | u64::from(self.id))
    }
    fn set_system_register(&mut self, _: SystemRegister, _: u64) -> Result<()> { Ok(()) }
    fn system_register_list(&mut self) -> Result<Vec<SystemRegister>> { Ok(vec![]) }
    fn power_state(&mut self) -> Result<PowerState> { Ok(PowerState::On) }
    fn set_power_state(&mut self, _: PowerState) -> Result<()> { Ok(()) }
}

fn run(machine: &Machine) -> Result<Stop> {
    machine.run(0, &mut RecordingHost::new())
}

/// A write to a register of the UART.
fn uart(offset: u64, value: u32) -> VmExit {
    store(virt::UART + offset, &value.to_le_bytes())
}

fn event(kind: SystemEventKind) -> VmExit {
    VmExit::SystemEvent { kind, data: Default::default() }
}

#[test]
fn the_first_vcpu_is_at_the_kernel_with_the_tree() {
    let backend = Fake::new([]);
    let machine = Machine::new(&backend, MachineConfig { vcpus: 3, ..backend.config(&image()) }).unwrap();
    let registers = |id| machine.vcpu(id).unwrap().with(|v| v.arm64()?.registers()).unwrap();
    assert_eq!(registers(0).pc, virt::RAM);
    assert_eq!(registers(1), Registers::default(), "the others wait for the first to start them");
    let tree = machine.ram().read_array::<4096>(registers(0).x[0]).unwrap();
    assert_eq!(tree[..4], [0xd0, 0x0d, 0xfe, 0xed]);
    let len = u32::from_be_bytes(tree[4..8].try_into().unwrap()) as usize;
    assert!(len < 4096, "{len}");
    let text = String::from_utf8_lossy(&tree[..len]).into_owned();
    for word in [
        "memory@40000000",
        "cpu@2",
        "arm,gic-v3",
        "pl011@9000000",
        "pl031@9010000",
        "console=ttyAMA0",
        "arm,psci-1.0",
    ] {
        assert!(text.contains(word), "{word}");
    }
    assert!(!text.contains("cpu@3") && !text.contains("initrd"));
}

#[test]
fn what_the_guest_prints_is_on_the_console() {
    let exits = "Hello".bytes().map(|byte| uart(0, byte.into())).chain([event(SystemEventKind::Shutdown)]);
    let machine = Fake::new(exits).machine();
    run(&machine).unwrap();
    assert_eq!(machine.console().take_output(), b"Hello");
    assert_eq!(machine.outcome(), Some(Outcome::PowerOff));
}

#[test]
fn input_waits_for_a_guest_that_listens_and_interrupts_it() {
    // FIFOs on; the receiver's interrupts on, off, and on again.
    let exits = [
        uart(0x2c, 0x70),
        uart(0x38, 0x50),
        VmExit::Cancelled,
        load(virt::UART, 4),
        VmExit::Cancelled,
        uart(0x38, 0),
        uart(0x38, 0x50),
        load(virt::UART, 4),
        load(virt::UART, 4),
        VmExit::Cancelled,
    ];
    let backend = Fake::new(exits);
    let machine = backend.machine();
    assert_eq!(machine.console().send(b"abc").unwrap(), 3);
    assert_eq!(backend.lines(), []);
    run(&machine).unwrap();
    assert_eq!(backend.lines(), [(virt::UART_LINE, true)]);
    run(&machine).unwrap();
    run(&machine).unwrap();
    let changes: Vec<_> = backend.lines().into_iter().map(|(_, level)| level).collect();
    assert_eq!(changes, [true, false, true, false], "off while masked, and when all is read");
}

#[test]
fn psci_ends_the_machine() {
    let panic = "Kernel panic - not syncing: x\n".bytes().map(|byte| uart(0, byte.into()));
    let cases: [(Vec<VmExit>, Outcome); 5] = [
        (vec![event(SystemEventKind::Shutdown)], Outcome::PowerOff),
        (vec![event(SystemEventKind::Reset)], Outcome::Reset),
        (panic.chain([event(SystemEventKind::Reset)]).collect(), Outcome::KernelPanic),
        (vec![event(SystemEventKind::Suspend)], Outcome::Failed),
        (vec![VmExit::MemoryFault { addr: 0, size: 0, flags: 0x9200_0044 }], Outcome::Failed),
    ];
    for (exits, outcome) in cases {
        let machine = Fake::new(exits).machine();
        run(&machine).unwrap();
        assert_eq!(machine.outcome(), Some(outcome));
    }
}

#[test]
fn the_clock_interrupts_when_it_is_ticked() {
    // A match in 5 seconds, and the interrupt on.
    let clock = |offset, value: u32| store(virt::CLOCK + offset, &value.to_le_bytes());
    let backend = Fake::new([clock(4, 1005), clock(0x10, 1), VmExit::Cancelled, clock(0x1c, 1)]);
    let machine = backend.machine();
    assert_eq!(machine.tick().unwrap(), None);
    run(&machine).unwrap();
    let due = machine.tick().unwrap().unwrap();
    assert_eq!(due, 5_000_000_000);
    assert_eq!(backend.lines(), []);
    backend.clock.0.store(due, Ordering::SeqCst);
    assert_eq!(machine.tick().unwrap(), None, "raised, and not acknowledged");
    run(&machine).unwrap();
    assert_eq!(backend.lines(), [(virt::CLOCK_LINE, true), (virt::CLOCK_LINE, false)]);
}

#[test]
fn the_embedder_has_lines_of_its_own() {
    let backend = Fake::new([]);
    let machine = backend.machine();
    for line in [0, 1, 2] {
        assert_eq!(machine.set_irq_line(line, true).unwrap_err().code(), ErrorCode::IrqLine);
    }
    machine.set_irq_line(3, true).unwrap();
    assert_eq!(backend.lines(), [(3, true)]);
    assert_eq!(machine.add_test_device().unwrap_err().code(), ErrorCode::Unsupported);
}

#[test]
fn bad_configurations_are_typed_errors() {
    let backend = Fake::new([]);
    let image = image();
    let code = |c: MachineConfig<'_>| Machine::new(&backend, c).map(|_| ()).unwrap_err().code();
    for irqchip in [IrqchipKind::None, IrqchipKind::Split] {
        assert_eq!(code(MachineConfig { irqchip, ..backend.config(&image) }), ErrorCode::Unsupported);
    }
    for memory_size in [0, 4095, u64::MAX - 4095] {
        assert_eq!(code(MachineConfig { memory_size, ..backend.config(&image) }), ErrorCode::MemorySize);
    }
    assert_eq!(code(backend.config(b"no kernel")), ErrorCode::ImageFormat);
}
