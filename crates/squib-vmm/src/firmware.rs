//! What is left of firmware: the ACPI tables, and something at the reset vector.

use squib_core::{GuestMemory, Result};
use squib_devices::acpi_pm;

use crate::boot::layout::FIRMWARE;
use crate::{acpi, platform};

/// Where a processor begins after reset, as a guest in real mode sees it (F000:FFF0): software that wants a
/// reset jumps there. Linux does on a hardware-reduced ACPI platform without EFI, which it takes for one that
/// has no other way (arch/x86/kernel/reboot.c).
const RESET_VECTOR: u64 = 0xf_fff0;

/// The ACPI reset register's port and value as bytes of instructions.
const PORT: [u8; 2] = (platform::ACPI_PM + acpi_pm::RESET).to_le_bytes();

/// `mov dx, port; mov al, value; out dx, al; hlt; jmp` to the `hlt`.
const RESET_CODE: [u8; 9] = [0xba, PORT[0], PORT[1], 0xb0, acpi_pm::RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd];

/// Puts it into guest memory, and returns the address of the ACPI root pointer; `None`, and nothing is
/// written, where no RAM is at these addresses.
///
/// # Errors
/// None that the check for RAM leaves.
pub(crate) fn install(memory: &GuestMemory, vcpus: u32) -> Result<Option<u64>> {
    if !memory.contains(FIRMWARE.start, FIRMWARE.end - FIRMWARE.start) {
        return Ok(None);
    }
    memory.write(RESET_VECTOR, &RESET_CODE)?;
    acpi::write_tables(memory, vcpus).map(Some)
}
