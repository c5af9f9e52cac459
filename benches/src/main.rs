//! Figures of squib, beside native code and, where it is installed, QEMU's: one run, interleaved, medians.
//!
//! `npm run bench`, or `cargo run --release -p squib-bench -- [workloads] [exits] [startup] [boot]`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the tables are the result")]

#[cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), path = "no_kvm.rs")]
mod bare_kvm;
mod boot;
mod compile;
mod cpio;
mod exits;
mod guest;
mod measure;
mod processes;
mod qemu;
mod startup;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

/// An error to print. A bench has no caller that would tell errors apart.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: squib-bench [workloads] [exits] [startup] [boot] [--rounds N] \
    [--workload NAME] [--kernel BZIMAGE --busybox STATIC_BUSYBOX]";

/// What the command line says.
#[derive(Default)]
struct Options {
    sections: Vec<String>,
    rounds: Option<usize>,
    /// The only workload to run.
    workload: Option<String>,
    kernel: Option<PathBuf>,
    busybox: Option<PathBuf>,
}

const SECTIONS: [&str; 4] = ["workloads", "exits", "startup", "boot"];

fn main() -> ExitCode {
    // Some benches start this program again: that a boot's CPU time and memory are a process's own, and for the median over processes.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some(boot::CHILD) => boot::child(&args[1..]),
        Some(exits::CHILD) => exits::child(&args[1..]),
        _ => parse(&args).and_then(|options| run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("squib-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value\n{USAGE}"));
        match arg.as_str() {
            "--rounds" => options.rounds = Some(value()?.parse()?),
            "--workload" => options.workload = Some(value()?.clone()),
            "--kernel" => options.kernel = Some(value()?.into()),
            "--busybox" => options.busybox = Some(value()?.into()),
            section if SECTIONS.contains(&section) => options.sections.push(arg.clone()),
            _ => return Err(format!("unknown argument {arg}\n{USAGE}").into()),
        }
    }
    if options.sections.is_empty() {
        options.sections = SECTIONS.map(String::from).to_vec();
    }
    Ok(options)
}

fn run(options: &Options) -> Result<()> {
    for section in &options.sections {
        match section.as_str() {
            "workloads" => workloads::run(options.rounds.unwrap_or(5), options.workload.as_deref())?,
            "exits" => exits::run(options.rounds.unwrap_or(11))?,
            "startup" => startup::run(options.rounds.unwrap_or(101))?,
            _ => boot::run(options)?,
        }
        println!();
    }
    Ok(())
}
