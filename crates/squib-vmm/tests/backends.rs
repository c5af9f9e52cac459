//! The machine on real backends, with the small guests of squib-guests. KVM is skipped out loud where there is none.

mod support;

use std::sync::Arc;

use squib_core::{Error, ErrorCode, HypervisorBackend, Result, VmExit};
use squib_guests::{Guest, LINE_PORT, Mode, hello, spin, triple_fault, uart_hello};
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
    check(machine(&SoftBackend::default(), guest));
    if let Some(kvm) = kvm() {
        check(machine(&kvm, guest));
    }
}

fn machine(backend: &dyn HypervisorBackend, guest: &Guest) -> Machine {
    let flat = |mode| Some(Protocol::Flat(Flat::at(guest.load_addr, mode)));
    let protocol = match guest.mode {
        Mode::Real16 => flat(FlatMode::Real16),
        Mode::Long64 => flat(FlatMode::Long64),
        Mode::Multiboot => Some(Protocol::Multiboot),
    };
    let config = MachineConfig {
        memory_size: squib_guests::MEMORY_SIZE,
        vcpus: 1,
        boot: BootSource { protocol, ..BootSource::new(&guest.image) },
        clock: StdClock::new(),
        waker: ThreadWaker::new(),
        console: Box::new(()),
    };
    Machine::new(backend, config).unwrap()
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
