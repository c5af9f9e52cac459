//! From a device's interrupt output to the VM's interrupt controllers.

use std::sync::{Arc, Weak};

use squib_core::{InterruptSource, InterruptTrigger, Result, Vm};

use crate::io_apic::IoApic;

/// Where the board's interrupt lines end.
#[derive(Clone)]
pub(crate) enum Lines {
    /// In the backend's controllers.
    Backend(Arc<dyn Vm>),
    /// In the board's.
    Board(Arc<IoApic>),
}

impl Lines {
    /// Sets the level of line `gsi`.
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`](squib_core::ErrorCode::IrqLine) when there is none, and what the backend says.
    pub(crate) fn set(&self, gsi: u32, level: bool) -> Result<()> {
        match self {
            Self::Backend(vm) => vm.set_irq_line(gsi, level),
            Self::Board(io_apic) => io_apic.set_line(gsi, level),
        }
    }

    /// What pulses line `gsi`.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(crate) fn trigger(&self, gsi: u32) -> Result<Arc<dyn InterruptTrigger>> {
        match self {
            Self::Backend(vm) => vm.interrupt_trigger(InterruptSource::Line(gsi)),
            Self::Board(io_apic) => {
                IoApic::check_line(gsi)?;
                Ok(Arc::new(Pulse { io_apic: Arc::downgrade(io_apic), gsi }))
            }
        }
    }
}

/// Pulses a line of the board's I/O APIC.
struct Pulse {
    io_apic: Weak<IoApic>,
    gsi: u32,
}

impl InterruptTrigger for Pulse {
    fn trigger(&self) {
        let Some(io_apic) = self.io_apic.upgrade() else { return };
        // There is such a line, and a message that the backend does not take is nobody's.
        let _ = io_apic.set_line(self.gsi, true);
        let _ = io_apic.set_line(self.gsi, false);
    }
}

/// One line, held by the device that drives it.
pub(crate) struct IrqLine {
    lines: Lines,
    gsi: u32,
    level: bool,
}

impl IrqLine {
    pub(crate) fn new(lines: Lines, gsi: u32) -> Self {
        Self { lines, gsi, level: false }
    }

    /// Sets the level. Costs nothing when it is that already.
    pub(crate) fn set(&mut self, level: bool) -> Result<()> {
        if level != self.level {
            self.lines.set(self.gsi, level)?;
            self.level = level;
        }
        Ok(())
    }
}
