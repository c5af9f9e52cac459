//! A clock on the board: its registers, its interrupt line, and when that is due.

use std::sync::{Arc, Mutex, PoisonError};

use squib_core::{Clock, Result, Waker};

use crate::irq::IrqLine;
use crate::machine::Timekeeper;

/// The registers of a clock that interrupts.
pub(crate) trait Registers: Send {
    /// Lets time pass until `now_ns`, on the machine's clock.
    fn advance(&mut self, now_ns: u64);
    /// Whether the interrupt is raised.
    fn irq(&self) -> bool;
    /// When the next interrupt is due, on the machine's clock.
    fn next_deadline(&self) -> Option<u64>;
}

/// The clock. Its interrupts come from the guest's accesses and from [`Timekeeper::tick`], which somebody calls in time.
pub(crate) struct BoardClock<R> {
    clock: Arc<dyn Clock>,
    /// Told when the next interrupt is due at another time than before.
    waker: Arc<dyn Waker>,
    state: Mutex<State<R>>,
}

struct State<R> {
    registers: R,
    irq: IrqLine,
}

impl<R: Registers> BoardClock<R> {
    /// The clock with these registers, on `irq`.
    pub(crate) fn with_registers(
        registers: R,
        clock: Arc<dyn Clock>,
        waker: Arc<dyn Waker>,
        irq: IrqLine,
    ) -> Self {
        Self { clock, waker, state: Mutex::new(State { registers, irq }) }
    }

    /// Lets a guest's access have the registers now.
    pub(crate) fn access<T>(&self, access: impl FnOnce(&mut R, u64) -> T) -> Result<T> {
        let (result, before, deadline) = self.with(access)?;
        // A deadline that is no more concerns nobody.
        if deadline.is_some() && deadline != before {
            self.waker.wake();
        }
        Ok(result)
    }

    /// Lets `change` have the registers, where nothing that depends on time comes of it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut R)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).registers);
    }

    /// Lets `access` have the registers now, brings the line up to date, and says when the next interrupt was due
    /// before, and is.
    fn with<T>(&self, access: impl FnOnce(&mut R, u64) -> T) -> Result<(T, Option<u64>, Option<u64>)> {
        // A thread that panicked leaves registers as sound as any guest could.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { registers, irq } = &mut *state;
        let (before, now_ns) = (registers.next_deadline(), self.clock.now_ns());
        let result = access(registers, now_ns);
        registers.advance(now_ns);
        irq.set(registers.irq())?;
        Ok((result, before, registers.next_deadline()))
    }
}

impl<R: Registers> Timekeeper for BoardClock<R> {
    fn tick(&self) -> Result<Option<u64>> {
        self.with(|_, _| ()).map(|(.., deadline)| deadline)
    }
}
