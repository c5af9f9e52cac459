//! A PC's first serial port, a 16550.

use std::collections::VecDeque;

use squib_devices::uart::Uart;

use super::{POLLS, SerialPort};
use crate::device::{bytes_from, each_byte};

/// Registers that matter here, by their offset, and bits in them.
mod register {
    pub(super) const DATA: u16 = 0;
    pub(super) const INTERRUPT_ENABLE: u16 = 1;
    pub(super) const RECEIVED_ENABLE: u8 = 1 << 0;
    pub(super) const FIFO_CONTROL: u16 = 2;
    pub(super) const LINE_CONTROL: u16 = 3;
    pub(super) const DIVISOR_ACCESS: u8 = 1 << 7;
    pub(super) const MODEM_CONTROL: u16 = 4;
    pub(super) const INTERRUPT_GATE: u8 = 1 << 3;
    pub(super) const LOOPBACK: u8 = 1 << 4;
    pub(super) const LINE_STATUS: u16 = 5;
    pub(super) const DATA_READY: u8 = 1 << 0;
}

/// COM1.
#[derive(Default)]
pub(crate) struct Com1 {
    uart: Uart,
    /// Line status reads since the last other access.
    polls: u8,
}

impl Com1 {
    fn has(&mut self, register: u16, bit: u8) -> bool {
        self.uart.read(register) & bit != 0
    }

    /// Puts back what the guest has received but not read. Drivers empty the receiver while they
    /// set it up, to be rid of noise on the line; here there is none, and who typed early would miss the beginning.
    fn take_back(&mut self, input: &mut VecDeque<u8>) {
        if self.has(register::LINE_CONTROL, register::DIVISOR_ACCESS)
            || self.has(register::MODEM_CONTROL, register::LOOPBACK)
        {
            return;
        }
        let mut unread = Vec::new();
        while self.has(register::LINE_STATUS, register::DATA_READY) {
            unread.push(self.uart.read(register::DATA));
        }
        unread.into_iter().rev().for_each(|byte| input.push_front(byte));
    }
}

impl SerialPort for Com1 {
    fn read(&mut self, offset: u64, width: u8) -> u64 {
        bytes_from(offset, width, |at| {
            self.polls =
                if at == u64::from(register::LINE_STATUS) { self.polls.saturating_add(1) } else { 0 };
            self.uart.read(at as u16)
        })
    }

    fn write(&mut self, offset: u64, width: u8, value: u64, input: &mut VecDeque<u8>) -> Option<u8> {
        self.polls = 0;
        each_byte(offset, width, value).fold(None, |sent, (at, byte)| {
            if at == register::FIFO_CONTROL.into() {
                self.take_back(input);
            }
            sent.or(self.uart.write(at as u16, byte))
        })
    }

    fn listens(&mut self) -> bool {
        let enabled = !self.has(register::LINE_CONTROL, register::DIVISOR_ACCESS)
            && self.has(register::INTERRUPT_ENABLE, register::RECEIVED_ENABLE)
            && self.has(register::MODEM_CONTROL, register::INTERRUPT_GATE);
        enabled || self.polls >= POLLS
    }

    fn room(&self) -> usize {
        self.uart.room()
    }

    fn receive(&mut self, byte: u8) {
        self.uart.receive(&[byte]);
    }

    fn irq(&self) -> bool {
        self.uart.irq()
    }
}
