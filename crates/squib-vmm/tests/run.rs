//! The run loop against a scripted vCPU: every exit's way, every way to end.

mod support;

use squib_core::{
    DebugInfo, Error, ErrorCode, ExitData, ExitKind, MsrReason, SystemEventKind, VmEntry, VmExit,
};
use squib_vmm::{Action, Idle, Stop, Target, Unclaimed};
use support::*;

const ONES: [u8; 8] = [0xff; 8];

#[test]
fn accesses_reach_their_device_with_offset_width_and_value() {
    let device = Recorder::new(|| Ok(0x1122_3344_5566_7788), || Ok(Action::Continue));
    let exits = [
        port_in(0x100, 1),
        port_in(0x102, 2),
        port_out(0x100, &[1, 2, 3, 4]),
        load(0x1008, 8),
        load(0x100d, 3),
        store(0x100f, &[0xfe]),
    ];
    let mut bench = Bench::new(Unclaimed::Return, exits);
    bench.map(&device);
    assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Unknown { .. }))));
    let seen = device.seen.lock().unwrap().clone();
    assert_eq!(
        seen,
        [
            (0, 1, None),
            (2, 2, None),
            (0, 4, Some(0x0403_0201)),
            (8, 8, None),
            (13, 3, None),
            (15, 1, Some(0xfe))
        ]
    );
    let answers = [
        VmEntry::Resume,
        read(&[0x88]),
        read(&[0x88, 0x77]),
        VmEntry::Resume,
        read(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]),
        read(&[0x88, 0x77, 0x66]),
        VmEntry::Resume,
    ];
    assert_eq!(bench.entries(), answers);
    assert_eq!(bench.vcpu.counts().get(ExitKind::Pio), 3);
    assert_eq!(bench.vcpu.counts().get(ExitKind::Mmio), 3);
    let mappings = bench.memory.mappings();
    assert_eq!((mappings[0].reads(), mappings[0].writes()), (2, 1));
}

#[test]
fn external_devices_are_the_hosts() {
    let mut bench = Bench::new(Unclaimed::Return, [load(0x2004, 4), store(0x2000, &[9; 8])]);
    bench.memory.map("external", 0x2000, 8, Target::External(5)).unwrap();
    assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Unknown { .. }))));
    assert_eq!(bench.host.seen, [(5, (4, 4, None)), (5, (0, 8, Some(0x0909_0909_0909_0909)))]);
    assert_eq!(bench.entries()[1], read(&[5; 4]));
}

#[test]
fn accesses_not_wholly_inside_a_device_are_nobodys() {
    let device = Recorder::new(|| Ok(0), || Ok(Action::Continue));
    for exit in [load(0x0fff, 2), load(0x1009, 8), store(0x100f, &[0; 2]), load(0x1010, 1), port_in(0x103, 2)]
    {
        let mut bench = Bench::new(Unclaimed::Return, [exit]);
        bench.map(&device);
        assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Mmio { .. } | VmExit::Pio { .. }))));
        assert_eq!(bench.entries(), [VmEntry::Resume], "nothing is completed: the answer is the caller's");
    }
    assert!(device.seen.lock().unwrap().is_empty());
}

#[test]
fn the_caller_answers_what_was_returned() {
    let mut bench = Bench::new(Unclaimed::Return, [port_in(0x80, 2)]);
    assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Pio { port: 0x80, .. }))));
    bench.vcpu.run(read(&[1, 2]), &mut bench.host).unwrap();
    assert_eq!(bench.entries(), [VmEntry::Resume, read(&[1, 2])]);
}

#[test]
fn on_the_platform_nothing_reads_as_ones_and_takes_writes() {
    let msr = |value| match value {
        None => VmExit::MsrRead { index: 1, reason: MsrReason::Unknown },
        Some(value) => VmExit::MsrWrite { index: 1, value, reason: MsrReason::Unknown },
    };
    let exits = [
        port_in(0xcf8, 4),
        port_out(0x80, &[1]),
        load(0xd000_0000, 8),
        store(0xd000_0000, &[0; 3]),
        VmExit::Hypercall { func: 99, args: [0; 6] },
        msr(None),
        msr(Some(1)),
    ];
    let mut bench = Bench::new(Unclaimed::Platform, exits);
    bench.memory.map("RAM", 0xd000_0000, 4096, Target::Reserved).unwrap();
    assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Unknown { .. }))));
    let answers = [
        VmEntry::Resume,
        read(&ONES[..4]),
        VmEntry::Resume,
        read(&ONES),
        VmEntry::Resume,
        VmEntry::Resume,
        VmEntry::MsrFault,
        VmEntry::MsrFault,
    ];
    assert_eq!(bench.entries(), answers);
}

#[test]
fn a_device_can_end_the_run_and_its_access_is_finished() {
    type Case = (fn() -> squib_core::Result<Action>, fn(&Stop) -> bool);
    let cases: [Case; 3] = [
        (|| Ok(Action::PowerOff), |s| matches!(s, Stop::PowerOff)),
        (|| Ok(Action::Reset), |s| matches!(s, Stop::Reset)),
        (|| Ok(Action::DebugExit(42)), |s| matches!(s, Stop::DebugExit(42))),
    ];
    for (action, check) in cases {
        let mut bench = Bench::new(Unclaimed::Platform, [port_out(0x100, &[42])]);
        bench.map(&Recorder::new(|| Ok(0), action));
        let stop = bench.run().unwrap();
        assert!(check(&stop), "{stop:?}");
        assert_eq!(bench.entries(), [VmEntry::Resume, VmEntry::Complete(None)]);
    }
}

#[test]
fn a_failed_access_ends_the_run_completed_and_the_vcpu_goes_on() {
    for (exit, answer) in [
        (load(0x1000, 4), Some(ExitData::from_slice(&ONES[..4]))),
        (store(0x1000, &[1]), None),
        (load(0x3000, 8), Some(ExitData::from_slice(&ONES))),
        (store(0x3000, &[1]), None),
    ] {
        fn fail<T>() -> squib_core::Result<T> {
            Err(Error::new(ErrorCode::DeviceFailed, "broken"))
        }
        let device = Recorder::new(fail, fail);
        let mut bench = Bench::new(Unclaimed::Platform, [exit, VmExit::Shutdown]);
        bench.map(&device);
        bench.memory.map("external", 0x3000, 8, Target::External(0)).unwrap();
        assert_eq!(bench.run().unwrap_err().code(), ErrorCode::DeviceFailed);
        assert_eq!(bench.entries(), [VmEntry::Resume, VmEntry::Complete(answer)]);
        assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Shutdown))));
    }
}

#[test]
fn the_second_half_of_a_split_access_is_completed_too() {
    use std::collections::VecDeque;
    struct Split(Script, VecDeque<VmExit>);
    impl squib_core::Vcpu for Split {
        fn id(&self) -> u32 {
            0
        }
        fn run(&mut self, entry: VmEntry) -> squib_core::Result<VmExit> {
            self.0.entries.lock().unwrap().push(entry);
            Ok(self.1.pop_front().unwrap_or(VmExit::Completed))
        }
        fn cancel_handle(&self) -> squib_core::CancelHandle {
            self.0.cancel_handle()
        }
    }
    let script = script();
    let entries = script.entries.clone();
    let (ports, memory) = (squib_vmm::Bus::ports(), squib_vmm::Bus::memory());
    memory.map("external", 0, 0x2000, Target::External(0)).unwrap();
    let split = Split(script, [load(0xffe, 2), load(0x1000, 6)].into());
    let mut vcpu = squib_vmm::VcpuLoop::new(Box::new(split), &ports, &memory, Unclaimed::Return);
    assert!(vcpu.run(VmEntry::Resume, &mut RecordingHost::new()).is_err());
    let ones = |n| VmEntry::Complete(Some(ExitData::from_elem(0xff, n)));
    assert_eq!(*entries.lock().unwrap(), [VmEntry::Resume, ones(2), ones(6)]);
}

#[test]
fn impossible_widths_are_typed_errors() {
    for width in [0, 9, 65] {
        let mut bench = Bench::new(Unclaimed::Platform, [load(0x1000, width)]);
        assert_eq!(bench.run().unwrap_err().code(), ErrorCode::AccessWidth);
    }
}

#[test]
fn a_halted_guest_waits_with_its_timers_deadline() {
    for exit in [VmExit::Hlt, VmExit::Wfi, VmExit::Wfe] {
        let mut bench = Bench::with(Unclaimed::Platform, |s| {
            s.script = [Ok(exit.clone()), Ok(VmExit::Shutdown)].into();
            s.deadline = Some(77);
        });
        assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Shutdown))));
        assert_eq!(bench.host.idles, [Some(77)]);

        let mut bench = Bench::new(Unclaimed::Platform, [exit.clone()]);
        bench.host.idle = Idle::Return;
        assert!(matches!(bench.run(), Ok(Stop::Halted { deadline_ns: None })));
        assert_eq!(bench.entries(), [VmEntry::Resume], "a halted guest has nothing to complete");

        let mut bench = Bench::with(Unclaimed::Platform, |s| {
            s.script = [Ok(exit.clone())].into();
            s.runnable = true;
        });
        bench.run().unwrap();
        assert!(bench.host.idles.is_empty(), "it has an interrupt already");

        let mut bench = Bench::new(Unclaimed::Return, [exit]);
        assert!(matches!(bench.run(), Ok(Stop::Exit(VmExit::Hlt | VmExit::Wfi | VmExit::Wfe))));
    }
}

#[test]
fn everything_else_goes_to_the_caller() {
    let exits = [
        VmExit::Cancelled,
        VmExit::BudgetSpent,
        VmExit::TripleFault,
        VmExit::Reset,
        VmExit::Shutdown,
        VmExit::Debug(DebugInfo::new(0, 0)),
        VmExit::InternalError("emulation".into()),
        VmExit::FailedEntry { reason: 1, cpu: 0 },
        VmExit::InterruptWindow,
        VmExit::MemoryFault { addr: 0x1000, size: 0x1000, flags: 8 },
        VmExit::DirtyRingFull,
        VmExit::Unsupported { what: "an instruction".into(), rip: 0x1000 },
        VmExit::Unknown { reason: 99 },
        VmExit::SystemEvent { kind: SystemEventKind::Reset, data: Default::default() },
    ];
    for mode in [Unclaimed::Platform, Unclaimed::Return] {
        for exit in exits.clone() {
            let mut bench = Bench::new(mode, [exit.clone()]);
            let Ok(Stop::Exit(stop)) = bench.run() else { panic!("{exit:?}") };
            assert_eq!(stop.kind(), exit.kind());
            assert_eq!(bench.vcpu.counts().get(exit.kind()), 1);
        }
    }
}

#[test]
fn a_backends_error_is_returned_unchanged() {
    let mut bench = Bench::with(Unclaimed::Platform, |s| {
        s.script = [Err(Error::new(ErrorCode::Hypervisor, "EIO"))].into();
    });
    assert_eq!(bench.run().unwrap_err().code(), ErrorCode::Hypervisor);
}
