//! Interrupts that any thread raises.

use crate::{Error, ErrorCode, Result};

/// What an [`InterruptTrigger`] raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InterruptSource {
    /// A pulse on this interrupt line, as [`Vm::set_irq_line`](crate::Vm::set_irq_line) numbers them: for lines that the guest
    /// has as edge-triggered.
    Line(u32),
    /// A message-signalled interrupt, as [`Vm::signal_msi`](crate::Vm::signal_msi) takes it.
    Message {
        /// Where it is written.
        address: u64,
        /// What is written.
        data: u32,
    },
}

/// Message data, bit 15: level-triggered (Intel SDM vol. 3, 11.11.2).
const LEVEL_TRIGGERED: u32 = 1 << 15;

impl InterruptSource {
    /// Refuses what nobody would ever take back.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] for a level-triggered message.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Message { data, .. } if data & LEVEL_TRIGGERED != 0 => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("message {data:#x} is level-triggered, and a trigger is an edge: clear bit 15"),
            )),
            _ => Ok(()),
        }
    }
}

/// Raises one interrupt, from any thread and without the VM's locks. It keeps no VM alive, and raises nothing once the VM has gone.
pub trait InterruptTrigger: Send + Sync {
    /// Raises it. The guest may see several as one, as with any edge that is latched already.
    fn trigger(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_an_edge() {
        let message = |data| InterruptSource::Message { address: 0xfee0_0000, data }.check();
        assert_eq!(message(0xc041).unwrap_err().code(), ErrorCode::InvalidArgument);
        message(0x4041).unwrap();
        InterruptSource::Line(u32::MAX).check().unwrap();
    }
}
