//! Bodies of the fuzz targets: bytes become a sequence of accesses, and what must always hold is asserted.
//!
//! The targets in `fuzz/` call them with libFuzzer's bytes, the tests below with proptest's.

use crate::apic::{MSR_APIC_BASE, MSR_X2APIC_FIRST};
use crate::irqchip::Irqchip;
use crate::rtc::Rtc;
use crate::uart::{FIFO_SIZE, Uart};
use crate::{apic, ioapic};

/// Takes numbers from the input; zeros after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// A step in time between nothing and some years, most often short.
    fn duration_ns(&mut self) -> u64 {
        u64::from(self.byte()) << (self.byte() % 50)
    }
}

/// Any accesses to a UART.
pub fn uart(data: &[u8]) {
    let mut input = Input(data);
    let mut uart = Uart::new();
    while !input.is_empty() {
        let op = input.byte();
        let register = u16::from(op & 7);
        match op >> 3 {
            0..=11 => {
                uart.write(register, input.byte());
            }
            12..=23 => {
                let interrupts = uart.irq();
                let value = uart.read(register);
                let is_reason = register == 2;
                assert!(!(interrupts && is_reason && value & 1 != 0), "an interrupt without a reason");
            }
            24..=29 => {
                let room = uart.room();
                let bytes = vec![op; usize::from(input.byte())];
                assert_eq!(uart.receive(&bytes), room.min(bytes.len()));
            }
            30 => {
                assert_eq!(uart.room() != 0, uart.receive_break());
            }
            _ => uart.reset(),
        }
        assert!(uart.room() <= FIFO_SIZE);
    }
}

/// Any accesses to the interrupt controllers of two processors, with jumps in time.
pub fn irqchip(data: &[u8]) {
    const CPUS: usize = 2;
    const PORTS: [u16; 13] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x43, 0x40];
    const WIDTHS: [usize; 8] = [4, 4, 4, 4, 1, 2, 8, 16];
    let mut input = Input(data);
    let mut now = 0_u64;
    let mut chip = Irqchip::new(CPUS).expect("two processors are few enough");
    prepare(&mut chip, input.byte());
    while !input.is_empty() {
        let pending = [0, 1].map(|cpu| chip.interrupt_pending(cpu));
        let op = input.byte();
        let cpu = usize::from(op >> 7);
        match op & 0x0f {
            0..=3 => {
                let base = if op & 0x10 != 0 { apic::DEFAULT_BASE } else { ioapic::DEFAULT_BASE };
                let addr = base
                    + (u64::from(input.byte()) << 4)
                    + if op & 0x20 != 0 { input.byte().into() } else { 0 };
                let mut bytes: [u8; 16] = input.array();
                let width = WIDTHS[usize::from(bytes[15] & 7)];
                if op & 1 != 0 {
                    chip.mmio_write(cpu, addr, &bytes[..width], now);
                } else {
                    chip.mmio_read(cpu, addr, &mut bytes[..width], now);
                }
            }
            4 | 5 => {
                let register = input.byte();
                let index =
                    if register == 0xff { MSR_APIC_BASE } else { MSR_X2APIC_FIRST + u32::from(register) };
                let value = u64::from_le_bytes(input.array());
                if op & 1 != 0 {
                    let _ = chip.msr_write(cpu, index, value, now);
                } else {
                    let _ = chip.msr_read(cpu, index, now);
                }
            }
            6 | 7 => {
                let port = PORTS[usize::from(input.byte()) % PORTS.len()];
                let mut bytes: [u8; 4] = input.array();
                let width = [1, 1, 2, 4][usize::from(op >> 4 & 3)];
                if op & 1 != 0 {
                    assert!(chip.pio_write(port, &bytes[..width], now));
                } else {
                    assert!(chip.pio_read(port, &mut bytes[..width], now));
                }
            }
            8 => {
                let _ = chip.set_line(u32::from(input.byte() & 31), op & 0x10 != 0);
            }
            9 => {
                let address = apic::DEFAULT_BASE | u64::from(u32::from_le_bytes(input.array()) & 0xf_ffff);
                chip.signal_msi(address, u32::from_le_bytes(input.array()));
            }
            10 | 11 => {
                now = (now + input.duration_ns()).min(1 << 62);
                chip.tick(now);
                for cpu in 0..CPUS {
                    assert!(chip.next_deadline(cpu).is_none_or(|due| due > now), "a deadline in the past");
                }
            }
            12 => {
                assert_eq!(chip.acknowledge(cpu).is_some(), pending[cpu]);
            }
            13 => {
                let _ = chip.take_signal(cpu);
            }
            14 => {
                chip.set_tsc_deadline(cpu, u64::from_le_bytes(input.array()), now + 1 + input.duration_ns());
            }
            _ if op == 0xff => chip.reset(),
            _ => chip.set_cr8(cpu, op >> 4),
        }
        let changed = chip.take_changed();
        for (cpu, was_pending) in pending.into_iter().enumerate() {
            let rose = chip.interrupt_pending(cpu) && !was_pending;
            assert!(!rose || changed.contains(cpu), "processor {cpu} was not told");
        }
    }
}

/// Programs what an operating system would, as random bytes seldom do.
fn prepare(chip: &mut Irqchip, what: u8) {
    if what & 1 != 0 {
        for cpu in 0..2 {
            chip.mmio_write(cpu, apic::DEFAULT_BASE + 0xf0, &[0xff, 1, 0, 0], 0);
        }
    }
    if what & 2 != 0 {
        let base = apic::DEFAULT_BASE | apic::BASE_ENABLE | apic::BASE_X2APIC;
        let _ = chip.msr_write(1, MSR_APIC_BASE, base, 0);
    }
    if what & 4 != 0 {
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 2),
            (0xa1, 1),
        ] {
            chip.pio_write(port, &[value], 0);
        }
    }
    if what & 8 != 0 {
        for pin in 0..ioapic::PINS as u8 {
            let level = if pin < 16 { 0 } else { 0x80 };
            chip.mmio_write(0, ioapic::DEFAULT_BASE, &[0x10 + 2 * pin], 0);
            chip.mmio_write(0, ioapic::DEFAULT_BASE + 0x10, &[0x40 + pin, level, 0, 0], 0);
        }
    }
}

/// Any accesses to the clock, with jumps in time.
pub fn rtc(data: &[u8]) {
    let mut input = Input(data);
    let mut now = 0_u64;
    let mut rtc = Rtc::new(0, u64::from_le_bytes(input.array()));
    while !input.is_empty() {
        let op = input.byte();
        match op & 7 {
            0..=2 => {
                let index = if op & 8 != 0 { op >> 4 } else { input.byte() };
                rtc.write(0, index, now);
                rtc.write(1, input.byte(), now);
            }
            3 | 4 => {
                rtc.write(0, op >> 3, now);
                rtc.read(1, now);
            }
            5 => rtc.set_cmos(input.byte(), op),
            6 => {
                now = (now + input.duration_ns()).min(1 << 62);
                rtc.advance(now);
            }
            _ => {
                rtc.advance(now);
                if let Some(due) = rtc.next_deadline() {
                    assert!(due > now, "a deadline in the past");
                    now = due.min(1 << 62);
                    rtc.advance(now);
                    assert!(rtc.irq() || now < due, "nothing happened at the deadline");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..2000)
    }

    proptest! {
        #[test]
        fn uart(data in bytes()) {
            super::uart(&data);
        }

        #[test]
        fn irqchip(data in bytes()) {
            super::irqchip(&data);
        }

        #[test]
        fn rtc(data in bytes()) {
            super::rtc(&data);
        }
    }
}
