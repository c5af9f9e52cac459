//! QEMU's TCG, for comparison.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use crate::Result;

const PROGRAM: &str = "qemu-system-x86_64";

/// Whether it is installed. Says so once where it is not.
pub(crate) fn installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let found =
            Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        if !found {
            println!("SKIPPED: the comparison with QEMU, because {PROGRAM} is not installed");
        }
        found
    })
}

/// A microvm without devices but the given.
pub(crate) fn microvm(memory: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["-M", "microvm", "-accel", "tcg", "-m", memory, "-display", "none", "-no-reboot"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Runs a workload: what it printed, and the seconds from start to end of the process.
pub(crate) fn workload(program: &Path) -> Result<(String, f64)> {
    let start = Instant::now();
    let output = microvm("128M")
        .arg("-kernel")
        .arg(program)
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-debugcon", "stdio"])
        .output()?;
    Ok((String::from_utf8_lossy(&output.stdout).trim().into(), start.elapsed().as_secs_f64()))
}
