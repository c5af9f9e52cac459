//! Cancellation, from guests that never exit and from guests that wait.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use squib_core::arm64::gic::GicVersion;
use squib_core::{HypervisorBackend, IrqchipKind, VmExit};

use crate::asm::*;
use crate::harness::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs until cancelled by another thread, a little later.
fn cancelled_later(guest: &mut Guest) {
    let cancel = guest.vcpu.cancel_handle();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            cancel.cancel();
        });
        let exit = guest.resume();
        assert!(matches!(exit, VmExit::Cancelled), "{exit:?}");
    });
    assert!((Duration::from_millis(50)..PATIENCE).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn a_loop_without_end_is_left_from_another_thread() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[increment(2), branch(-1)]);
    let mut last = 0;
    for _ in 0..3 {
        cancelled_later(&mut guest);
        let now = guest.registers().x[2];
        assert!(now > last, "it goes on where it stopped");
        last = now;
    }
}

/// `WFI` is KVM's: the vCPU's thread sleeps in the kernel. Without a GICv3 KVM may leave the wait to the processor, and counts it as
/// the thread's: with a GICv2 by mistake ("KVM: arm64: gic: Check for vGICv3 when clearing TWI", January 2026).
#[test]
fn a_guest_that_waits_is_left_from_another_thread() {
    let Some(kvm) = backend() else { return };
    for irqchip in [IrqchipKind::None, IrqchipKind::Full] {
        let mut guest = Guest::new(&kvm, irqchip, &[WFI, branch(-1)]);
        let before = thread_time();
        cancelled_later(&mut guest);
        let spent = thread_time() - before;
        let sleeps = irqchip == IrqchipKind::Full && kvm.capabilities().gic == Some(GicVersion::V3);
        assert!(!sleeps || spent < Duration::from_millis(40), "{spent:?}: it spins");
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap())
}

#[test]
fn a_request_from_before_counts_once() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[store(2, 1), store(2, 1)]);
    let cancel = guest.vcpu.cancel_handle();
    cancel.cancel();
    cancel.cancel();
    assert!(matches!(guest.resume(), VmExit::Cancelled));
    assert_write(&guest.resume(), &[0; 4]);
}

#[test]
fn no_request_of_a_storm_is_lost() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::new(&kvm, IrqchipKind::None, &[store(2, 1), branch(-1)]);
    let (taken, cancel) = (AtomicU32::new(0), guest.vcpu.cancel_handle());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=200 {
                cancel.cancel();
                let start = Instant::now();
                while taken.load(Ordering::SeqCst) < n {
                    assert!(start.elapsed() < PATIENCE, "request {n} was lost");
                    std::thread::yield_now();
                }
            }
        });
        while taken.load(Ordering::SeqCst) < 200 {
            match guest.resume() {
                VmExit::Cancelled => drop(taken.fetch_add(1, Ordering::SeqCst)),
                exit => assert_write(&exit, &[0; 4]),
            }
        }
    });
}
