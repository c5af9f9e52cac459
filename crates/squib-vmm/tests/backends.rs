//! The machine on real backends, with the small guests of squib-guests. KVM is skipped out loud where there is none.
#![cfg(target_arch = "x86_64")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use squib_core::{Error, ErrorCode, HypervisorBackend, IrqchipKind, Result, VmExit};
use squib_guests::{
    Guest, LINE_PORT, Mode, hello, hlt, mmio_sweep, spin, triple_fault, uart_flood, uart_hello,
};
use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;
use squib_vmm::boot::{BootSource, Flat, FlatMode, Protocol};
use squib_vmm::host::{StdClock, ThreadWaker};
use squib_vmm::{Action, Host, Idle, Machine, MachineConfig, Outcome, Stop, Target};
use support::RecordingHost;

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn kvm() -> Option<KvmBackend> {
    KvmBackend::open().inspect_err(|e| eprintln!("SKIPPED: machines on KVM, because {e}")).ok()
}

/// Builds the machine on each backend there is, and lets `check` have it.
fn on_each_backend(guest: &Guest, check: impl Fn(Machine)) {
    on_each_backend_with(protocol(guest), &guest.image, check);
}

fn on_each_backend_with(protocol: Option<Protocol>, image: &[u8], check: impl Fn(Machine)) {
    check(machine_with(&SoftBackend::default(), protocol, image));
    if let Some(kvm) = kvm() {
        check(machine_with(&kvm, protocol, image));
    }
}

fn machine(backend: &dyn HypervisorBackend, guest: &Guest) -> Machine {
    machine_with(backend, protocol(guest), &guest.image)
}

fn protocol(guest: &Guest) -> Option<Protocol> {
    let flat = |mode| Some(Protocol::Flat(Flat::at(guest.load_addr, mode)));
    match guest.mode {
        Mode::Real16 => flat(FlatMode::Real16),
        Mode::Long64 => flat(FlatMode::Long64),
        Mode::Multiboot => Some(Protocol::Multiboot),
    }
}

fn machine_with(backend: &dyn HypervisorBackend, protocol: Option<Protocol>, image: &[u8]) -> Machine {
    let config = MachineConfig {
        memory_size: squib_guests::MEMORY_SIZE,
        vcpus: backend.capabilities().max_vcpus.min(2),
        irqchip: IrqchipKind::Full,
        boot: BootSource { protocol, ..BootSource::new(image) },
        clock: StdClock::new(),
        waker: ThreadWaker::new(),
        console: Box::new(()),
    };
    Machine::new(backend, config).unwrap()
}

#[test]
fn a_guest_cannot_write_its_firmware() {
    let mut rom = vec![0; 64 << 10];
    rom[0] = 0x21;
    // mov byte cs:[0], 5Ah; mov al, cs:[0]; out F4h, al; hlt
    let code = [0x2e, 0xc6, 0x06, 0, 0, 0x5a, 0x2e, 0xa0, 0, 0, 0xe6, 0xf4, 0xf4];
    let (entry, vector) = (0xff00, 0xfff0);
    rom[entry..entry + code.len()].copy_from_slice(&code);
    // jmp entry
    rom[vector..vector + 3].copy_from_slice(&[0xe9, 0x0d, 0xff]);
    on_each_backend_with(Some(Protocol::Firmware), &rom, |machine| {
        assert!(matches!(machine.run(0, &mut RecordingHost::new()), Ok(Stop::DebugExit(0x43))));
        let mut byte = [0];
        machine.ram().read(0xffff_0000, &mut byte).unwrap();
        assert_eq!(byte, [0x21]);
        assert_eq!(machine.stats().open_bus, 1, "the write was nobody's");
    });
}

#[test]
fn a_guest_prints_on_com1_and_ends_by_the_debug_exit() {
    on_each_backend(&uart_hello("Hello, COM1\n"), |machine| {
        assert!(matches!(machine.run(0, &mut RecordingHost::new()), Ok(Stop::DebugExit(1))));
        assert_eq!(machine.console().take_output(), b"Hello, COM1\n");
        assert_eq!(machine.outcome(), Some(Outcome::DebugExit(1)));
        let stats = machine.stats();
        let com1 = stats.ports.iter().find(|d| d.name == "COM1").unwrap();
        assert_eq!((com1.reads, com1.writes), (12, 12));
    });
}

#[test]
fn a_kernel_finds_the_memory_types_on_as_firmware_leaves_them() {
    on_each_backend(&hello(), |machine| {
        let first = machine.vcpu(0).unwrap();
        assert_eq!(first.with(|vcpu| vcpu.x86()?.msr(0x2ff)).unwrap(), 0x806);
    });
}

#[test]
fn a_triple_fault_ends_the_machine() {
    on_each_backend(&triple_fault(), |machine| {
        let stop = machine.run(0, &mut RecordingHost::new());
        assert!(matches!(stop, Ok(Stop::Exit(VmExit::TripleFault))), "{stop:?}");
        assert_eq!(machine.outcome(), Some(Outcome::TripleFault));
    });
}

#[test]
fn a_jump_to_the_reset_vector_resets() {
    let jump = [0xea, 0xf0, 0xff, 0x00, 0xf0];
    let guest = Guest { mode: Mode::Real16, load_addr: 0x7c00, image: jump.into(), ..triple_fault() };
    on_each_backend(&guest, |machine| {
        assert!(matches!(machine.run(0, &mut RecordingHost::new()), Ok(Stop::Reset)));
        assert_eq!(machine.outcome(), Some(Outcome::Reset));
    });
}

#[test]
fn a_guest_that_loops_for_ever_is_cancelled_and_goes_on() {
    on_each_backend(&spin(Mode::Long64), |machine| {
        let machine = Arc::new(machine);
        for _ in 0..2 {
            let other = machine.clone();
            let run = move || other.run(0, &mut RecordingHost::new()).map(|stop| format!("{stop:?}"));
            let thread = std::thread::spawn(run);
            machine.cancel();
            assert_eq!(thread.join().unwrap().unwrap(), "Exit(Cancelled)");
        }
        assert_eq!(machine.outcome(), None);
    });
}

/// The line device of the demo guest: answers each line with its length, and fails once when it is told to.
#[derive(Default)]
struct LineDevice {
    line: Vec<u8>,
    answer: Vec<u8>,
    fails: bool,
}

impl Host for LineDevice {
    fn read(&mut self, device: u32, _: u64, width: u8) -> Result<u64> {
        assert_eq!((device, width), (9, 1));
        if std::mem::take(&mut self.fails) {
            return Err(Error::new(ErrorCode::DeviceFailed, "thrown"));
        }
        Ok(if self.answer.is_empty() { 0 } else { self.answer.remove(0).into() })
    }

    fn write(&mut self, _: u32, _: u64, _: u8, value: u64) -> Result<Action> {
        match value as u8 {
            b'\n' => {
                self.answer = format!("{} bytes", self.line.len()).into_bytes();
                self.line.clear();
            }
            byte => self.line.push(byte),
        }
        Ok(Action::Continue)
    }

    fn idle(&mut self, _: Option<u64>) -> Idle {
        Idle::Return
    }
}

#[test]
fn the_demo_guest_talks_to_an_external_device_by_interrupts() {
    on_each_backend(&hello(), |machine| {
        machine.ports().map("line", LINE_PORT.into(), 1, Target::External(9)).unwrap();
        assert_eq!(machine.console().send(b"squib\rq\r").unwrap(), 8);
        let mut host = LineDevice { fails: true, ..LineDevice::default() };
        assert_eq!(machine.run(0, &mut host).unwrap_err().code(), ErrorCode::DeviceFailed);
        assert!(matches!(machine.run(0, &mut host), Ok(Stop::PowerOff)));
        let output = String::from_utf8(machine.console().take_output()).unwrap();
        assert!(output.contains("hello from 64-bit mode"), "{output}");
        assert!(output.contains("5 bytes"), "{output}");
    });
}

/// 10 MB; on KVM only with `SQUIB_TEST_LONG` set.
#[test]
fn a_flood_of_output_is_all_there_or_counted_as_lost() {
    const CHUNKS: u16 = 320;
    flood(&SoftBackend::default(), CHUNKS);
    if let Some(kvm) = kvm() {
        // Each byte is an exit: where those are slow 10 MB take minutes.
        flood(&kvm, if std::env::var_os("SQUIB_TEST_LONG").is_some() { CHUNKS } else { 4 });
    }
}

fn flood(backend: &dyn HypervisorBackend, chunks: u16) {
    let machine = machine(backend, &uart_flood(chunks));
    let taken = std::thread::scope(|scope| {
        let runner = scope.spawn(|| machine.run(0, &mut RecordingHost::new()));
        let mut taken = 0;
        while !runner.is_finished() {
            taken += machine.console().take_output().len() as u64;
            std::thread::yield_now();
        }
        assert!(matches!(runner.join().unwrap(), Ok(Stop::DebugExit(1))));
        taken + machine.console().take_output().len() as u64
    });
    assert_eq!(taken + machine.console().lost_output(), u64::from(chunks) * 0x8000);
}

/// The window of devices, and every register of the interrupt controllers.
#[test]
fn accesses_all_over_memory_mapped_devices_harm_nobody() {
    let ranges =
        [(0xc000_0000, 0xfec0_0000, 0x8000), (0xfec0_0000, 0xfec0_0100, 16), (0xfee0_0000, 0xfee0_1000, 16)];
    on_each_backend(&mmio_sweep(&ranges), |machine| {
        let stop = machine.run(0, &mut RecordingHost::new());
        assert!(matches!(stop, Ok(Stop::DebugExit(1))), "{stop:?}");
        assert_eq!(machine.stats().open_bus, 3 * (0x3ec0_0000 / 0x8000));
    });
}

/// The first vCPU spins or has halted; the second, where there is one, waits to be started.
#[test]
fn closing_a_machine_ends_the_threads_of_its_vcpus() {
    for guest in [spin(Mode::Long64), hlt(Mode::Long64)] {
        on_each_backend(&guest, |machine| {
            std::thread::scope(|scope| {
                for id in 0..machine.vcpus().len() as u32 {
                    let machine = &machine;
                    scope.spawn(move || {
                        // A run may have been cancelled just before the machine was closed.
                        let run = || machine.run(id, &mut RecordingHost::new());
                        let ended = std::iter::repeat_with(run).find_map(Result::err).unwrap();
                        assert_eq!(ended.code(), ErrorCode::Closed);
                    });
                }
                std::thread::sleep(Duration::from_millis(20));
                machine.close();
            });
        });
    }
}
