//! The test device on a machine's buses.

use std::sync::{Arc, Mutex, PoisonError};

use squib_core::Result;
use squib_devices::test_device::{LINE_COUNT, LINES, MEMORY, MEMORY_SIZE, REGISTERS, Registers};

use crate::bus::{Bus, Target};
use crate::device::{Action, Device, bytes_from, each_byte};
use crate::irq::Lines;

struct Plain(Mutex<Registers>);

impl Plain {
    fn target(len: usize) -> Target {
        Target::Device(Arc::new(Self(Mutex::new(Registers::new(len)))))
    }
}

impl Device for Plain {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        let registers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(bytes_from(offset, width, |at| registers.read(at)))
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        let mut registers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        each_byte(offset, width, value).for_each(|(at, byte)| registers.write(at, byte));
        Ok(Action::Continue)
    }
}

struct LinePorts(Lines);

impl Device for LinePorts {
    fn read(&self, _: u64, _: u8) -> Result<u64> {
        Ok(0)
    }

    fn write(&self, offset: u64, _: u8, value: u64) -> Result<Action> {
        // A line that does not exist has nothing at its other end.
        let _ = u32::try_from(offset).map(|gsi| self.0.set(gsi, value != 0));
        Ok(Action::Continue)
    }
}

/// Puts the device on these buses.
///
/// # Errors
/// [`ErrorCode::DeviceOverlap`](squib_core::ErrorCode::DeviceOverlap) where something is there.
pub(crate) fn map(lines: &Lines, ports: &Bus, memory: &Bus) -> Result<()> {
    for (first, count) in REGISTERS {
        ports.map("test registers", first.into(), count.into(), Plain::target(count.into()))?;
    }
    // A write of 32 bits to the last line reaches three ports further.
    let line_ports = u64::from(LINE_COUNT) + 3;
    let lines = Target::Device(Arc::new(LinePorts(lines.clone())));
    ports.map("test interrupt lines", LINES.into(), line_ports, lines)?;
    memory.map("test memory", MEMORY, MEMORY_SIZE, Plain::target(MEMORY_SIZE as usize))
}
