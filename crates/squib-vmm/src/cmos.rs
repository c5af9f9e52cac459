//! The CMOS clock on the board: its two ports, its interrupt line, and when that is due.

use std::sync::{Arc, Mutex, PoisonError};

use squib_core::{Clock, Result, Waker};
use squib_devices::cmos;
use squib_devices::rtc::Rtc;

use crate::device::{Action, Device, bytes_from, each_byte};
use crate::irq::IrqLine;
use crate::machine::Timekeeper;

/// The clock. Its interrupts come from the guest's accesses and from [`Timekeeper::tick`], which somebody calls in time.
pub(crate) struct CmosClock {
    clock: Arc<dyn Clock>,
    /// Told when the next interrupt is due at another time than before.
    waker: Arc<dyn Waker>,
    state: Mutex<State>,
}

struct State {
    rtc: Rtc,
    irq: IrqLine,
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
        Self { clock, waker, state: Mutex::new(State { rtc, irq }) }
    }

    fn access<T>(&self, access: impl FnOnce(&mut Rtc, u64) -> T) -> Result<T> {
        let before = self.lock().rtc.next_deadline();
        let (result, deadline) = self.with(access)?;
        if deadline != before {
            self.waker.wake();
        }
        Ok(result)
    }

    /// Lets `access` have the registers now, brings the line up to date, and says when the next interrupt is due.
    fn with<T>(&self, access: impl FnOnce(&mut Rtc, u64) -> T) -> Result<(T, Option<u64>)> {
        let mut state = self.lock();
        let State { rtc, irq } = &mut *state;
        let now_ns = self.clock.now_ns();
        let result = access(rtc, now_ns);
        rtc.advance(now_ns);
        irq.set(rtc.irq())?;
        Ok((result, rtc.next_deadline()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A thread that panicked leaves registers as sound as any guest could.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timekeeper for CmosClock {
    fn tick(&self) -> Result<Option<u64>> {
        self.with(|_, _| ()).map(|(_, deadline)| deadline)
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
