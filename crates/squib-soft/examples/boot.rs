//! Boots a kernel on the soft CPU, its console on standard output.
//!
//!     cargo run --release -p squib-soft --example boot -- KERNEL INITRD [COMMAND LINE]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::io::Write;
use std::time::Instant;

use squib_soft::SoftBackend;
use squib_vmm::boot::BootSource;
use squib_vmm::host::{StdClock, ThreadHost, ThreadWaker};
use squib_vmm::{Machine, MachineConfig};

/// Prints what the console has.
fn drain(machine: &Machine) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&machine.console().take_output());
    let _ = out.flush();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let kernel = std::fs::read(args.first().ok_or("usage: boot KERNEL [INITRD [COMMAND LINE]]")?)?;
    let initrd = args.get(1).filter(|p| !p.is_empty()).map(std::fs::read).transpose()?;
    let clock = StdClock::new();
    let waker = ThreadWaker::new();
    let begin = Instant::now();
    let config = MachineConfig {
        memory_size: 256 << 20,
        vcpus: 1,
        irqchip: squib_core::IrqchipKind::Full,
        boot: BootSource {
            initrd: initrd.as_deref(),
            command_line: args.get(2).map_or("console=ttyS0", String::as_str),
            ..BootSource::new(&kernel)
        },
        clock: clock.clone(),
        waker: waker.clone(),
        console: Box::new(()),
    };
    let machine = Machine::new(&SoftBackend::default(), config)?;
    eprintln!("loaded in {:?}", begin.elapsed());
    let begin = Instant::now();
    let stop = std::thread::scope(|scope| {
        let runner = scope.spawn(|| machine.run(0, &mut ThreadHost::new(clock, waker)));
        while !runner.is_finished() {
            drain(&machine);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        runner.join()
    });
    drain(&machine);
    let stop = stop.map_err(|_| "the vCPU thread panicked")??;
    let elapsed = begin.elapsed();
    eprintln!("\nstopped: {stop:?}, {:?} after {elapsed:?}", machine.outcome());
    eprintln!("{:#?}", machine.stats());
    Ok(())
}
