//! What one exit to a device in Rust costs, on each backend: the guest's instructions, the backend, the bus. On KVM beside
//! a loop on bare kvm-ioctls that runs the same guest, in turns.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use squib_core::{
    GuestMemory, HypervisorBackend, InterruptSource, InterruptTrigger, IrqchipKind, VmConfig, VmEntry, VmExit,
};
use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;
use squib_vmm::host::{StdClock, ThreadWaker};

use crate::Result;
use crate::bare_kvm::Bare;
use crate::guest::{ACCESSES, END, Guest, PORT};
use crate::measure::median;
use crate::processes::{Row, medians, tell};

/// The first argument of a process that measures.
pub(crate) const CHILD: &str = "--exits-once";

const PROCESSES: usize = 10;
const SOFT_EXITS: u16 = 60_000;
const KVM_EXITS: u16 = 500;
/// Rounds on KVM for each on the soft backend: they are shorter, and their difference is small.
const KVM_ROUNDS: usize = 2;

/// So many rounds in each of [`PROCESSES`].
pub(crate) fn run(rounds: usize) -> Result<()> {
    if let Err(e) = KvmBackend::open() {
        println!("SKIPPED: exits on kvm, because {e}");
    }
    let rows = medians("exits", PROCESSES, &[CHILD, &rounds.to_string()])?;
    let (exits, interrupts): (Vec<Row>, _) = rows.into_iter().partition(|row| row.cells.len() > 1);
    println!("exit to a Rust device   ns on soft    ns on kvm    bare loop     ratio");
    for Row { name, cells } in exits {
        let [soft, squib, bare] = [0, 1, 2].map(|at| shown(cells[at], 0));
        println!("{name:<24} {soft:>9} {squib:>12} {bare:>12} {:>9}", shown(cells[3], 3));
    }
    if !interrupts.is_empty() {
        println!("\nto raise an interrupt                ns on kvm");
    }
    for Row { name, cells } in interrupts {
        println!("{name:<22} {:>23}", shown(cells[0], 0));
    }
    Ok(())
}

fn shown(value: f64, decimals: usize) -> String {
    if value.is_nan() { "–".into() } else { format!("{value:.decimals$}") }
}

/// The other end of [`run`]: for each exit four cells, which are nanoseconds on the soft backend, on KVM, and of the bare loop, and
/// the ratio of these two; for each way to raise an interrupt one.
pub(crate) fn child(args: &[String]) -> Result<()> {
    let [rounds] = args else { return Err("wants the number of rounds".into()) };
    let rounds = rounds.parse()?;
    let kvm = KvmBackend::open().ok();
    let mut rows = Vec::new();
    for (name, access) in &ACCESSES {
        let guest = |backend: &dyn HypervisorBackend| Guest::new(backend, access, |_, _| Ok(None));
        rows.push(row(name, rounds, kvm.as_ref(), guest, || Bare::new(access))?);
    }
    let [(_, write), ..] = &ACCESSES;
    // On KVM no exit, but a wake of the thread that listens, which the bare loop has not.
    let rings = |backend: &dyn HypervisorBackend| {
        Guest::new(backend, write, |ports, device| {
            ports.map_doorbell("doorbell", (PORT, 1, None), device).map(Some)
        })
    };
    rows.push(row("  to a doorbell", rounds, kvm.as_ref(), rings, || Bare::with_ioeventfd(write))?);
    let waits = |backend: &dyn HypervisorBackend| {
        Guest::new(backend, write, |ports, device| ports.coalesce(PORT, 1, device).map(|()| None))
    };
    rows.push(row("  gathered", rounds, kvm.as_ref(), waits, || Bare::with_coalescing(write))?);
    if let Some(kvm) = &kvm {
        let guest = (Guest::new(kvm, write, |_, _| Ok(None))?, looked_at_round as _);
        let bare = (Bare::new(write)?, Bare::looked_at_round as _);
        let [squib, bare, ratio] = compare(rounds * KVM_ROUNDS, guest, bare)?;
        rows.push(Row::new("  and registers are read", &[f64::NAN, squib, bare, ratio]));
        rows.extend(interrupts(kvm, rounds)?);
    }
    tell(&rows);
    Ok(())
}

/// What it costs the caller to raise an interrupt, in each way that KVM has.
fn interrupts(kvm: &KvmBackend, rounds: usize) -> Result<Vec<Row>> {
    const ADDRESS: u64 = 0xfee0_0000;
    const DATA: u32 = 0x41;
    const LINE: u32 = 5;
    let (irqchip, clock, waker) = (IrqchipKind::Full, StdClock::new(), ThreadWaker::new());
    let vm = kvm.create_vm(&VmConfig {
        memory: GuestMemory::new(1 << 16)?,
        irqchip,
        clock,
        waker,
        dirty_ring: None,
    })?;
    let _vcpu = vm.create_vcpu(0)?;
    let message = vm.interrupt_trigger(InterruptSource::Message { address: ADDRESS, data: DATA })?;
    let line = vm.interrupt_trigger(InterruptSource::Line(LINE))?;
    let pulse = || vm.set_irq_line(LINE, true).and_then(|()| vm.set_irq_line(LINE, false));
    let trigger = |trigger: &Arc<dyn InterruptTrigger>| {
        trigger.trigger();
        Ok(())
    };
    let ways: [(&str, &dyn Fn() -> squib_core::Result<()>); 4] = [
        ("message, by call", &|| vm.signal_msi(ADDRESS, DATA)),
        ("message, by trigger", &|| trigger(&message)),
        ("line, by two calls", &pulse),
        ("line, by trigger", &|| trigger(&line)),
    ];
    let row = |(name, raise): (_, &dyn Fn() -> squib_core::Result<()>)| {
        let mut times = Vec::new();
        for _ in 0..rounds * KVM_ROUNDS {
            let start = Instant::now();
            (0..KVM_EXITS).try_for_each(|_| raise())?;
            times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(KVM_EXITS));
        }
        Ok(Row::new(name, &[median(times)]))
    };
    ways.into_iter().map(row).collect()
}

fn row(
    name: &str,
    rounds: usize,
    kvm: Option<&KvmBackend>,
    guest: impl Fn(&dyn HypervisorBackend) -> Result<Guest>,
    bare: impl Fn() -> Result<Bare>,
) -> Result<Row> {
    let mut on_soft = guest(&SoftBackend::default())?;
    let times = (0..rounds).map(|_| on_soft.round(SOFT_EXITS)).collect::<Result<Vec<_>>>()?;
    let [squib, bare, ratio] = match kvm {
        Some(kvm) => {
            let (guest, bare) = ((guest(kvm)?, Guest::round as _), (bare()?, Bare::round as _));
            compare(rounds * KVM_ROUNDS, guest, bare)?
        }
        None => [f64::NAN; 3],
    };
    Ok(Row::new(name, &[median(times), squib, bare, ratio]))
}

/// Nanoseconds of one of `count` exits that are writes and go to a caller, who looks at registers after each.
fn looked_at_round(guest: &mut Guest, count: u16) -> Result<f64> {
    guest.start(count)?;
    let vcpu = guest.run.vcpu();
    let start = Instant::now();
    loop {
        let exit = vcpu.run(VmEntry::Resume)?;
        black_box(vcpu.x86()?.registers()?);
        match exit {
            VmExit::Pio { port: END, .. } => break,
            VmExit::Pio { write: true, .. } => {}
            other => return Err(format!("the guest ended with {other:?}").into()),
        }
    }
    let elapsed = start.elapsed();
    vcpu.run(VmEntry::Complete(None))?;
    Ok(elapsed.as_secs_f64() * 1e9 / f64::from(count))
}

/// A guest, and what gives the nanoseconds of one of so many exits of it.
type Side<G> = (G, fn(&mut G, u16) -> Result<f64>);

/// Medians: nanoseconds of squib's exit, of the bare loop's, and their ratio within a round.
fn compare(
    rounds: usize,
    (mut guest, squib): Side<Guest>,
    (mut bare, least): Side<Bare>,
) -> Result<[f64; 3]> {
    let mut columns = [(); 3].map(|()| Vec::with_capacity(rounds));
    for round in 0..rounds {
        // Whoever goes first in one round goes second in the next.
        let (a, b) = if round % 2 == 0 {
            let a = squib(&mut guest, KVM_EXITS)?;
            (a, least(&mut bare, KVM_EXITS)?)
        } else {
            let b = least(&mut bare, KVM_EXITS)?;
            (squib(&mut guest, KVM_EXITS)?, b)
        };
        for (column, value) in columns.iter_mut().zip([a, b, a / b]) {
            column.push(value);
        }
    }
    Ok(columns.map(median))
}
