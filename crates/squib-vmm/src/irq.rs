//! A device's interrupt output.

use std::sync::Arc;

use squib_core::{Result, Vm};

/// One line into the VM's interrupt controllers, held by the device that drives it.
pub(crate) struct IrqLine {
    vm: Arc<dyn Vm>,
    gsi: u32,
    level: bool,
}

impl IrqLine {
    pub(crate) fn new(vm: Arc<dyn Vm>, gsi: u32) -> Self {
        Self { vm, gsi, level: false }
    }

    /// Sets the level. Costs nothing when it is that already.
    pub(crate) fn set(&mut self, level: bool) -> Result<()> {
        if level != self.level {
            self.vm.set_irq_line(self.gsi, level)?;
            self.level = level;
        }
        Ok(())
    }
}
