//! The exits bench's guest for Node: what scripts/bench-devices.mjs puts beside devices in TypeScript.

mod guest;

use napi_derive::napi;
use squib_core::HypervisorBackend;
use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;

use guest::{Guest, PORT_READ};

/// An error to print. A bench has no caller that would tell errors apart.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The port-read guest, with a device in Rust.
#[napi]
pub struct RustDevice(Guest);

#[napi]
impl RustDevice {
    /// The guest on backend `kvm`, or else on `soft`.
    #[napi(constructor)]
    pub fn new(backend: String) -> napi::Result<Self> {
        let create = || -> Result<Guest> {
            let backend: Box<dyn HypervisorBackend> = match backend.as_str() {
                "kvm" => Box::new(KvmBackend::open()?),
                _ => Box::new(SoftBackend::default()),
            };
            Guest::new(&*backend, &PORT_READ, |_, _| Ok(None))
        };
        create().map(Self).map_err(|e| napi::Error::from_reason(e.to_string()))
    }

    /// Nanoseconds of one of `count` exits.
    #[napi]
    pub fn round(&mut self, count: u16) -> napi::Result<f64> {
        self.0.round(count).map_err(|e| napi::Error::from_reason(e.to_string()))
    }
}
