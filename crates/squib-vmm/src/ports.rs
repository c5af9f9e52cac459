//! The board's smallest devices: ports without a register model worth the name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use squib_core::Result;

use crate::console::Console;
use crate::device::{Action, Device, bytes_from, each_byte};
use crate::platform;

/// What a read of Bochs' debug console gives, by which software sees that it is there.
const DEBUG_CONSOLE_HERE: u64 = 0xe9;

/// A debug console: a byte written appears on the console, without any handshake.
pub(crate) struct DebugConsole(pub(crate) Arc<Console>);

impl Device for DebugConsole {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(DEBUG_CONSOLE_HERE)
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
        // A port is at most 4 bytes wide.
        Ok(Action::DebugExit(value as u32))
    }
}

/// SLP_EN of the sleep control register (ACPI 6.5, table 4.20). The sleep type is in bits 4:2.
const SLEEP_ENABLE: u8 = 1 << 5;

/// ACPI sleep control, sleep status and reset register, a byte each.
pub(crate) struct PowerControl;

impl Device for PowerControl {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(0)
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        const CONTROL: u64 = 0;
        const RESET: u64 = (platform::RESET - platform::SLEEP_CONTROL) as u64;
        let power_off = SLEEP_ENABLE | platform::SLEEP_TYPE_S5 << 2;
        Ok(each_byte(offset, width, value)
            .find_map(|write| match write {
                (CONTROL, value) if value & 0x3c == power_off => Some(Action::PowerOff),
                (RESET, platform::RESET_VALUE) => Some(Action::Reset),
                _ => None,
            })
            .unwrap_or(Action::Continue))
    }
}

/// pvpanic (QEMU, docs/specs/pvpanic): the guest's kernel says that it has panicked.
#[derive(Default)]
pub(crate) struct Pvpanic {
    panicked: AtomicBool,
}

/// The guest panicked and is about to reset or to hang.
const PANICKED: u8 = 1 << 0;
/// The guest panicked and is about to run its crash kernel.
const CRASH_LOADED: u8 = 1 << 1;

impl Pvpanic {
    pub(crate) fn panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }
}

impl Device for Pvpanic {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        Ok(bytes_from(offset, width, |_| PANICKED | CRASH_LOADED))
    }

    fn write(&self, _: u64, _: u8, value: u64) -> Result<Action> {
        if value & u64::from(PANICKED) != 0 {
            self.panicked.store(true, Ordering::Relaxed);
        }
        Ok(Action::Continue)
    }
}
