//! Cancellation from other threads, and signals that are none.
#![allow(unsafe_code, reason = "signals are sent and handled by calls of the C library")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use iced_x86::code_asm::*;
use squib_core::{ExitData, GuestMemory, IrqchipKind, VmEntry, VmExit};

use crate::harness::*;

/// Counts at [`DATA`] for ever.
fn spin(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rbx, DATA)?;
    a.set_label(&mut again)?;
    a.inc(qword_ptr(rbx))?;
    a.jmp(again)
}

fn count(memory: &GuestMemory) -> u64 {
    u64::from_le_bytes(memory.read_array(DATA).unwrap())
}

/// Cancels the guest's run once it has counted on.
fn cancel_once_it_spins(guest: &Guest) -> JoinHandle<()> {
    let (cancel, memory) = (guest.vcpu.cancel_handle(), guest.vm.memory().clone());
    let before = count(&memory);
    std::thread::spawn(move || {
        let start = Instant::now();
        while count(&memory) == before {
            assert!(start.elapsed() < Duration::from_secs(10), "the guest does not run");
            std::thread::yield_now();
        }
        cancel.cancel();
    })
}

#[track_caller]
fn assert_cancelled(exit: &VmExit) {
    assert!(matches!(exit, VmExit::Cancelled), "expected Cancelled, got {exit:?}");
}

#[test]
fn an_endless_loop_is_cancelled_and_goes_on() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, spin);
    for _ in 0..3 {
        let canceller = cancel_once_it_spins(&guest);
        assert_cancelled(&guest.resume());
        canceller.join().unwrap();
    }
    assert_eq!(guest.wakes.0.load(Ordering::SeqCst), 3);
}

#[test]
fn signals_of_others_are_no_exits() {
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handle(_: libc::c_int) {
        HANDLED.fetch_add(1, Ordering::SeqCst);
    }
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, spin);
    // SAFETY: the handler only adds to an atomic; no other test has one for this signal.
    unsafe { libc::signal(libc::SIGUSR2, handle as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    // SAFETY: takes no memory of ours.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    let (cancel, memory) = (guest.vcpu.cancel_handle(), guest.vm.memory().clone());
    let signaller = std::thread::spawn(move || {
        for n in 1..=200 {
            let before = count(&memory);
            // SAFETY: the thread runs the guest until this one cancels it.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR2) };
            let start = Instant::now();
            while count(&memory) == before || HANDLED.load(Ordering::SeqCst) < n {
                assert!(start.elapsed() < Duration::from_secs(10), "the guest does not go on");
                std::thread::yield_now();
            }
        }
        cancel.cancel();
    });
    assert_cancelled(&guest.resume());
    signaller.join().unwrap();
    assert_eq!((HANDLED.load(Ordering::SeqCst), guest.wakes.0.load(Ordering::SeqCst)), (200, 1));
}

#[test]
fn an_endless_loop_in_ring_3_is_cancelled() {
    let Some(kvm) = backend() else { return };
    let mut guest = Guest::long(&kvm, spin);
    guest.enter_ring3();
    let canceller = cancel_once_it_spins(&guest);
    assert_cancelled(&guest.resume());
    canceller.join().unwrap();
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
        guest = std::thread::spawn(move || {
            let canceller = cancel_once_it_spins(&guest);
            assert_cancelled(&guest.resume());
            canceller.join().unwrap();
            guest
        })
        .join()
        .unwrap();
    }
}

#[test]
fn a_handle_outlives_its_vcpu() {
    let Some(kvm) = backend() else { return };
    let guest = Guest::real(&kvm, CodeAssembler::hlt);
    let cancel = guest.vcpu.cancel_handle();
    drop(guest);
    cancel.cancel();
}
