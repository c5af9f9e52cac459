//! The device that kvm-unit-tests' programs expect on a PC, beside the [debug exit](crate::debug_exit): plain registers
//! at ports and addresses to make accesses to, and ports that drive interrupt lines (QEMU, `pc-testdev`).

/// Ports that read back what was written: first and count. Those from 0xe4 on ask hypervisors to drop a page of theirs,
/// which is nothing here.
pub const REGISTERS: [(u16, u16); 3] = [(0xe0, 4), (0xe4, 4), (0xe8, 1)];
/// A write to port `LINES + n` sets interrupt line `n`: asserted unless the value is zero.
pub const LINES: u16 = 0x2000;
/// How many lines there are.
pub const LINE_COUNT: u16 = 24;
/// Memory that reads back what was written.
pub const MEMORY: u64 = 0xff00_0000;
/// Its length in bytes.
pub const MEMORY_SIZE: u64 = 0x1_0000;

/// Registers that are a byte wide and do nothing but keep their value. Those beyond the end read as ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers(Box<[u8]>);

impl Registers {
    /// `len` of them, zero.
    pub fn new(len: usize) -> Self {
        Self(vec![0; len].into())
    }

    /// Reads one.
    pub fn read(&self, offset: u64) -> u8 {
        usize::try_from(offset).ok().and_then(|at| self.0.get(at).copied()).unwrap_or(0xff)
    }

    /// Writes one.
    pub fn write(&mut self, offset: u64, value: u8) {
        if let Some(byte) = usize::try_from(offset).ok().and_then(|at| self.0.get_mut(at)) {
            *byte = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Registers;

    #[test]
    fn registers_keep_their_values() {
        let mut r = Registers::new(4);
        r.write(3, 7);
        r.write(4, 9);
        r.write(u64::MAX, 9);
        assert_eq!([0, 3, 4, u64::MAX].map(|at| r.read(at)), [0, 7, 0xff, 0xff]);
    }
}
