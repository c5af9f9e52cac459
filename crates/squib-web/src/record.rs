//! The record by which a device access crosses into JavaScript and its answer comes back: eight 32-bit words, laid
//! out as in `ts/device.ts`.

use std::cell::Cell;

use squib_core::{Error, ErrorCode, Result};

const DEVICE: usize = 0;
const VCPU: usize = 1;
/// Width in bytes, plus [`WRITE`] for a write.
const ACCESS: usize = 2;
const OFFSET: usize = 3;
const VALUE: usize = 5;
/// What JavaScript made of it: [`ANSWERED`] or anything else.
const STATUS: usize = 7;

const WRITE: u32 = 1 << 8;
const ANSWERED: u32 = 1;

/// The words. JavaScript reads and writes them while it answers, so each is a cell.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct Record([Cell<u32>; 8]);

impl Record {
    /// Puts an access by the only vCPU down for JavaScript: a write of `value`, or a read.
    pub(crate) fn ask(&self, device: u32, offset: u64, width: u8, value: Option<u64>) {
        let flag = if value.is_some() { WRITE } else { 0 };
        let value = value.unwrap_or(0);
        self.0[DEVICE].set(device);
        self.0[VCPU].set(0);
        self.0[ACCESS].set(u32::from(width) | flag);
        self.0[OFFSET].set(offset as u32);
        self.0[OFFSET + 1].set((offset >> 32) as u32);
        self.0[VALUE].set(value as u32);
        self.0[VALUE + 1].set((value >> 32) as u32);
        self.0[STATUS].set(0);
    }

    /// What JavaScript answered: the value read, or anything for a write.
    ///
    /// # Errors
    /// [`ErrorCode::DeviceFailed`] when the device did; TypeScript has kept what it threw.
    pub(crate) fn answer(&self) -> Result<u64> {
        if self.0[STATUS].get() != ANSWERED {
            return Err(Error::new(ErrorCode::DeviceFailed, "a device failed"));
        }
        Ok(u64::from(self.0[VALUE].get()) | u64::from(self.0[VALUE + 1].get()) << 32)
    }

    /// Where JavaScript finds the words.
    pub(crate) fn address(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_laid_out_as_typescript_reads_it() {
        let record = Record::default();
        record.ask(7, 0x1_0000_0002, 4, Some(0xaabb_ccdd_1122_3344));
        let words: Vec<u32> = record.0.iter().map(Cell::get).collect();
        assert_eq!(words, [7, 0, 0x104, 2, 1, 0x1122_3344, 0xaabb_ccdd, 0]);
    }

    #[test]
    fn only_an_answered_record_has_an_answer() {
        let record = Record::default();
        record.ask(1, 0, 8, None);
        assert_eq!(record.answer().unwrap_err().code(), ErrorCode::DeviceFailed);
        record.0[VALUE].set(2);
        record.0[VALUE + 1].set(1);
        record.0[STATUS].set(ANSWERED);
        assert_eq!(record.answer().unwrap(), 0x1_0000_0002);
    }
}
