//! Errors on their way to JavaScript: an `Error` object whose `code` is squib's, or a value with that code
//! where a promise carries it. `ts/errors.ts` makes classes of both.

use napi_derive::napi;
use squib_core::{Error, ErrorCode};

/// A result whose error JavaScript sees as an `Error` with a `code`.
pub type Result<T> = napi::Result<T, Code>;

/// An [`ErrorCode`] in the place where napi keeps its own status, which becomes the property `code`.
#[derive(Debug, Clone, Copy)]
pub struct Code(ErrorCode);

impl AsRef<str> for Code {
    fn as_ref(&self) -> &str {
        self.0.as_str()
    }
}

impl From<napi::Status> for Code {
    fn from(_: napi::Status) -> Self {
        Self(ErrorCode::Internal)
    }
}

/// An error for JavaScript.
pub(crate) fn thrown(error: &Error) -> napi::Error<Code> {
    napi::Error::new(Code(error.code()), error.to_string())
}

/// An error with this code and message for JavaScript.
pub(crate) fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T> {
    Err(thrown(&Error::new(code, message)))
}

/// A failed Node-API call, which only a defect or a dying environment can cause.
pub(crate) fn node_api(error: &napi::Error) -> napi::Error<Code> {
    napi::Error::new(Code(ErrorCode::Internal), format!("a Node-API call failed: {}", error.reason))
}

/// An error as a promise carries it.
#[napi(object, object_from_js = false)]
pub struct ErrorValue {
    /// The stable code, beginning with `ERR_`.
    pub code: String,
    /// What was wrong and what to do.
    pub message: String,
}

impl From<&Error> for ErrorValue {
    fn from(error: &Error) -> Self {
        Self { code: error.code().as_str().into(), message: error.to_string() }
    }
}

/// The stable codes of all errors.
#[napi]
pub fn error_codes() -> Vec<&'static str> {
    ErrorCode::ALL.iter().map(|code| code.as_str()).collect()
}
