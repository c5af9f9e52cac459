//! Compiles a workload twice from the same source: as a freestanding guest, and as a program of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// A workload's two programs.
pub(crate) struct Programs {
    pub(crate) guest: PathBuf,
    pub(crate) native: PathBuf,
}

/// Vectors would make the integer workloads something else.
const COMMON: [&str; 9] = [
    "--edition=2024",
    "-O",
    "-Cno-vectorize-loops",
    "-Cno-vectorize-slp",
    "-Ctarget-cpu=x86-64",
    "--check-cfg=cfg(native)",
    "--target=x86_64-unknown-linux-gnu",
    "-Cpanic=abort",
    "-Cstrip=symbols",
];

/// Compiles `workloads/NAME.rs`.
pub(crate) fn compile(name: &str) -> Result<Programs> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let out = std::env::current_exe()?.with_file_name("workloads");
    fs::create_dir_all(&out)?;
    let programs = Programs { guest: out.join(format!("{name}.elf")), native: out.join(name) };
    let link = "-Clink-args=-nostartfiles -nostdlib -static -no-pie -Wl,-T,guest.ld -Wl,--build-id=none \
        -Wl,--no-eh-frame-hdr";
    let freestanding = ["-Crelocation-model=static", "-Ctarget-feature=+crt-static", link];
    rustc(&source, name, &programs.guest, &freestanding)?;
    rustc(&source, name, &programs.native, &["--cfg=native"])?;
    Ok(programs)
}

fn rustc(source: &Path, name: &str, out: &Path, extra: &[&str]) -> Result<()> {
    let mut command = Command::new("rustc");
    command.current_dir(source).arg(format!("{name}.rs")).arg("-o").arg(out).args(COMMON).args(extra);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("rustc cannot compile the workload {name}: {status}").into()),
        Err(e) => Err(format!("rustc does not run: {e}").into()),
    }
}
