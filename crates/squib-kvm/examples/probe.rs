//! Says what this machine's KVM is worth; the status is 0 where it runs guests as hardware does.
#![allow(clippy::print_stdout, reason = "a program for people and scripts")]

use std::process::ExitCode;

fn main() -> ExitCode {
    let report = squib_kvm::probe();
    println!("{report:#?}");
    if report.runs_guests_at_speed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
