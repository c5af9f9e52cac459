//! The board's I/O APIC, for backends that host only local APICs ([`IrqchipKind::Split`](squib_core::IrqchipKind)).

use std::sync::{Arc, Mutex, PoisonError};

use squib_core::{Error, ErrorCode, Result, Vm};
use squib_devices::ioapic::{Ioapic, PINS};
use squib_devices::message::InterruptMessage;

use crate::device::{Action, Device};

/// An I/O APIC whose messages go to the backend's local APICs. As a [`Device`] it is its registers.
pub(crate) struct IoApic {
    vm: Arc<dyn Vm>,
    registers: Mutex<Ioapic>,
}

impl IoApic {
    pub(crate) fn new(vm: Arc<dyn Vm>) -> Self {
        Self { vm, registers: Mutex::default() }
    }

    /// Sets the level of line `pin`.
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`] when there is no such line, and what the backend says to the interrupt.
    pub(crate) fn set_line(&self, pin: u32, level: bool) -> Result<()> {
        Self::check_line(pin)?;
        self.with(|registers, mut send| registers.set_line(pin, level, &mut send))
    }

    /// Says whether there is line `pin`.
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`] when there is not.
    pub(crate) fn check_line(pin: u32) -> Result<()> {
        if pin >= PINS {
            let message = format!("there is no interrupt line {pin}: the I/O APIC has 0 to {}", PINS - 1);
            return Err(Error::new(ErrorCode::IrqLine, message));
        }
        Ok(())
    }

    /// A local APIC has ended level-triggered interrupt `vector`.
    ///
    /// # Errors
    /// What the backend says to the interrupt of a line that is still asserted.
    pub(crate) fn end_of_interrupt(&self, vector: u8) -> Result<()> {
        self.with(|registers, mut send| registers.end_of_interrupt(vector, &mut send))
    }

    /// Lets `change` have the registers, and sends its messages to the backend.
    fn with(&self, change: impl FnOnce(&mut Ioapic, &mut dyn FnMut(InterruptMessage) -> bool)) -> Result<()> {
        let mut sent = Ok(());
        // The lock is held while messages go out, so that they go in the order of the lines' changes.
        let mut registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut registers, &mut |message| {
            let (address, data) = message.to_msi();
            let result = self.vm.signal_msi(address, data);
            let accepted = result.is_ok();
            sent = std::mem::replace(&mut sent, Ok(())).and(result);
            accepted
        });
        sent
    }
}

impl Device for IoApic {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        let mut bytes = [0; 8];
        let registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        registers.mmio_read(offset, &mut bytes[..usize::from(width).min(8)]);
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        let bytes = value.to_le_bytes();
        let data = &bytes[..usize::from(width).min(8)];
        self.with(|registers, mut send| registers.mmio_write(offset, data, &mut send))?;
        Ok(Action::Continue)
    }
}

#[cfg(test)]
mod tests {
    use squib_core::{GuestMemory, Vcpu};

    use super::*;
    use crate::irq::Lines;

    /// A backend that notes messages, and fails when there are more than two.
    #[derive(Default)]
    struct Messages(Mutex<Vec<(u64, u32)>>);

    impl Vm for Messages {
        fn memory(&self) -> &Arc<GuestMemory> {
            unreachable!("an I/O APIC does not touch memory")
        }

        fn create_vcpu(&self, _: u32) -> Result<Box<dyn Vcpu>> {
            unreachable!("nor make processors")
        }

        fn set_irq_line(&self, _: u32, _: bool) -> Result<()> {
            unreachable!("nor use another one's lines")
        }

        fn signal_msi(&self, address: u64, data: u32) -> Result<()> {
            let mut messages = self.0.lock().unwrap();
            if messages.len() == 2 {
                return Err(Error::new(ErrorCode::Hypervisor, "full"));
            }
            messages.push((address, data));
            Ok(())
        }
    }

    fn redirect(io_apic: &IoApic, pin: u64, entry: u64) {
        for (index, half) in [(0x10 + 2 * pin, entry), (0x11 + 2 * pin, entry >> 32)] {
            io_apic.write(0, 4, index).unwrap();
            io_apic.write(0x10, 4, half & 0xffff_ffff).unwrap();
        }
    }

    #[test]
    fn a_level_interrupt_comes_again_after_its_end() {
        let vm = Arc::new(Messages::default());
        let io_apic = IoApic::new(vm.clone());
        redirect(&io_apic, 5, 1 << 56 | 1 << 15 | 0x41);
        io_apic.set_line(5, true).unwrap();
        io_apic.end_of_interrupt(0x42).unwrap();
        assert_eq!(*vm.0.lock().unwrap(), [(0xfee0_1000, 0xc041)]);
        io_apic.end_of_interrupt(0x41).unwrap();
        assert_eq!(vm.0.lock().unwrap().len(), 2);
        assert_eq!(io_apic.read(0x10, 4).unwrap(), 1 << 24, "the entry's high half");
        io_apic.write(0, 4, 0x1a).unwrap();
        assert_eq!(io_apic.read(0x10, 4).unwrap(), 0xc041, "with remote IRR");
        assert_eq!(io_apic.end_of_interrupt(0x41).unwrap_err().code(), ErrorCode::Hypervisor);
    }

    #[test]
    fn a_trigger_pulses_its_line_as_long_as_there_is_a_board() {
        let vm = Arc::new(Messages::default());
        let io_apic = Arc::new(IoApic::new(vm.clone()));
        redirect(&io_apic, 5, 1 << 56 | 0x41);
        let lines = Lines::Board(io_apic);
        let trigger = lines.trigger(5).unwrap();
        trigger.trigger();
        trigger.trigger();
        assert_eq!(*vm.0.lock().unwrap(), [(0xfee0_1000, 0x41); 2]);
        assert_eq!(lines.trigger(24).err().unwrap().code(), ErrorCode::IrqLine);
        drop(lines);
        trigger.trigger();
        assert_eq!(vm.0.lock().unwrap().len(), 2);
    }

    #[test]
    fn there_are_24_lines() {
        let io_apic = IoApic::new(Arc::new(Messages::default()));
        assert!(io_apic.set_line(23, true).is_ok());
        assert_eq!(io_apic.set_line(24, true).unwrap_err().code(), ErrorCode::IrqLine);
    }
}
