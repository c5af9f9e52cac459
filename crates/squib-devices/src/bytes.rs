//! Registers to and from the bytes of an access.

/// Copies `src` to the start of `dst` as far as both reach.
pub(crate) fn copy_prefix(dst: &mut [u8], src: &[u8]) {
    for (d, s) in dst.iter_mut().zip(src) {
        *d = *s;
    }
}

/// Fills `data` with the little-endian bytes of `value` and zeros behind them.
pub(crate) fn put(data: &mut [u8], value: u64) {
    data.fill(0);
    copy_prefix(data, &value.to_le_bytes());
}
