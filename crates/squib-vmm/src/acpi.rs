//! ACPI tables: how an operating system finds processors, interrupt controllers, the console and the
//! power switch.
//!
//! The board is a "hardware-reduced" one (ACPI 6.5, 4.1): it has none of the fixed PM1 registers and no SCI, and
//! sleep and reset are one register each. Linux takes that as "no PIC, no PIT, no legacy hardware to probe", which
//! saves it the timer check and the probing of ports, and time comes from the paravirtual clock and the local
//! APIC's TSC deadline, as it does on cloud machines. The 8259 and the 8254 are still there for guests that come
//! without ACPI. See `docs/design/acpi.md`.

use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, Scope};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use squib_core::{GuestMemory, Result};
use squib_devices::acpi_pm;

use crate::boot::layout::FIRMWARE;
use crate::platform;

const OEM_ID: [u8; 6] = *b"SQUIB ";
const OEM_TABLE_ID: [u8; 8] = *b"SQUIBVM ";
const OEM_REVISION: u32 = 1;

/// Bytes of the header that every table but the root pointer has.
const SDT_HEADER: u32 = 36;

/// No VGA: the console is a serial line (ACPI 6.5, table 5.11, bit 2). That the bit for an 8042 is clear
/// keeps Linux from probing for a keyboard.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;

/// Where the tables go, the root pointer first: in the part of the PC's legacy hole that is searched for it
/// (ACPI 6.5, 5.2.5.1).
const TABLES: u64 = FIRMWARE.start;

/// Writes the tables for `vcpus` processors to guest memory, and returns the address of the root pointer.
///
/// # Errors
/// [`ErrorCode::MemoryRange`](squib_core::ErrorCode::MemoryRange) when there is no RAM.
pub(crate) fn write_tables(memory: &GuestMemory, vcpus: u32) -> Result<u64> {
    let mut next = TABLES + Rsdp::len() as u64;
    let mut place = |table: &dyn Aml| -> Result<u64> {
        let addr = next.next_multiple_of(16);
        let bytes = bytes_of(table);
        memory.write(addr, &bytes)?;
        next = addr + bytes.len() as u64;
        Ok(addr)
    };
    let dsdt = place(&dsdt())?;
    let fadt = place(&fadt(dsdt))?;
    let madt = place(&madt(vcpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&xsdt)?;
    memory.write(TABLES, &bytes_of(&Rsdp::new(OEM_ID, xsdt)))?;
    Ok(TABLES)
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// What the board is, in AML: the devices that an operating system finds by name, and the sleep type that means "off".
fn dsdt() -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", SDT_HEADER, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let devices = [
        device("COM1", &EISAName::new("PNP0501"), platform::COM1, 8, Some(platform::COM1_IRQ)),
        device("RTC_", &EISAName::new("PNP0B00"), platform::RTC, 2, Some(platform::RTC_IRQ)),
        device("PEVT", &"QEMU0001", platform::PVPANIC, 1, None),
    ];
    dsdt.append_slice(&bytes_of(&Scope::new("_SB_".into(), devices.iter().map(|d| d as &dyn Aml).collect())));
    dsdt.append_slice(&bytes_of(&Name::new("_S5_".into(), &Package::new(vec![&acpi_pm::SLEEP_TYPE_S5]))));
    dsdt
}

/// AML that is already bytes, so that it can be put together from parts that have gone.
struct Bytes(Vec<u8>);

impl Aml for Bytes {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// A device by its hardware ID, with `count` ports from `port` on and an edge-triggered, active-high interrupt.
fn device(name: &str, id: &dyn Aml, port: u16, count: u8, irq: Option<u32>) -> Bytes {
    let io = IO::new(port, port, 1, count);
    let irq = irq.map(|gsi| Interrupt::new(true, true, false, false, gsi));
    let mut resources: Vec<&dyn Aml> = vec![&io];
    resources.extend(irq.iter().map(|i| i as &dyn Aml));
    let hid = Name::new("_HID".into(), id);
    let uid = Name::new("_UID".into(), &0_u8);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    Bytes(bytes_of(&Device::new(name.into(), vec![&hid, &uid, &crs])))
}

fn fadt(dsdt: u64) -> FADT {
    let port = |offset: u16| {
        GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, (platform::ACPI_PM + offset).into())
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // No fixed buttons: on a hardware-reduced board they would be devices.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA.into();
    fadt.reset_reg = port(acpi_pm::RESET);
    fadt.reset_value = acpi_pm::RESET_VALUE;
    fadt.sleep_control_reg = port(acpi_pm::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(acpi_pm::SLEEP_STATUS);
    fadt.finalize()
}

/// ISA interrupt 0, the 8254's, is the I/O APIC's input 2, edge-triggered and active high as that bus has it (ACPI 6.5, 5.2.12.5).
const TIMER_OVERRIDE: [u8; 10] = [2, 10, 0, 0, 2, 0, 0, 0, 0, 0];

/// Processors, whose local APIC numbers count from zero, and the I/O APIC with interrupt lines 0–23. COM1's is the only other one with
/// a device, of which the DSDT says all.
fn madt(vcpus: u32) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", SDT_HEADER, 1, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append(platform::LOCAL_APIC as u32);
    // No flags.
    madt.append(0_u32);
    // The machine has at most `machine::MAX_VCPUS`, so a number fits the byte that this structure has for it.
    for id in 0..vcpus as u8 {
        madt.append_slice(&bytes_of(&ProcessorLocalApic::new(id, id, EnabledStatus::Enabled)));
    }
    madt.append_slice(&bytes_of(&IoApic::new(vcpus as u8, platform::IO_APIC as u32, 0)));
    madt.append_slice(&TIMER_OVERRIDE);
    madt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(memory: &GuestMemory, addr: u64) -> Vec<u8> {
        let len = u32::from_le_bytes(memory.read_array(addr + 4).unwrap());
        let mut bytes = vec![0; len as usize];
        memory.read(addr, &mut bytes).unwrap();
        assert_eq!(bytes.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)), 0, "checksum of {addr:#x}");
        bytes
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    /// Walks from the root pointer as firmware-aware software does, by the offsets of ACPI 6.5, 5.2.
    #[test]
    fn every_table_is_found_and_sound() {
        let memory = GuestMemory::new(1 << 20).unwrap();
        let base = write_tables(&memory, 3).unwrap();
        assert_eq!(base % 16, 0);
        let rsdp: [u8; 36] = memory.read_array(base).unwrap();
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(rsdp[..20].iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)), 0);
        assert_eq!(rsdp.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)), 0);
        let xsdt = table(&memory, u64_at(&rsdp, 24));
        assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 2 * 8));

        let fadt = table(&memory, u64_at(&xsdt, 36));
        assert_eq!((&fadt[..4], fadt.len()), (&b"FACP"[..], 276));
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_eq!(flags, 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4 | 1);
        assert_eq!(fadt[116..128], [1, 8, 0, 1, 0x02, 0x06, 0, 0, 0, 0, 0, 0], "reset register");
        assert_eq!(fadt[128], 1, "reset value");
        assert_eq!(fadt[244..248], [1, 8, 0, 1]);
        assert_eq!((u64_at(&fadt, 248), u64_at(&fadt, 260)), (0x600, 0x601), "sleep control and status");

        let madt = table(&memory, u64_at(&xsdt, 44));
        assert_eq!((&madt[..4], madt.len()), (&b"APIC"[..], 44 + 3 * 8 + 12 + 10));
        assert_eq!(madt[36..44], [0, 0, 0xe0, 0xfe, 0, 0, 0, 0], "local APICs, no flags");
        assert_eq!(madt[44 + 16..44 + 24], [0, 8, 2, 2, 1, 0, 0, 0], "third processor");
        assert_eq!(madt[68..80], [1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0], "I/O APIC");
        assert_eq!(madt[80..], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0], "8254");

        let dsdt = table(&memory, u64_at(&fadt, 140));
        assert_eq!(&dsdt[..4], b"DSDT");
        for name in [&b"COM1"[..], b"RTC_", b"PEVT", b"QEMU0001", b"_S5_\x12\x04\x01\x0a\x05"] {
            assert!(dsdt.windows(name.len()).any(|w| w == name), "{name:?}");
        }
        let com1 = [0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 3, 1, 4, 0, 0, 0];
        assert!(dsdt.windows(com1.len()).any(|w| w == com1), "COM1's resources");
    }

    #[test]
    fn no_ram_is_an_error() {
        let memory = GuestMemory::new(4096).unwrap();
        assert_eq!(write_tables(&memory, 1).unwrap_err().code(), squib_core::ErrorCode::MemoryRange);
    }
}
