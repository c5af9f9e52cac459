//! The CMOS clock of a PC on its two ports.

use std::sync::Arc;

use squib_core::{Clock, CoalescedWrites, Result, Waker};
use squib_devices::cmos;
use squib_devices::rtc::Rtc;

use crate::clock::{BoardClock, Registers};
use crate::device::{Action, Device, bytes_from, each_byte};
use crate::irq::IrqLine;

/// The clock and the memory beside it.
pub(crate) type CmosClock = BoardClock<Rtc>;

impl Registers for Rtc {
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

impl CmosClock {
    /// With the size of memory and the number of processors where firmware looks for them.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        waker: Arc<dyn Waker>,
        irq: IrqLine,
        memory_size: u64,
        vcpus: u32,
    ) -> Self {
        let mut rtc = Rtc::new(clock.now_ns(), clock.unix_ns());
        for (index, value) in cmos::contents(memory_size, vcpus) {
            rtc.set_cmos(index, value);
        }
        Self::with_registers(rtc, clock, waker, irq)
    }
}

impl Device for CmosClock {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        self.access(|rtc, now_ns| bytes_from(offset, width, |at| rtc.read(at as u16, now_ns)))
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        self.access(|rtc, now_ns| {
            each_byte(offset, width, value).for_each(|(at, byte)| rtc.write(at as u16, byte, now_ns));
            Action::Continue
        })
    }
}

/// The index port alone.
impl CoalescedWrites for CmosClock {
    fn write(&self, _: u64, _: u8, value: u64) {
        self.change(|rtc| rtc.select(value as u8));
    }
}
