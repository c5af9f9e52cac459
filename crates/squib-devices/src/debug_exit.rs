//! Debug exit port: a write ends the run (QEMU documentation, `isa-debug-exit`).

/// Its port.
pub const PORT: u16 = 0xf4;

/// The status with which the run ends after a write of `data`, 1, 2 or 4 bytes (further ones are ignored):
/// twice the value and one, so never 0, modulo 2³².
pub fn status(data: &[u8]) -> u32 {
    let mut value = [0; 4];
    crate::bytes::copy_prefix(&mut value, data);
    u32::from_le_bytes(value) << 1 | 1
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn every_width() {
        assert_eq!(status(&[0]), 1);
        assert_eq!(status(&[0x10]), 0x21);
        assert_eq!(status(&[0x34, 0x12]), 0x2469);
        assert_eq!(status(&[0xff; 4]), u32::MAX);
        assert_eq!(status(&[0xff; 9]), u32::MAX);
        assert_eq!(status(&[]), 1);
    }
}
