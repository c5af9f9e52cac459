//! The console: COM1 and the debug console ports on the guest's side, two queues on the other.
//!
//! The embedder is not called for each byte: it is told once that output waits, and takes all there is when it
//! gets round to it. See `docs/design/acpi.md` for why input waits too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use squib_core::{Clock, Result};
use squib_devices::uart::Uart;

use crate::device::{Action, Device, bytes_from, each_byte};
use crate::irq::{IrqLine, Lines};
use crate::milestones::{Milestones, Watcher};

/// Most bytes of output that wait to be taken. When they are not taken the oldest half is lost.
pub const OUTPUT_CAPACITY: usize = 1 << 20;

/// Most bytes of input that wait for the guest to read them.
pub const INPUT_CAPACITY: usize = 64 << 10;

/// Is told what happens at the console. Called on the thread of the vCPU whose access it was, with no lock held;
/// it may call the [`Console`]. While it does not return the guest waits, which is how an embedder can slow down
/// a guest that prints faster than anybody reads.
pub trait ConsoleListener: Send + Sync {
    /// Output waits: there was none before, or there is as much as there may be.
    fn output(&self);

    /// There is room again after [`Console::send`] took less than it was given.
    fn input_room(&self) {}
}

/// A listener that does nothing, for consoles that are polled.
impl ConsoleListener for () {
    fn output(&self) {}
}

/// The embedder's end of a machine's console.
pub struct Console {
    uart: Mutex<Com1>,
    output: Mutex<Output>,
    listener: Box<dyn ConsoleListener>,
    clock: Arc<dyn Clock>,
}

struct Com1 {
    uart: Uart,
    irq: IrqLine,
    input: VecDeque<u8>,
    /// The embedder had more input than there was room for.
    refused: bool,
    /// Line status reads since the last other access.
    polls: u8,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    lost: u64,
    watcher: Watcher,
}

/// Registers of a UART that matter here, by their offset, and bits in them.
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

/// Reads of the line status, one after another, from which on a guest counts as polling for input: one that
/// transmits reads it once or twice.
const POLLS: u8 = 16;

impl Com1 {
    fn has(&mut self, register: u16, bit: u8) -> bool {
        self.uart.read(register) & bit != 0
    }

    /// Whether the guest wants input: its receive interrupt is on, or it polls. A driver that is still probing
    /// throws away what it receives, so before that input stays in the queue.
    fn listens(&mut self) -> bool {
        let enabled = !self.has(register::LINE_CONTROL, register::DIVISOR_ACCESS)
            && self.has(register::INTERRUPT_ENABLE, register::RECEIVED_ENABLE)
            && self.has(register::MODEM_CONTROL, register::INTERRUPT_GATE);
        enabled || self.polls >= POLLS
    }

    /// Puts back into the queue what the guest has received but not read. Drivers empty the receiver while they
    /// set it up, to be rid of noise on the line; here there is none, and who typed early would miss the beginning.
    fn take_back(&mut self) {
        if self.has(register::LINE_CONTROL, register::DIVISOR_ACCESS)
            || self.has(register::MODEM_CONTROL, register::LOOPBACK)
        {
            return;
        }
        let mut unread = Vec::new();
        while self.has(register::LINE_STATUS, register::DATA_READY) {
            unread.push(self.uart.read(register::DATA));
        }
        unread.into_iter().rev().for_each(|byte| self.input.push_front(byte));
    }

    /// Moves input on as far as the guest takes it, and brings the interrupt line up to date. Returns whether
    /// there is room in a queue that was too small before.
    fn update(&mut self) -> Result<bool> {
        if !self.input.is_empty() && self.uart.room() != 0 && self.listens() {
            while self.uart.room() != 0
                && let Some(byte) = self.input.pop_front()
            {
                self.uart.receive(&[byte]);
            }
        }
        self.irq.set(self.uart.irq())?;
        let room = self.refused && self.input.len() <= INPUT_CAPACITY / 2;
        self.refused &= !room;
        Ok(room)
    }
}

impl Console {
    pub(crate) fn new(
        lines: Lines,
        irq: u32,
        clock: Arc<dyn Clock>,
        listener: Box<dyn ConsoleListener>,
    ) -> Self {
        let irq = IrqLine::new(lines, irq);
        let uart = Com1 { uart: Uart::new(), irq, input: VecDeque::new(), refused: false, polls: 0 };
        Self { uart: Mutex::new(uart), output: Mutex::default(), listener, clock }
    }

    /// Gives the guest input. Any thread. Returns how many bytes it took; when that is not all,
    /// [`ConsoleListener::input_room`] says when to come with the rest.
    ///
    /// # Errors
    /// What the backend says to an interrupt.
    pub fn send(&self, bytes: &[u8]) -> Result<usize> {
        let mut uart = lock(&self.uart);
        let taken = bytes.len().min(INPUT_CAPACITY.saturating_sub(uart.input.len()));
        uart.input.extend(&bytes[..taken]);
        uart.update()?;
        uart.refused = taken < bytes.len();
        Ok(taken)
    }

    /// Takes the output there is. Any thread.
    pub fn take_output(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.output).bytes)
    }

    /// Bytes of output that nobody took in time.
    pub fn lost_output(&self) -> u64 {
        lock(&self.output).lost
    }

    /// What the output has shown so far.
    pub fn milestones(&self) -> Milestones {
        lock(&self.output).watcher.milestones()
    }

    pub(crate) fn put(&self, byte: u8) {
        let mut output = lock(&self.output);
        output.watcher.observe(byte, || self.clock.now_ns());
        let before = output.bytes.len();
        if before >= OUTPUT_CAPACITY {
            output.bytes.drain(..OUTPUT_CAPACITY / 2);
            output.lost += OUTPUT_CAPACITY as u64 / 2;
        }
        output.bytes.push(byte);
        let tell = before == 0 || output.bytes.len() == OUTPUT_CAPACITY;
        drop(output);
        if tell {
            self.listener.output();
        }
    }
}

/// COM1: the 16550's registers.
impl Device for Console {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        let mut uart = lock(&self.uart);
        let value = bytes_from(offset, width, |at| {
            uart.polls =
                if at == u64::from(register::LINE_STATUS) { uart.polls.saturating_add(1) } else { 0 };
            uart.uart.read(at as u16)
        });
        let room = uart.update()?;
        drop(uart);
        if room {
            self.listener.input_room();
        }
        Ok(value)
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        for (at, byte) in each_byte(offset, width, value) {
            let mut uart = lock(&self.uart);
            uart.polls = 0;
            if at == register::FIFO_CONTROL.into() {
                uart.take_back();
            }
            let sent = uart.uart.write(at as u16, byte);
            let room = uart.update()?;
            drop(uart);
            if let Some(byte) = sent {
                self.put(byte);
            }
            if room {
                self.listener.input_room();
            }
        }
        Ok(Action::Continue)
    }
}

/// A thread that panicked leaves registers and queues as sound as any guest could.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
