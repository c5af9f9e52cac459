//! There is no bare loop on KVM to compare with where there is no KVM, or guests of x86 do not run on it.

use crate::Result;
use crate::guest::Access;

/// A guest that cannot be made.
pub(crate) enum Bare {}

impl Bare {
    pub(crate) fn new(_: &Access) -> Result<Self> {
        Err("the bare loop runs on x86-64 Linux".into())
    }

    pub(crate) fn with_ioeventfd(access: &Access) -> Result<Self> {
        Self::new(access)
    }

    pub(crate) fn with_coalescing(access: &Access) -> Result<Self> {
        Self::new(access)
    }

    pub(crate) fn looked_at_round(&mut self, _: u16) -> Result<f64> {
        match *self {}
    }

    pub(crate) fn round(&mut self, _: u16) -> Result<f64> {
        match *self {}
    }
}
