//! Runs a guest of one instruction, `HVC`, on Hypervisor.framework, and prints its exit.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people and scripts")]

use std::process::ExitCode;

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
fn first_exit() -> squib_core::Result<squib_core::VmExit> {
    use std::sync::Arc;

    use squib_core::{Clock, GuestMemory, HypervisorBackend, IrqchipKind, VmConfig, VmEntry, Waker};

    struct Nothing;

    impl Clock for Nothing {
        fn now_ns(&self) -> u64 {
            0
        }

        fn unix_ns(&self) -> u64 {
            0
        }
    }

    impl Waker for Nothing {
        fn wake(&self) {}
    }

    /// `hvc #0`
    const HVC: u32 = 0xd400_0002;

    let memory = GuestMemory::new(0x1_0000)?;
    memory.write(0, &HVC.to_le_bytes())?;
    let (clock, waker) = (Arc::new(Nothing), Arc::new(Nothing));
    let config = VmConfig { memory, irqchip: IrqchipKind::None, clock, waker, dirty_ring: None };
    let vm = squib_hvf::HvfBackend::open()?.create_vm(&config)?;
    // It begins at address 0.
    vm.create_vcpu(0)?.run(VmEntry::Resume)
}

#[cfg(not(all(target_os = "macos", target_arch = "aarch64")))]
fn first_exit() -> Result<squib_core::VmExit, &'static str> {
    Err("this is no Mac with Apple silicon")
}

fn main() -> ExitCode {
    match first_exit() {
        Ok(exit) => {
            println!("{exit:?}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
