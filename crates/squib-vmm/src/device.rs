//! What the bus talks to: devices in Rust, and the caller of the run for everything outside.

use squib_core::Result;

/// What a device wants of the run loop after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing: the guest goes on.
    Continue,
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset of the system.
    Reset,
    /// The guest ends the run with this status, by the debug-exit port.
    DebugExit(u32),
}

/// A device in Rust.
///
/// Any vCPU thread calls it, and several may at once, so a device guards its own registers. The bus holds
/// no lock meanwhile: a device may map, unmap and raise interrupts.
///
/// `offset` counts from the first address of the mapping. `width` is 1 to 8 bytes (ports: 1, 2 or 4), and the
/// access lies wholly inside the mapping. Values are little-endian numbers of that width.
pub trait Device: Send + Sync {
    /// Answers a read. Bits above `8 * width` are ignored.
    ///
    /// # Errors
    /// Any error ends the run; the guest's read completes with all bits set.
    fn read(&self, offset: u64, width: u8) -> Result<u64>;

    /// Takes a write. Bits of `value` above `8 * width` are zero.
    ///
    /// # Errors
    /// Any error ends the run; the guest's write counts as done.
    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action>;
}

/// What waiting for an interrupt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Time has passed or somebody woke us: try to run the guest.
    Resume,
    /// This thread cannot wait; [`Stop::Halted`](crate::Stop::Halted) goes back to the caller, who runs the
    /// vCPU again when woken or when the deadline has come.
    Return,
}

/// Who runs a vCPU: it answers for the devices outside of Rust, and waits while the guest is idle.
///
/// A direct call into JavaScript, a call by way of another thread's event loop, and a WebAssembly import are
/// implementations of this trait.
pub trait Host {
    /// Answers a read of the device mapped as [`Target::External`](crate::Target::External)`(device)`; as
    /// [`Device::read`].
    ///
    /// # Errors
    /// As [`Device::read`].
    fn read(&mut self, device: u32, offset: u64, width: u8) -> Result<u64>;

    /// Takes a write to an external device; as [`Device::write`].
    ///
    /// # Errors
    /// As [`Device::write`].
    fn write(&mut self, device: u32, offset: u64, width: u8, value: u64) -> Result<Action>;

    /// The guest waits for an interrupt. Returns when [`Waker::wake`](squib_core::Waker::wake) was called since
    /// the last call, or when the VM's clock has come to `deadline_ns`; early is harmless.
    fn idle(&mut self, deadline_ns: Option<u64>) -> Idle;
}

/// A read of registers that are a byte wide, as a bus of that width splits it: `byte` gives the one at an offset.
pub(crate) fn bytes_from(offset: u64, width: u8, mut byte: impl FnMut(u64) -> u8) -> u64 {
    (0..u64::from(width)).fold(0, |value, i| value | u64::from(byte(offset + i)) << (8 * i))
}

/// A write to registers that are a byte wide: offsets and bytes, in order.
pub(crate) fn each_byte(offset: u64, width: u8, value: u64) -> impl Iterator<Item = (u64, u8)> {
    (0..u64::from(width)).map(move |i| (offset + i, (value >> (8 * i)) as u8))
}

/// A read of registers that are words of 4 bytes, as a bus of that width splits it: `word` gives the one at an offset, a
/// multiple of 4. It touches two at most, so of 8 bytes that are not aligned the last are missing.
pub(crate) fn words_from(offset: u64, width: u8, mut word: impl FnMut(u64) -> u32) -> u64 {
    let (first, shift) = (offset & !3, offset % 4 * 8);
    let low = u64::from(word(first)) >> shift;
    let taken = 32 - shift;
    if u64::from(width) * 8 <= taken {
        return low;
    }
    low | u64::from(word(first + 4)) << taken
}

/// A write to registers that are words of 4 bytes: offsets and words, in order. One that begins within a word is lost: such a bus
/// has no wires for it.
pub(crate) fn each_word(offset: u64, width: u8, value: u64) -> impl Iterator<Item = (u64, u32)> {
    let words = if offset.is_multiple_of(4) { u64::from(width).div_ceil(4) } else { 0 };
    (0..words).map(move |i| (offset + 4 * i, (value >> (32 * i)) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_part_and_in_pairs() {
        let word = |at: u64| (0x1111_1111 * (at as u32 / 4 + 1)) & 0xf0ff_ffff;
        let read =
            |offset, width: u8| words_from(offset, width, word) & (u64::MAX >> (64 - 8 * u32::from(width)));
        assert_eq!(read(0, 4), 0x1011_1111);
        assert_eq!(read(3, 1), 0x10);
        assert_eq!(read(6, 2), 0x2022);
        assert_eq!(read(4, 8), 0x3033_3333_2022_2222);
        let mut reads = Vec::new();
        words_from(8, 2, |at| {
            reads.push(at);
            0
        });
        assert_eq!(reads, [8], "a read touches no register beside it");
    }

    #[test]
    fn words_are_written_whole() {
        let written = |offset, width, value| each_word(offset, width, value).collect::<Vec<_>>();
        assert_eq!(written(4, 8, 0x2222_2222_1111_1111), [(4, 0x1111_1111), (8, 0x2222_2222)]);
        assert_eq!(written(4, 1, 0x41), [(4, 0x41)]);
        assert_eq!(written(5, 1, 0x41), []);
    }
}
