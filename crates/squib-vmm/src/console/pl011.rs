//! The serial port of an aarch64 board, a PL011.

use std::collections::VecDeque;

use squib_devices::pl011::{Pl011, register};

use super::{POLLS, SerialPort};
use crate::device::{each_word, words_from};

/// A PL011.
#[derive(Default)]
pub(crate) struct Pl011Port {
    uart: Pl011,
    /// Reads of the flags since the last other access.
    polls: u8,
}

impl SerialPort for Pl011Port {
    fn read(&mut self, offset: u64, width: u8) -> u64 {
        words_from(offset, width, |at| {
            self.polls = if at == register::FLAGS { self.polls.saturating_add(1) } else { 0 };
            self.uart.read(at)
        })
    }

    fn write(&mut self, offset: u64, width: u8, value: u64, input: &mut VecDeque<u8>) -> Option<u8> {
        self.polls = 0;
        each_word(offset, width, value).fold(None, |sent, (at, word)| {
            let listened = self.uart.interrupts_on_receive();
            let sends = self.uart.write(at, word);
            // A driver that shuts the port, or sets it up anew, empties the receiver to be rid of noise; here there is none, and
            // who typed early would miss the beginning.
            if listened && !self.uart.interrupts_on_receive() {
                self.uart.take_unread().rev().for_each(|byte| input.push_front(byte));
            }
            sent.or(sends)
        })
    }

    fn listens(&mut self) -> bool {
        self.uart.interrupts_on_receive() || self.polls >= POLLS
    }

    fn room(&self) -> usize {
        self.uart.room()
    }

    fn receive(&mut self, byte: u8) {
        self.uart.receive(byte);
    }

    fn irq(&self) -> bool {
        self.uart.irq()
    }
}
