//! Debian's kernel to userspace and power-off: CPU seconds of the whole process, against QEMU's microvm.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use squib_soft::SoftBackend;
use squib_vmm::Outcome;
use squib_vmm::boot::BootSource;
use squib_vmm::host::{StdClock, ThreadHost, ThreadWaker};
use squib_vmm::machine::{Machine, MachineConfig};

use crate::cpio::{MARKER, initrd};
use crate::measure::{children_cpu_seconds, median, resident_beyond};
use crate::{Options, Result, qemu};

/// The first argument of the process that boots once.
pub(crate) const CHILD: &str = "--boot-once";

const MEMORY_MIB: u64 = 256;
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 reboot=t";

pub(crate) fn run(options: &Options) -> Result<()> {
    let (Some(kernel), Some(busybox)) = (&options.kernel, &options.busybox) else {
        println!("SKIPPED: boot, because no --kernel and --busybox are given");
        return Ok(());
    };
    let disk = std::env::current_exe()?.with_file_name("bench-initrd.cpio");
    fs::write(&disk, initrd(&fs::read(busybox)?))?;
    let (mut soft, mut qemu) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.unwrap_or(3) {
        soft.push(cpu_seconds(&mut soft_command(kernel, &disk)?)?);
        if qemu::installed() {
            qemu.push(cpu_seconds(&mut qemu_command(kernel, &disk)?)?);
        }
    }
    let soft = median(soft);
    print!("boot to userspace and power-off, {MEMORY_MIB} MiB: soft {soft:.2} CPU s");
    match qemu.is_empty() {
        true => println!(),
        false => {
            let qemu = median(qemu);
            println!(", QEMU TCG microvm {qemu:.2} CPU s: {:.2} times", soft / qemu);
        }
    }
    Ok(())
}

/// CPU seconds of a process that boots a guest, which must reach userspace.
fn cpu_seconds(command: &mut Command) -> Result<f64> {
    let before = children_cpu_seconds()?;
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains(MARKER) {
        return Err(format!("{command:?} did not reach userspace ({}):\n{text}", output.status).into());
    }
    for line in text.lines().filter(|line| line.starts_with("soft:")) {
        println!("{line}");
    }
    Ok(children_cpu_seconds()? - before)
}

fn soft_command(kernel: &Path, disk: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD).arg(kernel).arg(disk);
    Ok(command)
}

/// Without the frequency the kernel's calibration against the 8254 hangs now and then.
fn qemu_command(kernel: &Path, disk: &Path) -> Result<Command> {
    let append = format!("{COMMAND_LINE} tsc_early_khz={}", tsc_khz());
    let mut command = qemu::microvm(&format!("{MEMORY_MIB}M"));
    command
        .args(["-serial", "stdio", "-append", &append])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(disk);
    Ok(command)
}

/// The host's time-stamp counter, which QEMU hands to its guest.
#[cfg(target_arch = "x86_64")]
fn tsc_khz() -> u64 {
    #![allow(unsafe_code, reason = "reading the time-stamp counter")]
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets user mode have it.
    let now = || unsafe { core::arch::x86_64::_rdtsc() };
    let (start, first) = (Instant::now(), now());
    while start.elapsed() < Duration::from_millis(50) {
        std::hint::spin_loop();
    }
    let cycles = now().wrapping_sub(first);
    (cycles as f64 / start.elapsed().as_secs_f64() / 1e3) as u64
}

/// QEMU's own on other hosts.
#[cfg(not(target_arch = "x86_64"))]
fn tsc_khz() -> u64 {
    1_000_000
}

/// Boots once and prints what the guest did: the other end of [`soft_command`].
pub(crate) fn child(args: &[String]) -> Result<()> {
    let [kernel, disk] = args else { return Err("wants a kernel and an initial RAM disk".into()) };
    let before = resident_beyond(None)?;
    let (kernel, disk) = (fs::read(kernel)?, fs::read(disk)?);
    let (clock, waker) = (StdClock::new(), ThreadWaker::new());
    let started = Instant::now();
    let machine = Machine::new(
        &SoftBackend::default(),
        MachineConfig {
            memory_size: MEMORY_MIB << 20,
            vcpus: 1,
            irqchip: squib_core::IrqchipKind::Full,
            boot: BootSource { initrd: Some(&disk), command_line: COMMAND_LINE, ..BootSource::new(&kernel) },
            clock: clock.clone(),
            waker: waker.clone(),
            console: Box::new(()),
        },
    )?;
    drop((kernel, disk));
    let mut host = ThreadHost::new(clock, waker);
    while machine.outcome().is_none() {
        machine.run(0, &mut host)?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    std::io::stdout().write_all(&machine.console().take_output())?;
    let stats = machine.stats();
    println!(
        "\nsoft: {elapsed:.2} s, {:.0} M instructions, {:.1} MiB more resident than before the VM, without its RAM",
        stats.instructions.unwrap_or(0) as f64 / 1e6,
        resident_beyond(Some(machine.ram()))?.saturating_sub(before) as f64 / f64::from(1 << 20),
    );
    match machine.outcome() {
        Some(Outcome::PowerOff) => Ok(()),
        other => Err(format!("the guest ended with {other:?}").into()),
    }
}
