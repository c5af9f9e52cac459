//! The board's smaller devices at ports: their register models, and what comes of a write.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use squib_core::{CoalescedWrites, Result};
use squib_devices::acpi_pm::{AcpiPm, PowerAction};
use squib_devices::i8042::{I8042, I8042Action};
use squib_devices::pvpanic::PanicEvent;
use squib_devices::{debug_exit, debug_port, pvpanic};

use crate::console::Console;
use crate::device::{Action, Device, bytes_from, each_byte};

/// A thread that panicked leaves registers as sound as any guest could.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first of the actions, if any, that the bytes of a write call for.
fn first(actions: impl Iterator<Item = Option<Action>>) -> Result<Action> {
    // Every byte is written, whatever comes of the first.
    Ok(actions.fold(None, Option::or).unwrap_or(Action::Continue))
}

/// A debug console: a byte written appears on the console, without any handshake.
pub(crate) struct DebugConsole(pub(crate) Arc<Console>);

impl Device for DebugConsole {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(debug_port::PRESENT.into())
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        each_byte(offset, width, value).for_each(|(_, byte)| self.0.put(byte));
        Ok(Action::Continue)
    }
}

/// Debug exit: a write ends the run.
pub(crate) struct DebugExit;

impl Device for DebugExit {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(0)
    }

    fn write(&self, _: u64, _: u8, value: u64) -> Result<Action> {
        Ok(Action::DebugExit(debug_exit::status(&value.to_le_bytes())))
    }
}

/// ACPI sleep and reset registers.
#[derive(Default)]
pub(crate) struct PowerControl(Mutex<AcpiPm>);

impl Device for PowerControl {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        let registers = lock(&self.0);
        Ok(bytes_from(offset, width, |at| registers.read(at as u16)))
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        let mut registers = lock(&self.0);
        first(each_byte(offset, width, value).map(|(at, byte)| {
            registers.write(at as u16, byte).map(|action| match action {
                PowerAction::PowerOff => Action::PowerOff,
                PowerAction::Reset => Action::Reset,
            })
        }))
    }
}

/// One port of the keyboard controller. Nothing is plugged in, so what remains is the reset line; address line 20 is
/// always open.
pub(crate) struct KeyboardController {
    pub(crate) registers: Arc<Mutex<I8042>>,
    pub(crate) port: u16,
}

impl Device for KeyboardController {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(lock(&self.registers).read(self.port).into())
    }

    fn write(&self, _: u64, _: u8, value: u64) -> Result<Action> {
        Ok(match lock(&self.registers).write(self.port, value as u8) {
            Some(I8042Action::Reset) => Action::Reset,
            Some(I8042Action::A20(_)) | None => Action::Continue,
        })
    }
}

/// pvpanic: remembers that the guest's kernel has panicked.
#[derive(Default)]
pub(crate) struct Pvpanic(AtomicBool);

impl Pvpanic {
    pub(crate) fn panicked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Device for Pvpanic {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(pvpanic::SUPPORTED.into())
    }

    fn write(&self, _: u64, _: u8, value: u64) -> Result<Action> {
        match pvpanic::event(value as u8) {
            // The reset comes later, or never; what `panic=` on the kernel's command line says.
            Some(PanicEvent::Panicked) => self.0.store(true, Ordering::Relaxed),
            Some(PanicEvent::Shutdown) => return Ok(Action::PowerOff),
            Some(PanicEvent::CrashLoaded) | None => {}
        }
        Ok(Action::Continue)
    }
}

/// The port where firmware tells how far it has come, and to which Linux writes to let a little time pass.
#[derive(Default)]
pub(crate) struct PostCode(AtomicU8);

impl Device for PostCode {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(self.0.load(Ordering::Relaxed).into())
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        CoalescedWrites::write(self, offset, width, value);
        Ok(Action::Continue)
    }
}

impl CoalescedWrites for PostCode {
    fn write(&self, _: u64, _: u8, value: u64) {
        self.0.store(value as u8, Ordering::Relaxed);
    }
}
