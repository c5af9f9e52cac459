//! What is left of firmware: the ACPI tables, something at the reset vector, and what multiboot programs expect of a BIOS.

use squib_core::{GuestMemory, Result};
use squib_devices::acpi_pm;

use crate::boot::layout::FIRMWARE;
use crate::boot::{BootState, Protocol};
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

/// Handlers of real-mode interrupts: IRET, and the same after an end of interrupt to the first 8259 or to both.
const HANDLERS: [(u16, &[u8]); 3] = [
    (0xf000, &[0xcf]),
    (0xf010, &[0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf]),
    (0xf020, &[0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf]),
];
/// Segment of the handlers.
const SEGMENT: u16 = 0xf000;
/// Bytes of the real-mode interrupt vectors, at address 0.
const VECTORS: u64 = 0x400;

/// Ports and values: the 8259s at vectors 0x08 and 0x70 with all but the timer masked, and the timer at 18.2 Hz.
const PROGRAM: [(u8, u8); 13] = [
    (0x20, 0x11),
    (0x21, 0x08),
    (0x21, 0x04),
    (0x21, 0x01),
    (0xa0, 0x11),
    (0xa1, 0x70),
    (0xa1, 0x02),
    (0xa1, 0x01),
    (0x21, 0xfa),
    (0xa1, 0xff),
    (0x43, 0x36),
    (0x40, 0x00),
    (0x40, 0x00),
];
/// Where the code lies that makes these accesses, and where they are listed.
const CODE: u32 = 0xf_f040;
const LIST: u32 = 0xf_f080;

/// Multiboot programs find interrupt controllers and timer "programmed with the normal BIOS values" (Multiboot
/// Specification 0.6.96, 3.2), and real-mode handlers for their interrupts. The controllers may be inside of a backend,
/// so the guest's first instructions program them.
///
/// # Errors
/// None that the checks leave.
pub(crate) fn prepare(memory: &GuestMemory, state: &mut BootState) -> Result<()> {
    let free = state.info.placements.iter().all(|p| p.range.start >= VECTORS);
    let ours = memory.contains(FIRMWARE.start, FIRMWARE.end - FIRMWARE.start);
    if state.info.protocol != Protocol::Multiboot || !free || !ours {
        return Ok(());
    }
    for vector in 0..256_u16 {
        let (offset, _) = match vector {
            0x08..=0x0f => HANDLERS[1],
            0x70..=0x77 => HANDLERS[2],
            _ => HANDLERS[0],
        };
        let pointer = u32::from(SEGMENT) << 16 | u32::from(offset);
        memory.write(u64::from(vector) * 4, &pointer.to_le_bytes())?;
    }
    for (offset, code) in HANDLERS {
        memory.write((u64::from(SEGMENT) << 4) + u64::from(offset), code)?;
    }
    memory.write(LIST.into(), PROGRAM.map(<[u8; 2]>::from).as_flattened())?;
    memory.write(CODE.into(), &code(state.registers.rax as u32, state.registers.rip as u32))?;
    state.registers.rip = CODE.into();
    Ok(())
}

/// The code of [`prepare`]; it goes on to `entry` with `eax`.
fn code(eax: u32, entry: u32) -> Vec<u8> {
    let mut code = vec![0xbe]; // mov esi, LIST
    code.extend(LIST.to_le_bytes());
    code.push(0xb9); // mov ecx, count
    code.extend((PROGRAM.len() as u32).to_le_bytes());
    code.extend([0x31, 0xd2]); // xor edx, edx
    code.extend([0x8a, 0x16]); // mov dl, [esi]
    code.extend([0x8a, 0x46, 0x01]); // mov al, [esi + 1]
    code.push(0xee); // out dx, al
    code.extend([0x83, 0xc6, 0x02]); // add esi, 2
    code.extend([0xe2, 0xf5]); // loop, to mov dl
    code.push(0xb8); // mov eax, imm
    code.extend(eax.to_le_bytes());
    code.push(0xe9); // jmp entry
    let next = CODE + code.len() as u32 + 4;
    code.extend(entry.wrapping_sub(next).to_le_bytes());
    code
}
