//! `ArrayBuffer`s over memory that Rust owns.
#![allow(
    unsafe_code,
    reason = "an ArrayBuffer over foreign memory can only be made through the raw Node-API"
)]

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use napi::bindgen_prelude::{FromNapiValue, JsValue, Unknown};
use napi::{Env, check_status, sys};

/// An `ArrayBuffer` over `len` bytes at `data`, or `None` where this JavaScript engine allows none over
/// foreign memory (one with a memory cage, as in Electron). The buffer keeps `owner` until it is collected
/// or detached.
///
/// # Safety
/// The bytes must stay valid as long as `owner` lives, and must never be borrowed as a Rust slice: JavaScript
/// reads and writes them at any time.
pub(crate) unsafe fn array_buffer<T: Send + 'static>(
    env: Env,
    data: NonNull<u8>,
    len: usize,
    owner: T,
) -> napi::Result<Option<Unknown<'static>>> {
    let hint = Box::into_raw(Box::new(owner));
    let mut value = null_mut();
    // SAFETY: the environment is alive, as we are called from it; `hint` is a leaked box of the type that
    // `release` frees.
    let status = unsafe {
        sys::napi_create_external_arraybuffer(
            env.raw(),
            data.as_ptr().cast(),
            len,
            Some(release::<T>),
            hint.cast(),
            &mut value,
        )
    };
    if status != sys::Status::napi_ok {
        // SAFETY: no buffer was made, so `release` will not run; the box is ours again.
        drop(unsafe { Box::from_raw(hint) });
        if status == sys::Status::napi_no_external_buffers_allowed {
            return Ok(None);
        }
    }
    check_status!(status, "cannot make an ArrayBuffer over guest memory")?;
    // SAFETY: `value` is a live handle of this environment's current scope.
    unsafe { Unknown::from_napi_value(env.raw(), value) }.map(Some)
}

/// Takes its memory away from an `ArrayBuffer`, whose owner is let go soon.
pub(crate) fn detach(env: Env, buffer: Unknown<'_>) -> napi::Result<()> {
    // SAFETY: the environment and the handle are of the call that we are in; what is no `ArrayBuffer` is refused.
    let status = unsafe { sys::napi_detach_arraybuffer(env.raw(), buffer.raw()) };
    check_status!(status, "cannot detach an ArrayBuffer")
}

extern "C" fn release<T>(_env: sys::napi_env, _data: *mut c_void, hint: *mut c_void) {
    // SAFETY: `hint` is the box leaked by `array_buffer` for this buffer, and Node-API calls this once.
    drop(unsafe { Box::from_raw(hint.cast::<T>()) });
}
