//! The clock of the board for aarch64: a PL031, its interrupt line, and when that is due.

use std::sync::{Arc, Mutex, PoisonError};

use squib_core::{Clock, Result, Waker};
use squib_devices::pl031::Pl031;

use crate::device::{Action, Device, each_word, words_from};
use crate::irq::IrqLine;
use crate::machine::Timekeeper;

/// The clock. Its interrupts come from the guest's accesses and from [`Timekeeper::tick`], which somebody calls in time.
pub(crate) struct Pl031Clock {
    clock: Arc<dyn Clock>,
    /// Told when the next interrupt is due at another time than before.
    waker: Arc<dyn Waker>,
    state: Mutex<State>,
}

struct State {
    registers: Pl031,
    irq: IrqLine,
}

impl Pl031Clock {
    pub(crate) fn new(clock: Arc<dyn Clock>, waker: Arc<dyn Waker>, irq: IrqLine) -> Self {
        let registers = Pl031::new(clock.now_ns(), clock.unix_ns());
        Self { clock, waker, state: Mutex::new(State { registers, irq }) }
    }

    /// Lets `access` have the registers now, brings the line up to date, and tells the waker of a new deadline.
    fn with<T>(&self, access: impl FnOnce(&mut Pl031, u64) -> T) -> Result<(T, Option<u64>)> {
        // A thread that panicked leaves registers as sound as any guest could.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { registers, irq } = &mut *state;
        let (before, now_ns) = (registers.next_deadline(), self.clock.now_ns());
        let result = access(registers, now_ns);
        irq.set(registers.irq())?;
        let deadline = registers.next_deadline();
        drop(state);
        // An earlier time, or a new one; one that has passed concerns nobody.
        if deadline.is_some() && deadline != before {
            self.waker.wake();
        }
        Ok((result, deadline))
    }
}

impl Timekeeper for Pl031Clock {
    fn tick(&self) -> Result<Option<u64>> {
        self.with(Pl031::advance).map(|((), deadline)| deadline)
    }
}

impl Device for Pl031Clock {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        let read = |registers: &mut Pl031, now_ns| words_from(offset, width, |at| registers.read(at, now_ns));
        self.with(read).map(|(value, _)| value)
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        let write = |registers: &mut Pl031, now_ns| {
            each_word(offset, width, value).for_each(|(at, word)| registers.write(at, word, now_ns));
        };
        self.with(write).map(|_| Action::Continue)
    }
}
