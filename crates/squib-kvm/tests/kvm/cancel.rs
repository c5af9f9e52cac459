//! Cancellation from other threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iced_x86::code_asm::*;
use squib_core::{ExitData, IrqchipKind, VmEntry, VmExit};

use crate::harness::*;

fn spin(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.inc(rax)?;
    a.jmp(again)
}

#[track_caller]
fn assert_cancelled(exit: &VmExit) {
    assert!(matches!(exit, VmExit::Cancelled), "expected Cancelled, got {exit:?}");
}

#[test]
fn an_endless_loop_is_cancelled_and_goes_on() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, spin);
    let mut last = 0;
    for _ in 0..3 {
        let cancel = guest.vcpu.cancel_handle();
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            cancel.cancel();
        });
        assert_cancelled(&guest.resume());
        canceller.join().unwrap();
        let count = guest.registers().rax;
        assert!(count > last, "the loop went on: {count} after {last}");
        last = count;
    }
    assert_eq!(guest.wakes.0.load(Ordering::SeqCst), 3);
}

#[test]
fn an_endless_loop_in_ring_3_is_cancelled() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, spin);
    guest.enter_ring3();
    let cancel = guest.vcpu.cancel_handle();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(10));
        cancel.cancel();
    });
    assert_cancelled(&guest.resume());
    canceller.join().unwrap();
    assert!(guest.registers().rax > 0);
}

#[test]
fn a_cancel_before_run_counts_once() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::real(&kvm, CodeAssembler::hlt);
    let cancel = guest.vcpu.cancel_handle();
    cancel.cancel();
    cancel.clone().cancel();
    assert_cancelled(&guest.resume());
    assert_eq!(guest.registers().rip, 0, "no instruction ran");
    assert_hlt(&guest.resume());
    cancel.cancel();
    assert_cancelled(&guest.resume());
    assert_hlt(&guest.resume());
    assert_eq!(guest.wakes.0.load(Ordering::SeqCst), 2);
}

#[test]
fn a_cancel_keeps_the_answer_to_a_read() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::real(&kvm, |a| {
        a.mov(dx, PORT)?;
        a.in_(al, dx)?;
        a.inc(bx)?;
        a.hlt()
    });
    assert_in(&guest.resume(), 1);
    guest.vcpu.cancel_handle().cancel();
    assert_cancelled(&guest.run(answer(&[0x42])));
    let r = guest.registers();
    assert_eq!((r.rax as u8, r.rbx, r.rip), (0x42, 0, 4), "IN is done and nothing more");
    assert_hlt(&guest.resume());
}

#[test]
fn completing_leaves_the_cancel_for_the_next_run() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::real(&kvm, |a| {
        a.mov(dx, PORT)?;
        a.in_(al, dx)?;
        a.hlt()
    });
    assert_in(&guest.resume(), 1);
    guest.vcpu.cancel_handle().cancel();
    let exit = guest.run(VmEntry::Complete(Some(ExitData::from_slice(&[1]))));
    assert!(matches!(exit, VmExit::Completed), "{exit:?}");
    assert_cancelled(&guest.resume());
    assert_hlt(&guest.resume());
}

#[test]
fn a_vcpu_that_waits_in_the_kernel_is_cancelled() {
    let Some(kvm) = backend() else { return };
    for irqchip in [IrqchipKind::Split, IrqchipKind::Full] {
        let mut guest = Guest::long_with(&kvm, irqchip, |a| {
            a.sti()?;
            a.hlt()
        });
        let cancel = guest.vcpu.cancel_handle();
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            cancel.cancel();
        });
        assert_cancelled(&guest.resume());
        canceller.join().unwrap();
    }
}

#[test]
fn a_vcpu_moves_between_threads() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, spin);
    for _ in 0..4 {
        let cancel = guest.vcpu.cancel_handle();
        guest = std::thread::spawn(move || {
            let canceller = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(2));
                cancel.cancel();
            });
            assert_cancelled(&guest.resume());
            canceller.join().unwrap();
            guest
        })
        .join()
        .unwrap();
    }
}

/// A guest that makes exits all the time, cancelled from three threads all the time: each request that a
/// canceller made after the last was reported is reported.
#[test]
fn no_cancel_is_lost_among_exits() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::real(&kvm, |a| {
        let mut again = a.create_label();
        a.mov(dx, PORT)?;
        a.set_label(&mut again)?;
        a.in_(al, dx)?;
        a.jmp(again)
    });
    let (reported, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let handles = [(); 3].map(|()| guest.vcpu.cancel_handle());
    std::thread::scope(|scope| {
        let (reported, stop) = (&reported, &stop);
        for cancel in handles {
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let before = reported.load(Ordering::SeqCst);
                    cancel.cancel();
                    let patience = Instant::now();
                    while reported.load(Ordering::SeqCst) == before && !stop.load(Ordering::SeqCst) {
                        assert!(patience.elapsed() < Duration::from_secs(10), "a cancel was lost");
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut entry = VmEntry::Resume;
        while reported.load(Ordering::SeqCst) < 500 {
            entry = match guest.vcpu.run(entry).unwrap() {
                VmExit::Pio { write: false, .. } => answer(&[0]),
                VmExit::Cancelled => {
                    reported.fetch_add(1, Ordering::SeqCst);
                    VmEntry::Resume
                }
                other => panic!("unexpected {other:?}"),
            };
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_handle_outlives_its_vcpu() {
    let Some(kvm) = backend() else { return };
    let guest = Guest::real(&kvm, CodeAssembler::hlt);
    let cancel = guest.vcpu.cancel_handle();
    drop(guest);
    cancel.cancel();
}
