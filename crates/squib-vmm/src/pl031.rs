//! The clock of the board for aarch64: a PL031.

use std::sync::Arc;

use squib_core::{Clock, Result, Waker};
use squib_devices::pl031::Pl031;

use crate::clock::{BoardClock, Registers};
use crate::device::{Action, Device, each_word, words_from};
use crate::irq::IrqLine;

/// The clock.
pub(crate) type Pl031Clock = BoardClock<Pl031>;

impl Registers for Pl031 {
    fn advance(&mut self, now_ns: u64) {
        Self::advance(self, now_ns);
    }

    fn irq(&self) -> bool {
        Self::irq(self)
    }

    fn next_deadline(&self) -> Option<u64> {
        Self::next_deadline(self)
    }
}

impl Pl031Clock {
    pub(crate) fn new(clock: Arc<dyn Clock>, waker: Arc<dyn Waker>, irq: IrqLine) -> Self {
        let registers = Pl031::new(clock.now_ns(), clock.unix_ns());
        Self::with_registers(registers, clock, waker, irq)
    }
}

impl Device for Pl031Clock {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        self.access(|registers, now_ns| words_from(offset, width, |at| registers.read(at, now_ns)))
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        self.access(|registers, now_ns| {
            each_word(offset, width, value).for_each(|(at, word)| registers.write(at, word, now_ns));
            Action::Continue
        })
    }
}
