//! Doorbells: registers whose write is only an event.

use crate::{Error, ErrorCode, Result};

/// The address spaces that a guest reaches devices by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressSpace {
    /// The 65,536 I/O ports of x86.
    Ports,
    /// Guest-physical memory.
    Memory,
}

/// Which writes ring a doorbell: those of exactly this width at exactly this address, and where there is a value,
/// only of this value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DoorbellRegister {
    space: AddressSpace,
    addr: u64,
    width: u8,
    value: Option<u64>,
}

impl DoorbellRegister {
    /// A register of `width` bytes (1, 2, 4 or 8; at a port 1, 2 or 4) at `addr`, a multiple of the width. With a `value`, of no
    /// more bits than the register has, only writes of that value ring.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when that is no register, or no value of it.
    pub fn new(space: AddressSpace, addr: u64, width: u8, value: Option<u64>) -> Result<Self> {
        let (widest, last) = match space {
            AddressSpace::Ports => (4, 0xffff),
            AddressSpace::Memory => (8, u64::MAX),
        };
        let refuse = |why: String| Err(Error::new(ErrorCode::InvalidArgument, why));
        if !width.is_power_of_two() || width > widest {
            return refuse(format!("a doorbell has 1, 2, 4 or 8 bytes, at a port at most 4, not {width}"));
        }
        if addr > last || !addr.is_multiple_of(width.into()) {
            return refuse(format!(
                "a doorbell of {width} bytes cannot be at {addr:#x}: it must be aligned, up to {last:#x}"
            ));
        }
        if let Some(value) = value.filter(|value| *value > u64::MAX >> (64 - 8 * u32::from(width))) {
            return refuse(format!(
                "no write of {width} bytes has the value {value:#x}, so the doorbell would never ring"
            ));
        }
        Ok(Self { space, addr, width, value })
    }

    /// Where the address is.
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// Its address.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// Bytes of a write that rings.
    pub fn width(&self) -> u8 {
        self.width
    }

    /// The only value that rings, if not all do.
    pub fn value(&self) -> Option<u64> {
        self.value
    }

    /// Its last address.
    pub fn last(&self) -> u64 {
        // It is aligned, so this does not leave the address space.
        self.addr + u64::from(self.width - 1)
    }

    /// Whether a write of `width` bytes rings it; bits of `value` above them are zero.
    #[inline]
    pub fn rings(&self, addr: u64, width: u8, value: u64) -> bool {
        (self.addr, self.width) == (addr, width) && self.value.is_none_or(|only| only == value)
    }

    /// Whether some write would ring both.
    pub fn conflicts(&self, other: &Self) -> bool {
        let same = (self.space, self.addr, self.width) == (other.space, other.addr, other.width);
        same && (self.value.is_none() || other.value.is_none() || self.value == other.value)
    }
}

/// Who hears a doorbell.
pub trait Doorbell: Send + Sync {
    /// The guest has rung, `times` times since the last call (at least once). Any thread, several at once; a vCPU may wait meanwhile, so
    /// whoever has work to do hands it to a thread of its own.
    ///
    /// What the guest had written to its memory before it rang is there.
    fn ring(&self, times: u64);
}

impl<F: Fn(u64) + Send + Sync> Doorbell for F {
    fn ring(&self, times: u64) {
        self(times);
    }
}

/// A hold on something that a backend does for the caller; dropping it ends that.
pub type Attachment = Box<dyn Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(addr: u64, width: u8, value: Option<u64>) -> Result<DoorbellRegister> {
        DoorbellRegister::new(AddressSpace::Memory, addr, width, value)
    }

    #[test]
    fn what_is_no_register_is_refused() {
        for (addr, width, value) in [
            (0, 0, None),
            (0, 3, None),
            (0, 16, None),
            (0, 255, None),
            (2, 4, None),
            (u64::MAX, 2, None),
            (0, 1, Some(0x100)),
            (0, 4, Some(1 << 32)),
        ] {
            let error = memory(addr, width, value).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{addr:#x} {width} {value:?}");
        }
        for (addr, width) in [(0xffff, 2), (0x1_0000, 1), (0, 8), (1, 2)] {
            assert!(
                DoorbellRegister::new(AddressSpace::Ports, addr, width, None).is_err(),
                "{addr:#x} {width}"
            );
        }
        let last = memory(u64::MAX - 7, 8, Some(u64::MAX)).unwrap();
        assert_eq!(last.last(), u64::MAX);
        assert_eq!(DoorbellRegister::new(AddressSpace::Ports, 0xffff, 1, Some(0xff)).unwrap().last(), 0xffff);
    }

    #[test]
    fn address_width_and_value_must_match() {
        let bell = memory(0x1000, 4, Some(7)).unwrap();
        assert!(bell.rings(0x1000, 4, 7));
        for (addr, width, value) in [(0x1000, 4, 8), (0x1000, 8, 7), (0x1000, 2, 7), (0x1004, 4, 7)] {
            assert!(!bell.rings(addr, width, value));
        }
        assert!(memory(0x1000, 4, None).unwrap().rings(0x1000, 4, 8));
    }

    #[test]
    fn two_conflict_when_one_write_would_ring_both() {
        let [any, one, two, wide] = [(4, None), (4, Some(1)), (4, Some(2)), (8, None)]
            .map(|(width, value)| memory(0, width, value).unwrap());
        assert!(any.conflicts(&one) && one.conflicts(&any) && any.conflicts(&any) && one.conflicts(&one));
        assert!(!one.conflicts(&two) && !any.conflicts(&wide));
        assert!(!any.conflicts(&DoorbellRegister::new(AddressSpace::Ports, 0, 4, None).unwrap()));
    }
}
