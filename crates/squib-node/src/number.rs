//! Numbers from JavaScript.

use napi::bindgen_prelude::BigInt;
use squib_core::ErrorCode;

use crate::error::{Result, refuse};

/// The largest number up to which JavaScript's numbers are exact, 2^53 - 1.
const MAX_SAFE: f64 = 9_007_199_254_740_991.0;

/// A whole number that JavaScript keeps exactly.
///
/// # Errors
/// `code` for any other.
pub(crate) fn whole(value: f64, code: ErrorCode) -> Result<u64> {
    if (0.0..=MAX_SAFE).contains(&value) && value.trunc() == value {
        return Ok(value as u64);
    }
    refuse(code, format!("{value} is not a whole number from 0 to 2^53 - 1"))
}

/// `value` where it is at most `max`. What is negative arrives as a number that is too large.
///
/// # Errors
/// `InvalidArgument` for any other.
pub(crate) fn small(value: u32, max: u32, what: &str) -> Result<u32> {
    if value <= max {
        return Ok(value);
    }
    refuse(ErrorCode::InvalidArgument, format!("{what} must be a whole number from 0 to {max}"))
}

/// A bigint from 0 to 2^64 - 1.
///
/// # Errors
/// `code` for any other.
pub(crate) fn word(value: &BigInt, code: ErrorCode) -> Result<u64> {
    match value.get_u64() {
        (_, word, true) => Ok(word),
        _ => refuse(code, "the value must be a bigint from 0 to 2^64 - 1"),
    }
}

/// A bigint from 0 to 2^128 - 1.
///
/// # Errors
/// `InvalidArgument` for any other.
pub(crate) fn long_word(value: &BigInt) -> Result<u128> {
    match (value.sign_bit, value.words.as_slice()) {
        (false, []) => Ok(0),
        (false, [low]) => Ok((*low).into()),
        (false, [low, high]) => Ok(u128::from(*high) << 64 | u128::from(*low)),
        _ => refuse(ErrorCode::InvalidArgument, "the value must be a bigint from 0 to 2^128 - 1"),
    }
}
