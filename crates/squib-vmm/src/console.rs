//! The console: a UART, and on a PC the debug console ports, on the guest's side; two queues on the other.
//!
//! The embedder is not called for each byte: it is told once that output waits, and takes all there is when it
//! gets round to it. See `docs/design/acpi.md` for why input waits too.

mod com1;
mod pl011;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use squib_core::{Clock, Result};

use crate::device::{Action, Device};
use crate::irq::IrqLine;
pub(crate) use com1::Com1;
pub(crate) use pl011::Pl011Port;

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
    line: Mutex<Line>,
    output: Mutex<Output>,
    listener: Box<dyn ConsoleListener>,
    clock: Arc<dyn Clock>,
}

/// A UART on the guest's side of the console.
pub(crate) trait SerialPort: Send {
    /// Answers a read, as [`Device::read`].
    fn read(&mut self, offset: u64, width: u8) -> u64;

    /// Takes a write, as [`Device::write`], and returns the byte that the guest sends by it. What the guest has received
    /// and would lose by it unread goes back to the front of `input`.
    fn write(&mut self, offset: u64, width: u8, value: u64, input: &mut VecDeque<u8>) -> Option<u8>;

    /// Whether the guest wants input: an interrupt tells it of input, or it polls. A driver that is still probing throws away
    /// what it receives, so before that input stays in the queue.
    fn listens(&mut self) -> bool;

    /// How many bytes it takes now.
    fn room(&self) -> usize;

    /// Gives it a byte.
    fn receive(&mut self, byte: u8);

    /// Whether its interrupt output is active.
    fn irq(&self) -> bool;
}

/// Reads of the status, one after another, from which on a guest counts as polling for input: one that transmits reads it
/// once or twice.
const POLLS: u8 = 16;

/// A port, its interrupt and its input.
struct Line {
    port: Box<dyn SerialPort>,
    irq: IrqLine,
    input: VecDeque<u8>,
    /// The embedder had more input than there was room for.
    refused: bool,
}

impl Line {
    /// Moves input on as far as the guest takes it, and brings the interrupt line up to date. Returns whether
    /// there is room in a queue that was too small before.
    fn update(&mut self) -> Result<bool> {
        if !self.input.is_empty() && self.port.room() != 0 && self.port.listens() {
            while self.port.room() != 0
                && let Some(byte) = self.input.pop_front()
            {
                self.port.receive(byte);
            }
        }
        self.irq.set(self.port.irq())?;
        let room = self.refused && self.input.len() <= INPUT_CAPACITY / 2;
        self.refused &= !room;
        Ok(room)
    }
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    lost: u64,
    watcher: Watcher,
}

impl Console {
    pub(crate) fn new(
        port: Box<dyn SerialPort>,
        irq: IrqLine,
        clock: Arc<dyn Clock>,
        listener: Box<dyn ConsoleListener>,
    ) -> Self {
        let line = Line { port, irq, input: VecDeque::new(), refused: false };
        Self { line: Mutex::new(line), output: Mutex::default(), listener, clock }
    }

    /// Gives the guest input. Any thread. Returns how many bytes it took; when that is not all,
    /// [`ConsoleListener::input_room`] says when to come with the rest.
    ///
    /// # Errors
    /// What the backend says to an interrupt.
    pub fn send(&self, bytes: &[u8]) -> Result<usize> {
        let mut line = lock(&self.line);
        let taken = bytes.len().min(INPUT_CAPACITY.saturating_sub(line.input.len()));
        line.input.extend(&bytes[..taken]);
        line.update()?;
        line.refused = taken < bytes.len();
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

/// The port's registers.
impl Device for Console {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        let mut line = lock(&self.line);
        let value = line.port.read(offset, width);
        let room = line.update()?;
        drop(line);
        if room {
            self.listener.input_room();
        }
        Ok(value)
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        let mut guard = lock(&self.line);
        let line = &mut *guard;
        let sent = line.port.write(offset, width, value, &mut line.input);
        let room = line.update()?;
        drop(guard);
        if let Some(byte) = sent {
            self.put(byte);
        }
        if room {
            self.listener.input_room();
        }
        Ok(Action::Continue)
    }
}

/// A thread that panicked leaves registers and queues as sound as any guest could.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
