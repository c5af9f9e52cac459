//! Writes whose effect can wait.

/// Registers that are only written, and whose effect nobody sees before the guest's next access to the device.
pub trait CoalescedWrites: Send + Sync {
    /// Takes a write of `width` bytes, 1 to 8, at `addr`; bits of `value` above them are zero. Writes come in their order, on the
    /// thread of a vCPU, and further exits wait meanwhile: so nothing here may run a vCPU.
    fn write(&self, addr: u64, width: u8, value: u64);
}
