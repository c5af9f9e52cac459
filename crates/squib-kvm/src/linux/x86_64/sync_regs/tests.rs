//! What is read is what KVM has, and takes as many calls as it should, whatever comes between.

use std::cell::Cell;
use std::sync::Arc;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use squib_core::x86::{Activity, PendingEvents, Registers, SystemRegisters, X86State};
use squib_core::{ExitData, HypervisorBackend, IrqchipKind, Vcpu, Vm, VmConfig, VmEntry, VmExit};

use super::*;
use crate::KvmBackend;
use crate::linux::arch::guests;
use crate::linux::probe::Nothing;

thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });

/// Counts a system call about registers.
pub(super) fn call() {
    CALLS.set(CALLS.get() + 1);
}

/// What `f` gives, and how many calls it makes.
fn calls<T>(f: impl FnOnce() -> T) -> (T, u32) {
    let before = CALLS.get();
    let result = f();
    (result, CALLS.get() - before)
}

const PORT: u32 = 0x510;
const FS_BASE: u32 = 0xc000_0100;

/// The backend with the means to be tested, or `None` after saying why there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn backend() -> Option<KvmBackend> {
    let why = match KvmBackend::open() {
        Ok(kvm) if kvm.host.sync_regs & 3 == 3 => return Some(kvm),
        Ok(_) => "this KVM has no SYNC_REGS".into(),
        Err(e) => e.to_string(),
    };
    eprintln!("SKIPPED: copies of registers because {why}");
    None
}

struct Guest {
    vm: Arc<dyn Vm>,
    vcpu: Box<dyn Vcpu>,
}

impl Guest {
    /// A vCPU about to run `code` in 64-bit mode.
    fn new(
        kvm: &KvmBackend,
        irqchip: IrqchipKind,
        code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Self {
        let (memory, nothing) = (guests::memory().unwrap(), Arc::new(Nothing));
        let config = VmConfig { memory, irqchip, clock: nothing.clone(), waker: nothing, dirty_ring: None };
        let vm = kvm.create_vm(&config).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        guests::enter(vm.memory(), &mut *vcpu, &guests::PROGRAMS[1]).unwrap();
        let mut guest = Self { vm, vcpu };
        let at = guest.registers().rip;
        let mut a = CodeAssembler::new(64).unwrap();
        code(&mut a).unwrap();
        guest.vm.memory().write(at, &a.assemble(at).unwrap()).unwrap();
        guest
    }

    fn x86(&mut self) -> &mut dyn X86State {
        self.vcpu.x86().unwrap()
    }

    fn registers(&mut self) -> Registers {
        self.x86().registers().unwrap()
    }

    fn system(&mut self) -> SystemRegisters {
        self.x86().system_registers().unwrap()
    }

    fn set(&mut self, change: impl FnOnce(&mut Registers)) -> Registers {
        let mut registers = self.registers();
        change(&mut registers);
        self.x86().set_registers(&registers).unwrap();
        registers
    }

    #[track_caller]
    fn out(&mut self) {
        let exit = self.run(VmEntry::Resume);
        assert!(matches!(exit, VmExit::Pio { write: true, .. }), "expected OUT, got {exit:?}");
    }

    fn run(&mut self, entry: VmEntry) -> VmExit {
        self.vcpu.run(entry).unwrap()
    }

    /// Asserts that this is what KVM has, once copies are void.
    #[track_caller]
    fn assert_kvm_has(&mut self, expected: &(Registers, SystemRegisters)) {
        self.x86().pending_events().unwrap();
        assert_eq!(calls(|| &(self.registers(), self.system()) == expected), (true, 2));
    }

    fn cancelled(&mut self) {
        self.vcpu.cancel_handle().cancel();
        let exit = self.run(VmEntry::Resume);
        assert!(matches!(exit, VmExit::Cancelled), "{exit:?}");
    }
}

/// Counts in RBX, and says so.
fn count(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(dx, PORT)?;
    a.set_label(&mut again)?;
    a.inc(rbx)?;
    a.out(dx, al)?;
    a.jmp(again)
}

#[test]
fn reading_after_each_exit_takes_a_call_at_the_first() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, count);
    // What was read before the guest ran is not asked for again.
    guest.out();
    for n in 2..100 {
        guest.out();
        let first = u32::from(n == 2);
        assert_eq!(calls(|| (guest.registers().rbx, guest.system().cs.long)), ((n, true), 2 * first));
    }
    // Each set for itself.
    guest.out();
    assert_eq!(calls(|| guest.registers().rbx), (100, 0));
    guest.out();
    assert_eq!(calls(|| (guest.registers().rbx, guest.system().cs.long)), ((101, true), 1));
}

#[test]
fn who_stops_reading_stops_the_copies() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, count);
    for _ in 0..3 {
        guest.out();
        guest.registers();
    }
    guest.out();
    guest.out();
    assert_eq!(calls(|| guest.registers().rbx), (5, 1));
}

#[test]
fn writing_takes_no_call_where_registers_are_copied() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, count);
    guest.out();
    let rip = guest.set(|r| r.rbx = 0).rip;
    let mut expected = 0_u64;
    for _ in 0..100 {
        guest.out();
        expected = expected.wrapping_add(1).wrapping_mul(3);
        let (set, made) = calls(|| guest.set(|r| (r.rbx, r.rflags) = (r.rbx.wrapping_mul(3), 0)));
        assert_eq!((set.rbx, set.rip, made), (expected, rip, 0));
        let read = guest.registers();
        assert_eq!((read.rbx, read.rflags), (expected, RFLAGS_FIXED), "as KVM will have it");
    }
}

/// After registers have been set in the page, each call that could tell finds them in KVM.
#[test]
fn what_is_set_is_there_for_each_call_that_depends_on_it() {
    let Some(kvm) = backend() else { return };
    type Call = fn(&mut dyn Vcpu);
    let calls_of_kvm: [(&str, Call); 7] = [
        ("events", |v| assert_eq!(v.x86().unwrap().pending_events().unwrap().exception, None)),
        ("set events", |v| v.x86().unwrap().set_pending_events(&PendingEvents::default()).unwrap()),
        ("activity", |v| assert_eq!(v.x86().unwrap().activity().unwrap(), Activity::Active)),
        ("set activity", |v| v.x86().unwrap().set_activity(Activity::Active).unwrap()),
        ("set MSR", |v| v.x86().unwrap().set_msr(FS_BASE, 0x1234).unwrap()),
        ("set system registers", |v| {
            let system = v.x86().unwrap().system_registers().unwrap();
            v.x86().unwrap().set_system_registers(&system).unwrap();
        }),
        ("NMI", |v| v.inject_nmi().unwrap()),
    ];
    for (name, call_of_kvm) in calls_of_kvm {
        let mut guest = Guest::new(&kvm, IrqchipKind::Split, count);
        for _ in 0..2 {
            guest.out();
            guest.registers();
        }
        assert_eq!(calls(|| guest.set(|r| r.r15 = 15)).1, 0);
        assert_eq!(calls(|| call_of_kvm(&mut *guest.vcpu)).1, 1 + u32::from(name == "set system registers"));
        assert_eq!(calls(|| guest.registers().r15), (15, 1), "{name}");
    }
}

#[test]
fn a_model_specific_register_may_be_part_of_a_system_register() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, count);
    for _ in 0..2 {
        guest.out();
        guest.system();
    }
    guest.x86().set_msr(FS_BASE, 0x7654_3210).unwrap();
    assert_eq!(guest.system().fs.base, 0x7654_3210);
}

/// A processor that waits to be started takes nothing from the page, and what starts it comes from elsewhere.
#[test]
fn a_secondary_vcpu_is_started_with_what_starts_it() {
    let Some(kvm) = backend() else { return };
    let mut first = Guest::new(&kvm, IrqchipKind::Split, |a| {
        a.mov(rbp, 0xfee0_0000_u64)?;
        a.mov(dword_ptr(rbp + 0xf0), 0x1ff)?;
        // INIT, and a start at page 7 (Intel SDM vol. 3, 12.6.1).
        for command in [0x4500, 0x4607] {
            a.mov(dword_ptr(rbp + 0x310), 1 << 24)?;
            a.mov(dword_ptr(rbp + 0x300), command)?;
        }
        count(a)
    });
    // The local APIC is mapped: 2 MiB at its place.
    for (at, entry) in [(0x3018_u64, 0x6003_u64), (0x6000 + 503 * 8, 0xfee0_0083)] {
        first.vm.memory().write(at, &entry.to_le_bytes()).unwrap();
    }
    let mut guest = Guest { vcpu: first.vm.create_vcpu(1).unwrap(), vm: first.vm.clone() };
    for _ in 0..2 {
        guest.registers();
        guest.system();
        guest.cancelled();
    }
    assert_eq!(calls(|| guest.registers().rip), (0xfff0, 0), "an interrupted run leaves copies");
    assert_eq!(calls(|| guest.set(|r| r.rbx = 5)).1, 1);
    guest.cancelled();
    for copied in [false, true] {
        let (read, made) = calls(|| (guest.registers().rbx, guest.system().cs.selector));
        assert_eq!((read, made == 0), ((5, 0xf000), copied));
        guest.cancelled();
    }
    first.out();
    // Asking for the activity makes KVM look at such messages.
    guest.x86().activity().unwrap();
    assert_eq!(calls(|| (guest.registers(), guest.system())).1, 2);
    guest.vm.memory().write(0x7000, &[0xe6, 0x80]).unwrap();
    std::thread::scope(|scope| {
        let (cancel, (done, wait)) = (guest.vcpu.cancel_handle(), std::sync::mpsc::channel::<()>());
        scope.spawn(move || {
            use std::sync::mpsc::RecvTimeoutError::Timeout;
            if wait.recv_timeout(std::time::Duration::from_secs(10)) == Err(Timeout) {
                cancel.cancel();
            }
        });
        guest.out();
        drop(done);
    });
    let started = (guest.registers(), guest.system());
    assert_eq!((started.0.rbx, started.1.cs.selector), (0, 0x700));
    guest.assert_kvm_has(&started);
}

#[test]
fn copies_hold_only_what_a_run_has_left() {
    let mut page = RunPage::blank();
    let mut copies = Copies::default();
    assert!(copies.unused() && !copies.reads(GENERAL));
    copies.enter(&mut page, 3);
    assert!(copies.taken && copies.reads(GENERAL) && !copies.reads(SYSTEM));
    copies.enter(&mut page, 3);
    copies.no_exit(true);
    assert!(!copies.taken && copies.reads(GENERAL) && copies.reads(SYSTEM));
    copies.enter(&mut page, 3);
    copies.no_exit(false);
    assert!(!copies.taken && !copies.reads(GENERAL) && !copies.reads(SYSTEM));
    copies.enter(&mut page, 0);
    assert!(copies.unused() && !copies.taken && !copies.reads(GENERAL), "a KVM that offers none");
}

/// Ports, strings, memory-mapped accesses, a halt, all again and again.
fn everything(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.mov(dx, PORT)?;
    a.in_(eax, dx)?;
    a.add(rbx, rax)?;
    a.mov(rdi, 0x5000_u64)?;
    a.mov(ecx, 3)?;
    a.rep().insw()?;
    a.mov(rsi, 0x5000_u64)?;
    a.mov(ecx, 2)?;
    a.rep().outsb()?;
    // Behind RAM, which the tables map.
    a.mov(rsi, 0x10_0000_u64)?;
    a.mov(r8, qword_ptr(rsi))?;
    a.mov(qword_ptr(rsi), rbx)?;
    // Across a page.
    a.mov(r9, qword_ptr(rsi + 0xffc))?;
    a.hlt()?;
    a.jmp(again)
}

/// The same guest with copies and without, and an embedder that does anything at any time.
#[test]
fn registers_are_the_same_with_copies_and_without() {
    let Some(with) = backend() else { return };
    let mut without = backend().unwrap();
    Arc::get_mut(&mut without.host).unwrap().sync_regs = 0;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (random >> 33) % below
    };
    let [mut copied, mut called] =
        [&with, &without].map(|kvm| Guest::new(kvm, IrqchipKind::None, everything));
    let mut last = VmExit::Completed;
    let (mut exits, mut free_reads) = (0, 0);
    for step in 0..20_000 {
        let (kind, value) = (next(16), next(1 << 20));
        let mut both = |f: &mut dyn FnMut(&mut Guest) -> String| {
            let (a, made) = calls(|| f(&mut copied));
            let b = f(&mut called);
            assert_eq!(a, b, "step {step}: {kind} after {last:?}");
            made
        };
        match kind {
            0..6 => {
                let answer = match &last {
                    VmExit::Pio { write: false, data, .. } | VmExit::Mmio { write: false, data, .. } => {
                        let bytes = value.to_le_bytes();
                        Some(ExitData::from_slice(&bytes[..data.len()]))
                    }
                    _ => None,
                };
                let complete = kind == 0;
                let mut exit = VmExit::Completed;
                both(&mut |guest| {
                    exit = guest.run(match &answer {
                        answer if complete => VmEntry::Complete(answer.clone()),
                        Some(data) => VmEntry::Read(data.clone()),
                        None => VmEntry::Resume,
                    });
                    format!("{exit:?}")
                });
                last = exit;
                exits += 1;
            }
            6 => {
                // The elements of a string come first.
                both(&mut |guest| {
                    guest.vcpu.cancel_handle().cancel();
                    while !matches!(guest.run(VmEntry::Resume), VmExit::Cancelled) {}
                    String::new()
                });
                last = VmExit::Cancelled;
            }
            7..10 => {
                let made = both(&mut |guest| format!("{:?}", guest.registers()));
                free_reads += u32::from(made == 0);
            }
            10 => drop(both(&mut |guest| format!("{:?}", guest.system()))),
            11 | 12 => {
                both(&mut |guest| format!("{:?}", guest.set(|r| (r.rbx, r.r12) = (value, r.r12 + 1))));
            }
            // A halt ends only by an interrupt, or when the state is set.
            13 => drop(both(&mut |guest| {
                guest.x86().set_activity(Activity::Active).unwrap();
                format!("{:?}", guest.x86().activity())
            })),
            14 => drop(both(&mut |guest| {
                let mut system = guest.system();
                system.cr2 = value;
                guest.x86().set_system_registers(&system).unwrap();
                guest.x86().set_msr(FS_BASE, value).unwrap();
                format!("{:?}", guest.x86().pending_events())
            })),
            _ => drop(both(&mut |guest| format!("{:?} {:?}", guest.system(), guest.registers()))),
        }
    }
    assert!(exits > 5000 && free_reads > 1000, "{exits} exits, {free_reads} reads without a call");
}
