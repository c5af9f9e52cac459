//! Freestanding programs on the soft backend: how many instructions a second, and how much slower than native.

use std::fs;
use std::process::Command;
use std::time::Instant;

use squib_soft::SoftBackend;
use squib_vmm::boot::BootSource;
use squib_vmm::host::{StdClock, ThreadHost, ThreadWaker};
use squib_vmm::machine::{Machine, MachineConfig};
use squib_vmm::{Outcome, Stop};

use crate::compile::{Programs, compile};
use crate::measure::{geometric_mean, median};
use crate::{Result, qemu};

/// The ordinary integer programs, whose mean is the figure to watch.
const INTEGER: [&str; 8] = ["alu", "fib", "sieve", "sha256", "qsort", "mixed", "bytecode", "dhrystone"];
const OTHERS: [&str; 6] = ["crc", "mandelbrot", "nbody", "sse-copy", "rep-movs", "chase"];

const MEMORY: u64 = 128 << 20;

/// One run's figures.
struct Run {
    checksum: String,
    seconds: f64,
    instructions: f64,
}

/// Measures `only` that one, or all of them.
pub(crate) fn run(rounds: usize, only: Option<&str>) -> Result<()> {
    println!(
        "workload      M instr  native s    soft s  soft MIPS  soft/native    qemu s  qemu/native  soft/qemu"
    );
    if let Some(only) = only.filter(|only| !INTEGER.contains(only) && !OTHERS.contains(only)) {
        return Err(format!(
            "there is no workload {only}: there are {}",
            [&INTEGER[..], &OTHERS].concat().join(", ")
        )
        .into());
    }
    let overhead = qemu_overhead(rounds)?;
    let (mut mips, mut slower) = (Vec::new(), Vec::new());
    for (i, name) in INTEGER.into_iter().chain(OTHERS).enumerate() {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let row = measure(name, rounds, overhead)?;
        print_row(name, &row);
        if i < INTEGER.len() {
            mips.push(row.mips());
            slower.push(row.soft / row.native);
        }
    }
    if only.is_some() {
        return Ok(());
    }
    println!(
        "geometric mean of the {} integer workloads: {:.0} MIPS, {:.1} times native",
        INTEGER.len(),
        geometric_mean(&mips),
        geometric_mean(&slower)
    );
    Ok(())
}

/// Medians of a workload.
struct Row {
    instructions: f64,
    native: f64,
    soft: f64,
    qemu: Option<f64>,
}

impl Row {
    fn mips(&self) -> f64 {
        self.instructions / self.soft / 1e6
    }
}

fn print_row(name: &str, row: &Row) {
    print!(
        "{name:<12} {:>8.1} {:>9.4} {:>9.4} {:>10.0} {:>12.1}",
        row.instructions / 1e6,
        row.native,
        row.soft,
        row.mips(),
        row.soft / row.native
    );
    match row.qemu {
        Some(qemu) => println!(" {qemu:>9.4} {:>12.1} {:>10.2}", qemu / row.native, row.soft / qemu),
        None => println!(" {:>9} {:>12} {:>10}", "–", "–", "–"),
    }
}

fn measure(name: &str, rounds: usize, overhead: f64) -> Result<Row> {
    let programs = compile(name)?;
    let (mut native, mut soft, mut qemu, mut instructions) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for _ in 0..rounds {
        let reference = run_native(&programs)?;
        let guest = run_soft(&programs)?;
        agree(name, &reference.checksum, &guest.checksum, "soft")?;
        native.push(reference.seconds);
        soft.push(guest.seconds);
        instructions = guest.instructions;
        if qemu::installed() {
            let (checksum, seconds) = qemu::workload(&programs.guest)?;
            agree(name, &reference.checksum, &checksum, "QEMU")?;
            qemu.push(seconds - overhead);
        }
    }
    let qemu = (!qemu.is_empty()).then(|| median(qemu));
    Ok(Row { instructions, native: median(native), soft: median(soft), qemu })
}

/// A figure of a wrong result is worth nothing.
fn agree(name: &str, native: &str, guest: &str, where_: &str) -> Result<()> {
    if native == guest {
        return Ok(());
    }
    Err(format!("{name} gives {guest:?} on {where_} and {native:?} natively").into())
}

fn run_native(programs: &Programs) -> Result<Run> {
    let output = Command::new(&programs.native).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (checksum, nanoseconds) = text.trim().split_once(' ').ok_or("a native workload printed nothing")?;
    let seconds = nanoseconds.parse::<f64>()? / 1e9;
    Ok(Run { checksum: checksum.into(), seconds, instructions: 0.0 })
}

fn run_soft(programs: &Programs) -> Result<Run> {
    let image = fs::read(&programs.guest)?;
    let (clock, waker) = (StdClock::new(), ThreadWaker::new());
    let machine = Machine::new(
        &SoftBackend::default(),
        MachineConfig {
            memory_size: MEMORY,
            vcpus: 1,
            irqchip: squib_core::IrqchipKind::Full,
            boot: BootSource::new(&image),
            clock: clock.clone(),
            waker: waker.clone(),
            console: Box::new(()),
        },
    )?;
    let start = Instant::now();
    let stop = machine.run(0, &mut ThreadHost::new(clock, waker))?;
    let seconds = start.elapsed().as_secs_f64();
    let finished = matches!(stop, Stop::DebugExit(1)) && machine.outcome() == Some(Outcome::DebugExit(1));
    if !finished {
        return Err(format!("the workload ended with {stop:?}").into());
    }
    let checksum = String::from_utf8_lossy(&machine.console().take_output()).trim().into();
    let instructions = machine.stats().instructions.unwrap_or(0) as f64;
    Ok(Run { checksum, seconds, instructions })
}

/// Seconds that QEMU needs to start and end.
fn qemu_overhead(rounds: usize) -> Result<f64> {
    if !qemu::installed() {
        return Ok(0.0);
    }
    let empty = compile("empty")?;
    let runs = (0..rounds).map(|_| qemu::workload(&empty.guest).map(|(_, seconds)| seconds));
    Ok(median(runs.collect::<Result<_>>()?))
}
