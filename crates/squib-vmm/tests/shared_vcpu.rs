//! A vCPU known to several threads: double runs, use while running, closing from anywhere.

mod support;

use std::sync::{Arc, OnceLock, Weak};

use squib_core::{ErrorCode, Result, VmEntry, VmExit};
use squib_vmm::{Action, Bus, Device, SharedVcpu, Stop, Target, Unclaimed, VcpuLoop};
use support::*;

/// A device that uses the vCPU whose access it is handling.
struct Meddler {
    vcpu: OnceLock<Weak<SharedVcpu>>,
    what: fn(&SharedVcpu) -> Result<()>,
}

impl Device for Meddler {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        let vcpu = self.vcpu.get().unwrap().upgrade().unwrap();
        (self.what)(&vcpu).map(|()| 0)
    }

    fn write(&self, _: u64, _: u8, _: u64) -> Result<Action> {
        Ok(Action::Continue)
    }
}

fn meddled(what: fn(&SharedVcpu) -> Result<()>) -> Arc<SharedVcpu> {
    let (ports, memory) = (Bus::ports(), Bus::memory());
    let device = Arc::new(Meddler { vcpu: OnceLock::new(), what });
    ports.map("meddler", 0, 1, Target::Device(device.clone())).unwrap();
    let mut script = script();
    script.script = [Ok(port_in(0, 1)), Ok(VmExit::Shutdown)].into();
    let inner = VcpuLoop::new(Box::new(script), &ports, &memory, Unclaimed::Return);
    let vcpu = Arc::new(SharedVcpu::new(inner));
    device.vcpu.set(Arc::downgrade(&vcpu)).unwrap();
    vcpu
}

fn run(vcpu: &SharedVcpu) -> Result<Stop> {
    vcpu.run(VmEntry::Resume, &mut RecordingHost::new())
}

#[test]
fn a_second_run_within_the_first_is_refused() {
    let vcpu = meddled(|v| run(v).map(drop));
    assert_eq!(run(&vcpu).unwrap_err().code(), ErrorCode::VcpuBusy);
    assert!(matches!(run(&vcpu), Ok(Stop::Exit(VmExit::Shutdown))), "the first is none the worse");
}

#[test]
fn registers_are_out_of_reach_while_it_runs() {
    let vcpu = meddled(|v| v.with(|_| Ok(())));
    assert_eq!(run(&vcpu).unwrap_err().code(), ErrorCode::VcpuBusy);
    assert_eq!(vcpu.with(|v| Ok(v.id())).unwrap(), 0);
}

#[test]
fn closed_before_it_runs_no_more() {
    let vcpu = meddled(|_| Ok(()));
    vcpu.close();
    vcpu.close();
    assert_eq!(run(&vcpu).unwrap_err().code(), ErrorCode::Closed);
    assert_eq!(vcpu.with(|_| Ok(())).unwrap_err().code(), ErrorCode::Closed);
}

#[test]
fn closed_by_its_own_device_it_ends_soon() {
    let vcpu = meddled(|v| {
        v.close();
        // Not busy: that would say that it can be run later.
        assert_eq!(v.with(|_| Ok(())).unwrap_err().code(), ErrorCode::Closed);
        Ok(())
    });
    assert_eq!(run(&vcpu).unwrap_err().code(), ErrorCode::Closed);
    assert_eq!(run(&vcpu).unwrap_err().code(), ErrorCode::Closed);
}

#[test]
fn cancelled_by_its_own_device_it_returns_and_goes_on() {
    let vcpu = meddled(|v| {
        v.cancel();
        Ok(())
    });
    assert!(matches!(run(&vcpu), Ok(Stop::Exit(VmExit::Cancelled))));
    assert!(matches!(run(&vcpu), Ok(Stop::Exit(VmExit::Shutdown))));
    assert_eq!(vcpu.instructions(), Some(2));
}

#[test]
fn two_threads_cannot_run_it_at_once() {
    use std::sync::Barrier;
    static MET: Barrier = Barrier::new(2);
    let vcpu = meddled(|_| {
        MET.wait();
        MET.wait();
        Ok(())
    });
    let first = vcpu.clone();
    let thread = std::thread::spawn(move || run(&first).is_ok());
    MET.wait();
    assert_eq!(run(&vcpu).unwrap_err().code(), ErrorCode::VcpuBusy);
    MET.wait();
    assert!(thread.join().unwrap());
}
