//! The record by which a device access crosses into JavaScript and its answer comes back.
//!
//! Eight 32-bit words in a `Uint32Array` that TypeScript made: the call itself then needs no argument and no
//! result, and an access allocates nothing. `ts/device.ts` has the other half of this layout.
#![allow(unsafe_code, reason = "the record is memory that JavaScript reads and writes too")]

use std::ptr::NonNull;
use std::sync::Arc;

use napi::bindgen_prelude::Uint32Array;
use squib_core::{Error, ErrorCode};

use crate::error::{Result, refuse};

/// Words of the record.
const WORDS: usize = 8;
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

/// An access to a device in JavaScript.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) vcpu: u32,
    pub(crate) device: u32,
    pub(crate) offset: u64,
    pub(crate) width: u8,
    /// The value written; `None` for a read.
    pub(crate) value: Option<u64>,
}

/// The words, which it keeps alive. Touched only on the JavaScript thread.
#[derive(Clone)]
pub(crate) struct Record {
    first: NonNull<u32>,
    _words: Arc<Uint32Array>,
}

// SAFETY: the pointer travels to other threads inside callbacks, but is only used where those run, which is the
// JavaScript thread.
unsafe impl Send for Record {}

impl Record {
    /// The record in `array`, which TypeScript never detaches.
    pub(crate) fn new(mut array: Uint32Array) -> Result<Self> {
        // SAFETY: the slice ends here; from now on the words are only reached through the raw pointer.
        let words = unsafe { array.as_mut() };
        match NonNull::new(words.as_mut_ptr()) {
            Some(first) if words.len() == WORDS => Ok(Self { first, _words: Arc::new(array) }),
            _ => refuse(ErrorCode::Internal, format!("the access record must have {WORDS} words")),
        }
    }

    fn set(&self, word: usize, value: u32) {
        debug_assert!(word < WORDS);
        // SAFETY: `new` has checked that there are `WORDS` words, and every index here is a constant below that.
        unsafe { self.first.add(word).write_volatile(value) }
    }

    fn get(&self, word: usize) -> u32 {
        debug_assert!(word < WORDS);
        // SAFETY: as in `set`.
        unsafe { self.first.add(word).read_volatile() }
    }

    /// Puts `access` down for JavaScript.
    pub(crate) fn ask(&self, access: Access) {
        let (flag, value) = access.value.map_or((0, 0), |value| (WRITE, value));
        self.set(DEVICE, access.device);
        self.set(VCPU, access.vcpu);
        self.set(ACCESS, u32::from(access.width) | flag);
        self.set(OFFSET, access.offset as u32);
        self.set(OFFSET + 1, (access.offset >> 32) as u32);
        self.set(VALUE, value as u32);
        self.set(VALUE + 1, (value >> 32) as u32);
        self.set(STATUS, 0);
    }

    /// What JavaScript answered: the value read, or anything for a write.
    ///
    /// # Errors
    /// `DeviceFailed` when the device did; TypeScript has kept what it threw.
    pub(crate) fn answer(&self) -> squib_core::Result<u64> {
        if self.get(STATUS) != ANSWERED {
            return Err(Error::new(ErrorCode::DeviceFailed, "a device failed"));
        }
        Ok(u64::from(self.get(VALUE)) | u64::from(self.get(VALUE + 1)) << 32)
    }
}
