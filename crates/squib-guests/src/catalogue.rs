//! Every guest, with the parameters that the files on disk have.

use crate::{
    ApicTimer, Guest, Hypercall, Mode, apic_timer, external_interrupts, hello, hlt, hypercall, mmio,
    mmio_across_page, mmio_instructions, mmio_sweep, msr, pit_timer, port_io, port_strings, self_modifying,
    spin, triple_fault, uart_flood, uart_hello, user_mode,
};

/// An MSR index that no processor has, for the files' `msr` guest.
const NO_SUCH_MSR: u32 = 0x4000_1234;

/// One of each guest.
pub fn all() -> Vec<Guest> {
    let args = [0x11, 0x22, 0x33, 0x44];
    vec![
        port_io(Mode::Real16),
        port_io(Mode::Long64),
        port_strings(Mode::Real16),
        port_strings(Mode::Long64),
        mmio(),
        mmio_across_page(),
        mmio_instructions(),
        mmio_sweep(&[(0xd000_0000, 0xd010_0000, 0x1000)]),
        hlt(Mode::Real16),
        hlt(Mode::Long64),
        triple_fault(),
        hypercall(Hypercall::Vmcall, 0x1234, args),
        hypercall(Hypercall::Vmmcall, 0x1234, args),
        msr(NO_SUCH_MSR, 0x1122_3344_5566_7788),
        spin(Mode::Real16),
        spin(Mode::Long64),
        self_modifying(),
        uart_hello("Hello from a guest\n"),
        uart_flood(1),
        apic_timer(ApicTimer::Periodic, 5, 100_000),
        apic_timer(ApicTimer::X2apicOneShot, 5, 100_000),
        apic_timer(ApicTimer::TscDeadline, 5, 1_000_000),
        pit_timer(5, 1193),
        external_interrupts(),
        user_mode(),
        hello(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn names_are_unique_and_fit_file_names() {
        let guests = all();
        for (i, guest) in guests.iter().enumerate() {
            assert!(guest.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert!(guests[..i].iter().all(|g| g.name != guest.name), "{}", guest.name);
            assert!(!guest.about.is_empty() && !guest.image.is_empty());
        }
    }

    #[test]
    fn flat_guests_begin_with_code_and_fit_below_their_memory() {
        for guest in all().iter().filter(|g| g.mode != Mode::Multiboot) {
            let bits = if guest.mode == Mode::Real16 { 16 } else { 64 };
            let first = Decoder::with_ip(bits, &guest.image, guest.load_addr, DecoderOptions::NONE).decode();
            assert!(!first.is_invalid(), "{}", guest.name);
            assert!(guest.load_addr + guest.image.len() as u64 <= crate::MEMORY_SIZE, "{}", guest.name);
        }
    }

    #[test]
    fn parameters_reach_the_code() {
        assert_ne!(msr(0x10, 1).image, msr(0x11, 1).image);
        assert_ne!(
            apic_timer(ApicTimer::Periodic, 1, 1000).image,
            apic_timer(ApicTimer::Periodic, 2, 1000).image
        );
        let text = uart_hello("abc").image;
        assert!(text.ends_with(b"abc\0"));
    }

    #[test]
    fn hello_is_a_multiboot_elf32() {
        let image = hello().image;
        assert_eq!(image[..5], [0x7f, b'E', b'L', b'F', 1]);
        let header =
            image[..8192.min(image.len())].chunks_exact(4).position(|w| w == 0x1bad_b002_u32.to_le_bytes());
        let at = header.expect("a multiboot header in the first 8 KiB") * 4;
        let sum = image[at..at + 12]
            .chunks_exact(4)
            .fold(0u32, |sum, w| sum.wrapping_add(u32::from_le_bytes([w[0], w[1], w[2], w[3]])));
        assert_eq!(sum, 0);
    }
}
