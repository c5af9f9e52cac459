//! Debian's kernels on the board, with KVM: from the loader to a program in user space that uses timers on each
//! processor and the console both ways, and switches the machine off.
//!
//! Needs a KVM that runs guests at speed, and kernels (see `kernels`); on aarch64 also `SQUIB_TEST_BUSYBOX`, the path of a
//! static busybox. `SQUIB_TEST_BOOTS` is how often each
//! configuration boots: once, if it is not set.

#[path = "boot/kernels.rs"]
mod kernels;

use std::sync::Arc;
use std::time::{Duration, Instant};

use squib_core::{HypervisorBackend, IrqchipKind};
use squib_guests::{LINUX_BANNER, LINUX_READY};
use squib_kvm::KvmBackend;
use squib_vmm::boot::BootSource;
use squib_vmm::host::{StdClock, ThreadHost, ThreadWaker};
use squib_vmm::{Machine, MachineConfig, Outcome, linux};

/// A boot that takes longer will not end; on an emulated machine that others keep busy one takes a minute.
const LIMIT: Duration = Duration::from_secs(300);

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn kvm() -> Option<KvmBackend> {
    let report = squib_kvm::probe();
    if !report.runs_guests_at_speed {
        eprintln!("SKIPPED: Linux on KVM, because {}", report.reason);
        return None;
    }
    KvmBackend::open().ok()
}

/// The user space; a word about it where there is none.
#[cfg(target_arch = "x86_64")]
fn initrd() -> Option<Vec<u8>> {
    Some(squib_guests::linux_initrd())
}

#[cfg(not(target_arch = "x86_64"))]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn initrd() -> Option<Vec<u8>> {
    let Some(path) = std::env::var_os("SQUIB_TEST_BUSYBOX") else {
        eprintln!("SKIPPED: Linux on KVM, because SQUIB_TEST_BUSYBOX names no static busybox");
        return None;
    };
    Some(squib_guests::linux_busybox_initrd(
        &std::fs::read(path).expect("a busybox that is there can be read"),
    ))
}

/// Boots, answers, and returns what the console showed.
fn boot(kvm: &KvmBackend, kernel: &[u8], initrd: &[u8], irqchip: IrqchipKind, vcpus: u32) -> String {
    let (clock, waker) = (StdClock::new(), ThreadWaker::new());
    let command_line = format!("{} quiet", linux::command_line(kvm.capabilities().architecture));
    let config = MachineConfig {
        memory_size: 256 << 20,
        vcpus,
        irqchip,
        boot: BootSource { initrd: Some(initrd), command_line: &command_line, ..BootSource::new(kernel) },
        clock: clock.clone(),
        waker: waker.clone(),
        console: Box::new(()),
    };
    let machine = Arc::new(Machine::new(kvm, config).unwrap());
    let start = Instant::now();
    let mut output = String::new();
    std::thread::scope(|scope| {
        for id in 0..vcpus {
            let mut host = ThreadHost::new(clock.clone(), waker.clone());
            let machine = machine.clone();
            scope.spawn(move || {
                while machine.outcome().is_none() {
                    // The run that finds the machine ended is an error, and no news.
                    let _ = machine.run(id, &mut host);
                }
            });
        }
        let mut answered = false;
        while machine.outcome().is_none() {
            if start.elapsed() > LIMIT {
                machine.end(Outcome::TimedOut);
            }
            std::thread::sleep(Duration::from_millis(10));
            output += &String::from_utf8_lossy(&machine.console().take_output());
            if !answered && output.contains(LINUX_READY) {
                answered = true;
                machine.console().send(b"Hello, Linux\n").unwrap();
            }
        }
    });
    output += &String::from_utf8_lossy(&machine.console().take_output());
    assert_eq!(machine.outcome(), Some(Outcome::PowerOff), "{irqchip:?}, {vcpus} vCPUs:\n{output}");
    output
}

#[expect(clippy::print_stderr, reason = "the times are worth knowing")]
fn boots(prefix: &str, irqchip: IrqchipKind, vcpus: u32) {
    let Some(kvm) = kvm() else { return };
    let Some((path, kernel)) = kernels::find(prefix) else { return };
    let Some(initrd) = initrd() else { return };
    let times = std::env::var("SQUIB_TEST_BOOTS").map_or(1, |n| n.parse().expect("a number of boots"));
    for n in 1..=times {
        let start = Instant::now();
        let output = boot(&kvm, &kernel, &initrd, irqchip, vcpus);
        eprintln!(
            "{}: {irqchip:?} irqchip, {vcpus} vCPUs, boot {n} of {times} in {:.1?}",
            path.display(),
            start.elapsed()
        );
        assert!(output.contains(LINUX_BANNER), "{output}");
        for cpu in 0..vcpus {
            assert!(output.contains(&format!("cpu {cpu}")), "{output}");
        }
        assert!(!output.contains(&format!("cpu {vcpus}")), "{output}");
        // Once by the terminal's echo, once by the program.
        assert_eq!(output.matches("Hello, Linux").count(), 2, "{output}");
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::*;

    #[test]
    fn debian_6_1_with_one_vcpu_and_a_full_irqchip() {
        boots("vmlinuz-6.1.", IrqchipKind::Full, 1);
    }

    #[test]
    fn debian_6_1_with_two_vcpus_and_a_full_irqchip() {
        boots("vmlinuz-6.1.", IrqchipKind::Full, 2);
    }

    #[test]
    fn debian_6_1_with_one_vcpu_and_a_split_irqchip() {
        boots("vmlinuz-6.1.", IrqchipKind::Split, 1);
    }

    #[test]
    fn debian_6_1_with_two_vcpus_and_a_split_irqchip() {
        boots("vmlinuz-6.1.", IrqchipKind::Split, 2);
    }

    #[test]
    fn debian_6_12_with_one_vcpu_and_a_full_irqchip() {
        boots("vmlinuz-6.12.", IrqchipKind::Full, 1);
    }

    #[test]
    fn debian_6_12_with_two_vcpus_and_a_full_irqchip() {
        boots("vmlinuz-6.12.", IrqchipKind::Full, 2);
    }

    #[test]
    fn debian_6_12_with_one_vcpu_and_a_split_irqchip() {
        boots("vmlinuz-6.12.", IrqchipKind::Split, 1);
    }

    #[test]
    fn debian_6_12_with_two_vcpus_and_a_split_irqchip() {
        boots("vmlinuz-6.12.", IrqchipKind::Split, 2);
    }
}

/// There is no other irqchip.
#[cfg(target_arch = "aarch64")]
mod arm64 {
    use super::*;

    #[test]
    fn debian_6_12_with_one_vcpu() {
        boots("vmlinuz-6.12.", IrqchipKind::Full, 1);
    }

    #[test]
    fn debian_6_12_with_two_vcpus() {
        boots("vmlinuz-6.12.", IrqchipKind::Full, 2);
    }
}
