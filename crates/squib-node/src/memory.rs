//! Guest memory for JavaScript.
//!
//! Reads go through `ArrayBuffer`s over guest RAM and do not come here; see `ts/memory.ts`. Writes all do,
//! because the backend must hear of those to code.
#![allow(unsafe_code, reason = "ArrayBuffers over guest RAM")]

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::{BigInt, Uint8Array, Unknown};
use napi_derive::napi;
use squib_core::{ErrorCode, GuestMemory, Region};

use crate::error::{Result, node_api, refuse, thrown};
use crate::number::{whole, word};

/// Most bytes of one `ArrayBuffer`: no supported engine refuses this much.
const WINDOW: u64 = 1 << 30;

/// A run of guest RAM.
#[napi(object, object_from_js = false)]
pub struct MemoryRegion {
    /// Guest-physical address of the first byte.
    pub address: f64,
    /// Length in bytes.
    pub length: f64,
}

/// Part of guest RAM that JavaScript can read without a call.
#[napi(object, object_from_js = false)]
pub struct MemoryWindow {
    /// Guest-physical address of the first byte.
    pub address: f64,
    /// The bytes. For reading only: writes must go through [`NativeMemory`].
    #[napi(ts_type = "ArrayBuffer")]
    pub buffer: Unknown<'static>,
}

/// The RAM of a VM.
#[napi]
pub struct NativeMemory {
    /// Empty after the VM was closed.
    memory: RefCell<Option<Arc<GuestMemory>>>,
}

impl NativeMemory {
    pub(crate) fn new(memory: Arc<GuestMemory>) -> Self {
        Self { memory: RefCell::new(Some(memory)) }
    }

    fn get(&self) -> Result<Arc<GuestMemory>> {
        match &*self.memory.borrow() {
            Some(memory) => Ok(memory.clone()),
            None => refuse(ErrorCode::Closed, "the VM has been closed"),
        }
    }
}

/// A guest-physical address or length. Both fit into the bits that a number keeps exactly; whatever does not is no RAM.
fn address(value: f64) -> Result<u64> {
    whole(value, ErrorCode::MemoryRange)
}

#[napi]
impl NativeMemory {
    /// The regions, ascending.
    #[napi(catch_unwind)]
    pub fn regions(&self) -> Result<Vec<MemoryRegion>> {
        let region = |r: &Region| MemoryRegion { address: r.guest_addr() as f64, length: r.len() as f64 };
        Ok(self.get()?.regions().iter().map(region).collect())
    }

    /// Windows over all RAM, or none where the engine allows no foreign memory. To be called once: two
    /// `ArrayBuffer`s over the same memory are not allowed.
    #[napi(catch_unwind)]
    pub fn windows(&self, env: Env) -> Result<Vec<MemoryWindow>> {
        let memory = self.get()?;
        let mut windows = Vec::new();
        for region in memory.regions() {
            let mut offset = 0;
            while offset < region.len() {
                let len = WINDOW.min(region.len() - offset);
                let start = region.host_ptr().wrapping_add(offset as usize);
                let Some(start) = NonNull::new(start) else {
                    return refuse(ErrorCode::Internal, "guest memory has no address");
                };
                // SAFETY: `start` and `len` lie inside the region, which the memory that the buffer keeps alive
                // owns, and which nothing borrows as a slice.
                let buffer =
                    unsafe { crate::external::array_buffer(env, start, len as usize, memory.clone()) };
                match buffer.map_err(|e| node_api(&e))? {
                    Some(buffer) => {
                        let address = (region.guest_addr() + offset) as f64;
                        windows.push(MemoryWindow { address, buffer });
                    }
                    None => return Ok(Vec::new()),
                }
                offset += len;
            }
        }
        Ok(windows)
    }

    /// Copies `length` bytes out.
    #[napi(catch_unwind)]
    pub fn read(&self, addr: f64, length: f64) -> Result<Uint8Array> {
        let (addr, length) = (address(addr)?, address(length)?);
        // Checked first, so that a wild length allocates nothing.
        let memory = self.get()?;
        if !memory.contains(addr, length) {
            return refuse(
                ErrorCode::MemoryRange,
                format!("guest-physical range {addr:#x}+{length:#x} is not RAM"),
            );
        }
        let mut out = vec![0; length as usize];
        memory.read(addr, &mut out).map_err(|e| thrown(&e))?;
        Ok(out.into())
    }

    /// Copies `data` in.
    #[napi(catch_unwind)]
    pub fn write(&self, addr: f64, data: Uint8Array) -> Result<()> {
        self.get()?.write(address(addr)?, &data).map_err(|e| thrown(&e))
    }

    /// Sets `length` bytes to `byte`.
    #[napi(catch_unwind)]
    pub fn fill(&self, addr: f64, byte: u8, length: f64) -> Result<()> {
        self.get()?.fill(address(addr)?, byte, address(length)?).map_err(|e| thrown(&e))
    }

    /// Writes the low `width` (1, 2 or 4) bytes of `value`, little-endian.
    #[napi(catch_unwind)]
    pub fn set_number(&self, addr: f64, width: u32, value: u32) -> Result<()> {
        let bytes = value.to_le_bytes();
        let Some(bytes) = bytes.get(..width as usize) else {
            return refuse(ErrorCode::AccessWidth, format!("a number has 1, 2 or 4 bytes, not {width}"));
        };
        self.get()?.write(address(addr)?, bytes).map_err(|e| thrown(&e))
    }

    /// Writes 8 bytes, little-endian.
    #[napi(catch_unwind)]
    pub fn set_bigint(&self, addr: f64, value: BigInt) -> Result<()> {
        let bytes = word(&value, ErrorCode::InvalidArgument)?.to_le_bytes();
        self.get()?.write(address(addr)?, &bytes).map_err(|e| thrown(&e))
    }
    /// Lets go of the RAM, and takes it away from these windows, which must be all. Without that it would stay
    /// until JavaScript collects its garbage.
    #[napi(catch_unwind)]
    pub fn close(
        &self,
        env: Env,
        #[napi(ts_arg_type = "ArrayBuffer[]")] windows: Vec<Unknown>,
    ) -> Result<()> {
        self.memory.borrow_mut().take();
        for window in windows {
            crate::external::detach(env, window).map_err(|e| node_api(&e))?;
        }
        Ok(())
    }
}
