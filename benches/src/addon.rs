//! The exits bench's guests for Node: what scripts/bench-devices.mjs puts beside devices in TypeScript.

#[cfg_attr(not(all(target_os = "linux", target_arch = "x86_64")), path = "no_kvm.rs")]
#[expect(dead_code, reason = "the bench's program has more rows")]
mod bare_kvm;
mod guest;

use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use squib_core::HypervisorBackend;
use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;

use bare_kvm::Bare;
use guest::{ACCESSES, Access, Guest};

/// An error to print. A bench has no caller that would tell errors apart.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn in_js<T>(result: Result<T>) -> napi::Result<T> {
    result.map_err(|e| napi::Error::from_reason(e.to_string()))
}

/// The code of the access with this name.
fn access(name: &str) -> Result<&'static Access> {
    let found = ACCESSES.iter().find(|(known, _)| *known == name);
    found.map(|(_, access)| access).ok_or_else(|| format!("no access is called {name}").into())
}

/// The names of the accesses.
#[napi]
pub fn accesses() -> Vec<String> {
    ACCESSES.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// The code of a guest.
#[napi]
pub fn code_of(name: String) -> napi::Result<Uint8Array> {
    in_js(access(&name).map(|access| access.0.into()))
}

/// A guest with a device in Rust.
#[napi]
pub struct RustDevice(Guest);

#[napi]
impl RustDevice {
    /// The guest on backend `kvm`, or else on `soft`.
    #[napi(constructor)]
    pub fn new(backend: String, name: String) -> napi::Result<Self> {
        let create = || -> Result<Guest> {
            let backend: Box<dyn HypervisorBackend> = match backend.as_str() {
                "kvm" => Box::new(KvmBackend::open()?),
                _ => Box::new(SoftBackend::default()),
            };
            Guest::new(&*backend, access(&name)?, |_, _| Ok(None))
        };
        in_js(create().map(Self))
    }

    /// Nanoseconds of one of `count` exits.
    #[napi]
    pub fn round(&mut self, count: u16) -> napi::Result<f64> {
        in_js(self.0.round(count))
    }
}

/// A guest on KVM in a loop on bare kvm-ioctls.
#[napi]
pub struct BareLoop(Bare);

#[napi]
impl BareLoop {
    /// The guest; with `ioeventfd`, the kernel takes its writes.
    #[napi(constructor)]
    pub fn new(name: String, ioeventfd: bool) -> napi::Result<Self> {
        let create = if ioeventfd { Bare::with_ioeventfd } else { Bare::new };
        in_js(access(&name).and_then(create).map(Self))
    }

    /// Nanoseconds of one of `count` exits.
    #[napi]
    pub fn round(&mut self, count: u16) -> napi::Result<f64> {
        in_js(self.0.round(count))
    }
}
