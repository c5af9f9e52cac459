//! The interrupt controllers and the interval timer of a PC, put together as a machine hosts them: what KVM
//! calls the in-kernel irqchip and PIT.
//!
//! Lines 0–15 are the ISA interrupts: input n of the 8259 pair and pin n of the I/O APIC, but line 0, the
//! interval timer, is I/O APIC pin 2, which the MADT says by an interrupt source override. Line 2, the
//! cascade, does not exist. Lines 16–23 are I/O APIC pins only. The 8259 pair's output is LINT0 of every
//! local APIC.
//!
//! # How a backend uses it
//!
//! It keeps one `Irqchip` for all of its vCPUs, under a lock when they have threads. Every call may give any
//! vCPU something to do; [`Irqchip::take_changed`] says which ones, and the backend sets their attention
//! words. A vCPU that finds its word set asks [`Irqchip::take_signal`] and [`Irqchip::interrupt_pending`];
//! when it can take an interrupt it calls [`Irqchip::acknowledge`], and asks [`Irqchip::interrupt_pending`]
//! again. Timers fire in [`Irqchip::tick`], which is due at [`Irqchip::next_deadline`]; both may have changed
//! after every register write.

use squib_core::x86::irqchip::{TIMER_LINE, check_line, io_apic_input};
use squib_core::{Error, ErrorCode, Result};

use crate::apic::{self, Effect, GeneralProtection, Lint, LocalApic, Signal};
use crate::apic_bus::ApicBus;
use crate::cpu_set::{CpuSet, MAX_CPUS};
use crate::ioapic::{self, Ioapic};
use crate::message::{DeliveryMode, InterruptMessage, TriggerMode};
use crate::pic::{self, PicPair};
use crate::pit::{self, Pit};

/// Local APICs, I/O APIC, 8259 pair, 8254.
///
/// `now_ns` is in nanoseconds on any clock that does not go back, the same one in every call. A `cpu` that does
/// not exist has no registers, nothing pending, and cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Irqchip {
    bus: ApicBus,
    ioapic: Ioapic,
    pics: PicPair,
    pit: Pit,
    pic_output: bool,
}

impl Irqchip {
    /// The controllers of a machine with `cpus` processors, in the state in which [`Irqchip::reset`] leaves
    /// them.
    ///
    /// # Errors
    /// [`ErrorCode::VcpuCount`] unless `cpus` is 1–[`MAX_CPUS`].
    pub fn new(cpus: usize) -> Result<Self> {
        if !(1..=MAX_CPUS).contains(&cpus) {
            let message = format!("{cpus} processors: the interrupt controllers serve 1 to {MAX_CPUS}");
            return Err(Error::new(ErrorCode::VcpuCount, message));
        }
        let mut chip = Self {
            bus: ApicBus::new(cpus),
            ioapic: Ioapic::default(),
            pics: PicPair::default(),
            pit: Pit::default(),
            pic_output: false,
        };
        chip.reset();
        Ok(chip)
    }

    /// Power-up reset, after which the bootstrap processor's local APIC is in virtual wire mode: there may be
    /// no firmware to put it there.
    pub fn reset(&mut self) {
        self.pit.reset();
        self.drive(TIMER_LINE, self.pit.output());
        self.ioapic.reset();
        self.pics.reset();
        for apic in &mut self.bus.apics {
            apic.reset();
        }
        if let Some(bootstrap) = self.bus.apics.first_mut() {
            bootstrap.set_virtual_wire_mode();
        }
        self.update_pic_output();
    }

    /// The processors that may have something new to do since the last call: take a signal or an interrupt.
    #[must_use = "these processors must look at their interrupts"]
    pub fn take_changed(&mut self) -> CpuSet {
        std::mem::take(&mut self.bus.changed)
    }

    /// A processor's local APIC, to look at.
    pub fn apic(&self, cpu: usize) -> Option<&LocalApic> {
        self.bus.apics.get(cpu)
    }

    // What a processor asks.

    /// Whether [`Irqchip::acknowledge`] would give a vector.
    #[inline]
    pub fn interrupt_pending(&self, cpu: usize) -> bool {
        self.apic(cpu).is_some_and(|apic| apic.pending_vector().is_some() || apic.ext_int_pending())
    }

    /// The interrupt acknowledge cycle: the vector of the most urgent interrupt, which is in service then.
    /// The 8259 pair comes first, as its interrupts have no priority in the local APIC.
    pub fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        let apic = self.bus.apics.get_mut(cpu)?;
        if apic.ext_int_pending() {
            apic.acknowledge_ext_int();
            let vector = self.pics.acknowledge();
            self.update_pic_output();
            return Some(vector);
        }
        apic.pending_vector()?;
        Some(apic.acknowledge())
    }

    /// Whether [`Irqchip::take_signal`] would give one.
    #[inline]
    pub fn signal_pending(&self, cpu: usize) -> bool {
        self.apic(cpu).is_some_and(LocalApic::signal_pending)
    }

    /// The most urgent event that is no maskable interrupt. With [`Signal::Init`] the local APIC has been
    /// reset already.
    pub fn take_signal(&mut self, cpu: usize) -> Option<Signal> {
        let apic = self.bus.apics.get_mut(cpu)?;
        let signal = apic.take_signal()?;
        if signal == Signal::Init {
            apic.init();
        }
        Some(signal)
    }

    /// CR8, the task priority class.
    pub fn cr8(&self, cpu: usize) -> u8 {
        self.apic(cpu).map_or(0, LocalApic::cr8)
    }

    /// Writes CR8.
    pub fn set_cr8(&mut self, cpu: usize, value: u8) {
        if let Some(apic) = self.bus.apics.get_mut(cpu) {
            apic.set_cr8(value);
            self.note_own_change(cpu);
        }
    }

    // What devices and the machine do.

    /// Drives interrupt line `gsi`. A level-triggered line interrupts for as long as it is asserted.
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`] when there is no such line.
    pub fn set_line(&mut self, gsi: u32, asserted: bool) -> Result<()> {
        check_line(gsi)?;
        self.drive(gsi, asserted);
        Ok(())
    }

    fn drive(&mut self, gsi: u32, asserted: bool) {
        let pin = io_apic_input(gsi);
        let bus = &mut self.bus;
        self.ioapic.set_line(pin, asserted, &mut |message| bus.deliver(&message, None));
        self.pics.set_line(gsi, asserted);
        self.update_pic_output();
    }

    /// Delivers a message-signalled interrupt; see [`InterruptMessage::from_msi`]. Whether a processor has
    /// accepted it.
    pub fn signal_msi(&mut self, address: u64, data: u32) -> bool {
        InterruptMessage::from_msi(address, data).is_some_and(|message| self.bus.deliver(&message, None))
    }

    /// Sends an edge-triggered message to each processor of a set: bit n of `set` is the one with APIC ID `first` + n. Returns how
    /// many have accepted it.
    pub fn signal_set(&mut self, first: u32, set: u128, delivery: DeliveryMode, vector: u8) -> u32 {
        let mut accepted = 0;
        for (cpu, apic) in self.bus.apics.iter_mut().enumerate() {
            let bit = apic.id().checked_sub(first).filter(|bit| *bit < u128::BITS);
            if bit.is_some_and(|bit| set >> bit & 1 != 0) {
                accepted += u32::from(apic.deliver(delivery, vector, TriggerMode::Edge));
                self.bus.changed.insert(cpu);
            }
        }
        accepted
    }

    /// Raises a non-maskable interrupt.
    pub fn raise_nmi(&mut self, cpu: usize) {
        if let Some(apic) = self.bus.apics.get_mut(cpu) {
            apic.deliver(DeliveryMode::Nmi, 0, TriggerMode::Edge);
            self.bus.changed.insert(cpu);
        }
    }

    // Time.

    /// Lets the timers fire that are due at `now_ns`. Periods that were missed count as one.
    pub fn tick(&mut self, now_ns: u64) {
        if self.pit.advance(now_ns) {
            self.timer_edge();
        }
        for (cpu, apic) in self.bus.apics.iter_mut().enumerate() {
            if apic.advance(now_ns) {
                self.bus.changed.insert(cpu);
            }
        }
    }

    /// When [`Irqchip::tick`] is next due for the sake of `cpu`: its own timer or the interval timer.
    pub fn next_deadline(&self, cpu: usize) -> Option<u64> {
        let own = self.apic(cpu).and_then(LocalApic::next_deadline);
        let shared = self.pit.next_deadline().filter(|_| {
            // Nobody would notice; an edge that is found later is the same to a masked 8259 input.
            !(self.ioapic.is_masked(io_apic_input(TIMER_LINE)) && self.pics.is_masked(TIMER_LINE))
        });
        match (own, shared) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// IA32_TSC_DEADLINE.
    pub fn tsc_deadline(&self, cpu: usize) -> u64 {
        self.apic(cpu).map_or(0, LocalApic::tsc_deadline)
    }

    /// Writes IA32_TSC_DEADLINE; see [`LocalApic::set_tsc_deadline`].
    pub fn set_tsc_deadline(&mut self, cpu: usize, deadline: u64, due_ns: u64) {
        if let Some(apic) = self.bus.apics.get_mut(cpu) {
            apic.set_tsc_deadline(deadline, due_ns);
        }
    }

    // Registers.

    /// Reads memory-mapped registers, any width. `false` when `addr` belongs to none of them as `cpu` sees
    /// it.
    pub fn mmio_read(&mut self, cpu: usize, addr: u64, data: &mut [u8], now_ns: u64) -> bool {
        let Some(apic) = self.bus.apics.get_mut(cpu) else { return false };
        if let Some(offset) = offset_in(apic.mmio_base(), apic::MMIO_SIZE, addr) {
            // A timer that is due shows in the IRR.
            apic.advance(now_ns);
            apic.mmio_read(offset, data, now_ns);
            self.note_own_change(cpu);
        } else if let Some(offset) = offset_in(Some(ioapic::DEFAULT_BASE), ioapic::MMIO_SIZE, addr) {
            self.ioapic.mmio_read(offset, data);
        } else {
            return false;
        }
        true
    }

    /// Writes memory-mapped registers, any width. `false` when `addr` belongs to none of them as `cpu` sees
    /// it.
    pub fn mmio_write(&mut self, cpu: usize, addr: u64, data: &[u8], now_ns: u64) -> bool {
        let Some(apic) = self.bus.apics.get_mut(cpu) else { return false };
        if let Some(offset) = offset_in(apic.mmio_base(), apic::MMIO_SIZE, addr) {
            let effect = apic.mmio_write(offset, data, now_ns);
            self.carry_out(cpu, effect);
        } else if let Some(offset) = offset_in(Some(ioapic::DEFAULT_BASE), ioapic::MMIO_SIZE, addr) {
            let bus = &mut self.bus;
            self.ioapic.mmio_write(offset, data, &mut |message| bus.deliver(&message, None));
        } else {
            return false;
        }
        true
    }

    /// Reads IA32_APIC_BASE or an x2APIC register (0x800–0x8ff). `None` for other registers.
    pub fn msr_read(
        &mut self,
        cpu: usize,
        index: u32,
        now_ns: u64,
    ) -> Option<Result<u64, GeneralProtection>> {
        let apic = self.bus.apics.get_mut(cpu)?;
        match index {
            apic::MSR_APIC_BASE => Some(Ok(apic.base())),
            apic::MSR_X2APIC_FIRST..=apic::MSR_X2APIC_LAST => {
                apic.advance(now_ns);
                let value = apic.msr_read(index, now_ns);
                self.note_own_change(cpu);
                Some(value)
            }
            _ => None,
        }
    }

    /// Writes IA32_APIC_BASE or an x2APIC register (0x800–0x8ff). `None` for other registers.
    pub fn msr_write(
        &mut self,
        cpu: usize,
        index: u32,
        value: u64,
        now_ns: u64,
    ) -> Option<Result<(), GeneralProtection>> {
        let apic = self.bus.apics.get_mut(cpu)?;
        let effect = match index {
            apic::MSR_APIC_BASE => apic.set_base(value).map(|()| None),
            apic::MSR_X2APIC_FIRST..=apic::MSR_X2APIC_LAST => apic.msr_write(index, value, now_ns),
            _ => return None,
        };
        Some(effect.map(|effect| self.carry_out(cpu, effect)))
    }

    /// Whether `port` is one of the 8259s', the 8254's, or 0x61.
    pub fn owns_port(port: u16) -> bool {
        matches!(port, 0x20 | 0x21 | 0x40..=0x43 | 0x61 | 0xa0 | 0xa1 | pic::PORT_ELCR | 0x4d1)
    }

    /// Reads ports, one byte each, from `port` on. `false` when `port` is not [owned](Irqchip::owns_port).
    pub fn pio_read(&mut self, port: u16, data: &mut [u8], now_ns: u64) -> bool {
        if !Self::owns_port(port) {
            return false;
        }
        self.tick(now_ns);
        for (i, byte) in data.iter_mut().enumerate() {
            let port = port.wrapping_add(i as u16);
            *byte = if is_pit(port) { self.pit.read(port, now_ns) } else { self.pics.read(port) };
        }
        // Reading after the poll command is an acknowledge.
        self.update_pic_output();
        true
    }

    /// Writes ports, one byte each, from `port` on. `false` when `port` is not [owned](Irqchip::owns_port).
    pub fn pio_write(&mut self, port: u16, data: &[u8], now_ns: u64) -> bool {
        if !Self::owns_port(port) {
            return false;
        }
        self.tick(now_ns);
        for (i, byte) in data.iter().enumerate() {
            let port = port.wrapping_add(i as u16);
            if !is_pit(port) {
                self.pics.write(port, *byte);
            } else if self.pit.write(port, *byte, now_ns) {
                self.timer_edge();
            } else {
                self.drive(TIMER_LINE, self.pit.output());
            }
        }
        self.update_pic_output();
        true
    }

    /// Shows the interval timer's output after it rose at least once.
    fn timer_edge(&mut self) {
        self.drive(TIMER_LINE, false);
        self.drive(TIMER_LINE, true);
        self.drive(TIMER_LINE, self.pit.output());
    }

    fn update_pic_output(&mut self) {
        let output = self.pics.irq();
        if std::mem::replace(&mut self.pic_output, output) != output {
            for cpu in 0..self.bus.apics.len() {
                self.bus.apics[cpu].set_lint(Lint::Lint0, output);
                self.bus.changed.insert(cpu);
            }
        }
    }

    /// A processor's own access may have uncovered an interrupt.
    fn note_own_change(&mut self, cpu: usize) {
        if self.interrupt_pending(cpu) {
            self.bus.changed.insert(cpu);
        }
    }

    fn carry_out(&mut self, cpu: usize, effect: Option<Effect>) {
        match effect {
            None => {}
            Some(Effect::Send { message, except_self }) => {
                self.bus.deliver(&message, except_self.then_some(cpu));
            }
            Some(Effect::Eoi(vector)) => {
                let bus = &mut self.bus;
                self.ioapic.end_of_interrupt(vector, &mut |message| bus.deliver(&message, None));
            }
        }
        self.note_own_change(cpu);
    }
}

fn is_pit(port: u16) -> bool {
    matches!(port, pit::PORT_BASE..=0x43 | pit::PORT_SPEAKER)
}

fn offset_in(base: Option<u64>, size: u64, addr: u64) -> Option<u64> {
    addr.checked_sub(base?).filter(|offset| *offset < size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const APIC: u64 = apic::DEFAULT_BASE;
    const IOAPIC: u64 = ioapic::DEFAULT_BASE;

    struct Rig {
        chip: Irqchip,
        now: u64,
    }

    impl Rig {
        fn new(cpus: usize) -> Self {
            let mut rig = Self { chip: Irqchip::new(cpus).unwrap(), now: 0 };
            for cpu in 0..cpus {
                rig.write(cpu, 0xf0, 0x1ff);
            }
            rig
        }

        fn write(&mut self, cpu: usize, offset: u64, value: u32) {
            assert!(self.chip.mmio_write(cpu, APIC + offset, &value.to_le_bytes(), self.now));
        }

        fn read(&mut self, cpu: usize, offset: u64) -> u32 {
            let mut data = [0; 4];
            assert!(self.chip.mmio_read(cpu, APIC + offset, &mut data, self.now));
            u32::from_le_bytes(data)
        }

        fn redirect(&mut self, pin: u32, entry: u64) {
            for (index, half) in [(1, (entry >> 32) as u32), (0, entry as u32)] {
                let index = 0x10 + 2 * pin + index;
                assert!(self.chip.mmio_write(0, IOAPIC, &index.to_le_bytes(), self.now));
                assert!(self.chip.mmio_write(0, IOAPIC + 0x10, &half.to_le_bytes(), self.now));
            }
        }

        fn redirection(&mut self, pin: u32) -> u32 {
            let mut data = [0; 4];
            self.chip.mmio_write(0, IOAPIC, &(0x10 + 2 * pin).to_le_bytes(), self.now);
            self.chip.mmio_read(0, IOAPIC + 0x10, &mut data, self.now);
            u32::from_le_bytes(data)
        }

        fn out(&mut self, port: u16, value: u8) {
            assert!(self.chip.pio_write(port, &[value], self.now));
        }

        fn set_up_pics(&mut self) {
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
                self.out(port, value);
            }
        }
    }

    #[test]
    fn a_level_line_interrupts_until_it_falls() {
        let mut rig = Rig::new(1);
        rig.redirect(9, 0x8051);
        rig.chip.set_line(9, true).unwrap();
        assert!(rig.chip.take_changed().contains(0));
        assert_eq!(rig.chip.acknowledge(0), Some(0x51));
        assert_eq!(rig.chip.acknowledge(0), None);
        assert_eq!(rig.redirection(9), 0xc051);
        rig.write(0, 0xb0, 0);
        assert_eq!(rig.chip.acknowledge(0), Some(0x51), "still asserted at the EOI");
        rig.chip.set_line(9, false).unwrap();
        rig.write(0, 0xb0, 0);
        assert_eq!(rig.chip.acknowledge(0), None);
        assert_eq!(rig.redirection(9), 0x8051);
    }

    #[test]
    fn the_8259_interrupts_by_lint0_in_virtual_wire_mode() {
        let mut rig = Rig::new(2);
        rig.set_up_pics();
        rig.chip.set_line(4, true).unwrap();
        assert!(rig.chip.interrupt_pending(0) && !rig.chip.interrupt_pending(1));
        assert_eq!(rig.chip.acknowledge(0), Some(0x34));
        assert!(!rig.chip.interrupt_pending(0));
        rig.write(0, 0x350, 0x1_0700);
        rig.out(0x20, 0x20);
        rig.chip.set_line(8, true).unwrap();
        assert!(!rig.chip.interrupt_pending(0), "LINT0 is masked");
        rig.write(0, 0x350, 0x700);
        assert_eq!(rig.chip.acknowledge(0), Some(0x38));
    }

    #[test]
    fn an_ext_int_message_asks_the_8259_once() {
        let mut rig = Rig::new(2);
        rig.set_up_pics();
        rig.write(0, 0x350, 0x1_0700);
        rig.chip.set_line(3, true).unwrap();
        rig.redirect(16, 1 << 56 | 0x700);
        rig.chip.set_line(16, true).unwrap();
        assert_eq!(rig.chip.acknowledge(1), Some(0x33));
        assert_eq!((rig.chip.acknowledge(1), rig.chip.acknowledge(0)), (None, None));
    }

    #[test]
    fn the_interval_timer_is_pin_2_and_irq_0() {
        let mut rig = Rig::new(1);
        rig.redirect(2, 0x41);
        rig.set_up_pics();
        for (port, value) in [(0x43, 0x34), (0x40, 0xe8), (0x40, 0x03)] {
            rig.out(port, value);
        }
        let due = rig.chip.next_deadline(0).unwrap();
        rig.chip.tick(due - 1);
        assert!(!rig.chip.interrupt_pending(0));
        rig.chip.tick(due);
        assert_eq!(rig.chip.acknowledge(0), Some(0x30), "the 8259 pair comes first");
        assert_eq!(rig.chip.acknowledge(0), Some(0x41));
        assert!((837_000..839_000).contains(&(rig.chip.next_deadline(0).unwrap() - due)), "1000 ticks");
    }

    #[test]
    fn a_timer_that_nobody_hears_sets_no_deadline() {
        let mut rig = Rig::new(1);
        rig.set_up_pics();
        for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 0)] {
            rig.out(port, value);
        }
        assert!(rig.chip.next_deadline(0).is_some());
        rig.out(0x21, 0xff);
        assert_eq!(rig.chip.next_deadline(0), None);
        rig.now = 1_000_000_000;
        rig.out(0x21, 0xfe);
        assert_eq!(rig.chip.acknowledge(0), Some(0x30), "the edge was latched behind the mask");
    }

    #[test]
    fn inter_processor_interrupts() {
        let mut rig = Rig::new(3);
        let _ = rig.chip.take_changed();
        rig.write(0, 0x310, 2 << 24);
        rig.write(0, 0x300, 0x4061);
        assert_eq!(rig.chip.take_changed(), CpuSet::one(2));
        assert_eq!(rig.chip.acknowledge(2), Some(0x61));
        rig.write(1, 0x300, 0xc_4062);
        assert_eq!(
            [0, 1, 2].map(|cpu| rig.chip.interrupt_pending(cpu)),
            [true, false, false],
            "2 serves 0x61"
        );
        rig.write(2, 0xb0, 0);
        assert!(rig.chip.interrupt_pending(2));
        rig.write(1, 0x300, 0x4_4063);
        assert_eq!(rig.chip.acknowledge(1), Some(0x63));
        rig.write(0, 0x310, 1 << 24);
        rig.write(0, 0x300, 0x4500);
        rig.write(0, 0x300, 0x8500);
        rig.write(0, 0x300, 0x4609);
        assert_eq!(rig.chip.take_signal(1), Some(Signal::Init));
        assert_eq!(rig.read(1, 0xf0), 0xff, "the APIC was reset");
        assert_eq!(rig.chip.take_signal(1), Some(Signal::StartUp(9)));
        assert_eq!(rig.chip.take_signal(1), None);
    }

    #[test]
    fn lowest_priority_goes_to_the_idlest_and_round() {
        let mut rig = Rig::new(3);
        for cpu in 0..3 {
            rig.write(cpu, 0xd0, 1 << (24 + cpu));
        }
        rig.write(1, 0x80, 0x20);
        for expected in [0, 2, 0, 2] {
            assert!(rig.chip.signal_msi(0xfee0_7004, 0x4171));
            assert_eq!(rig.chip.acknowledge(expected), Some(0x71));
            rig.write(expected, 0xb0, 0);
        }
        assert!(!rig.chip.signal_msi(0xfee0_8004, 0x4171), "nobody has this logical ID");
    }

    #[test]
    fn x2apic_and_the_tsc_deadline() {
        let mut rig = Rig::new(2);
        let base = APIC | apic::BASE_ENABLE | apic::BASE_X2APIC;
        assert_eq!(rig.chip.msr_write(1, apic::MSR_APIC_BASE, base, 0), Some(Ok(())));
        assert!(!rig.chip.mmio_read(1, APIC + 0x20, &mut [0; 4], 0));
        assert_eq!(rig.chip.msr_read(1, 0x802, 0), Some(Ok(1)));
        assert_eq!(rig.chip.msr_read(1, 0x80d, 0), Some(Ok(2)));
        assert_eq!(rig.chip.msr_write(1, 0x832, 0x4_0055, 0), Some(Ok(())));
        rig.chip.set_tsc_deadline(1, 1234, 500);
        assert_eq!((rig.chip.next_deadline(1), rig.chip.next_deadline(0)), (Some(500), None));
        rig.chip.tick(500);
        assert_eq!(rig.chip.take_changed(), CpuSet::one(1));
        assert_eq!(rig.chip.acknowledge(1), Some(0x55));
        assert_eq!(rig.chip.tsc_deadline(1), 0);
        assert_eq!(rig.chip.msr_write(1, 0x80b, 0, 0), Some(Ok(())));
        assert_eq!(rig.chip.msr_write(1, 0x830, 0x4066, 0), Some(Ok(())));
        assert_eq!(rig.chip.acknowledge(0), Some(0x66));
        assert_eq!(rig.chip.msr_read(0, 0x802, 0), Some(Err(GeneralProtection)));
        assert_eq!(rig.chip.msr_read(0, 0x10, 0), None);
    }

    #[test]
    fn lines_that_do_not_exist() {
        let mut rig = Rig::new(1);
        for gsi in [2, 24, u32::MAX] {
            assert_eq!(rig.chip.set_line(gsi, true).unwrap_err().code(), ErrorCode::IrqLine);
        }
        for cpus in [0, 65] {
            assert_eq!(Irqchip::new(cpus).unwrap_err().code(), ErrorCode::VcpuCount);
        }
        assert_eq!(rig.chip.acknowledge(7), None);
        assert!(!rig.chip.mmio_write(7, APIC, &[0; 4], 0));
        assert!(!rig.chip.pio_write(0x60, &[0], 0));
    }

    #[test]
    fn a_set_of_processors_is_signalled() {
        let mut rig = Rig::new(4);
        let _ = rig.chip.take_changed();
        let mut send = |first, set, vector| rig.chip.signal_set(first, set, DeliveryMode::Fixed, vector);
        assert_eq!(send(1, 0b101, 0x41), 2);
        assert_eq!((send(0, 0b10000, 0x41), send(4, 1, 0x41), send(u32::MAX, u128::MAX, 0x41)), (0, 0, 0));
        assert_eq!(send(0, u128::MAX, 3), 0, "no vector below 16");
        assert_eq!([0, 1, 2, 3].map(|cpu| rig.chip.interrupt_pending(cpu)), [false, true, false, true]);
        assert!(rig.chip.take_changed().contains(3));
    }
}
