//! Kernel loaders, from outside: images built here, images that Debian ships, and images that are broken.
#![allow(clippy::print_stderr, reason = "a test that skips itself says so")]

mod arm64;
mod bzimage;
mod debian;
mod elf;
mod flat;
mod hostile;
mod image;
mod kernels;
mod multiboot;

use squib_core::{ErrorCode, GuestMemory};
use squib_vmm::boot::{self, BootSource, BootState, Part};

/// Loads `source` into fresh memory of `mib` MiB.
fn load(mib: u64, source: &BootSource<'_>) -> Result<(std::sync::Arc<GuestMemory>, BootState), ErrorCode> {
    let memory = GuestMemory::new(mib << 20).unwrap();
    let state = boot::load(&memory, source).map_err(|e| e.code())?;
    Ok((memory, state))
}

/// The error of loading `source` into 64 MiB.
fn error(source: &BootSource<'_>) -> ErrorCode {
    load(64, source).map(|(_, state)| state).expect_err("this image cannot be loaded")
}

/// Where `part` lies; it is there once.
fn place(state: &BootState, part: Part) -> std::ops::Range<u64> {
    let mut found = state.info.placements.iter().filter(|p| p.part == part);
    let range = found.next().unwrap_or_else(|| panic!("{part:?} is not loaded")).range.clone();
    assert!(found.next().is_none(), "{part:?} is loaded twice");
    range
}

fn u32_at(memory: &GuestMemory, addr: u64) -> u32 {
    u32::from_le_bytes(memory.read_array(addr).unwrap())
}

fn u64_at(memory: &GuestMemory, addr: u64) -> u64 {
    u64::from_le_bytes(memory.read_array(addr).unwrap())
}

fn bytes_at(memory: &GuestMemory, addr: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    memory.read(addr, &mut out).unwrap();
    out
}
