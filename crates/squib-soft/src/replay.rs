//! Device accesses of an instruction that has to run again.
//!
//! An instruction that touches device memory cannot wait for the answer half-way: it stops before it has changed
//! anything, the access goes out as an exit, and the instruction runs again with the answer. Accesses that have
//! been answered are kept here until the instruction is through, and are taken from here when it repeats them.

use squib_core::{ExitData, exit_data};

/// Most device accesses that one instruction makes: a 16-byte load and store, each over a page boundary, at
/// 8 bytes an access.
pub const MOST: usize = 8;

/// One access to device memory or a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Guest-physical address, or port number.
    pub addr: u64,
    /// A port, not memory.
    pub port: bool,
    /// Width in bytes, 1–8.
    pub width: u8,
    /// Write, not read.
    pub write: bool,
    /// What was written, or what was read once it is known.
    pub value: u64,
}

impl Access {
    /// The value as exit data.
    pub fn data(&self) -> ExitData {
        exit_data(self.value, self.width.into())
    }
}

impl Access {
    /// Whether an instruction that runs again makes the same access.
    fn is_repeated_by(&self, again: &Self) -> bool {
        let same_value = !self.write || self.value == again.value;
        (self.addr, self.port, self.width, self.write) == (again.addr, again.port, again.width, again.write)
            && same_value
    }
}

/// The accesses of the instruction that runs.
#[derive(Debug, Default)]
pub struct Replay {
    done: [Access; MOST],
    count: usize,
    /// How many of them the repeated instruction has come past.
    position: usize,
    /// The access that is out.
    pending: Option<Access>,
}

impl Replay {
    /// The instruction wants this access. Gives the value where it has been made before; else notes it as the one
    /// to make, and the instruction has to stop.
    pub fn access(&mut self, access: Access) -> Option<u64> {
        if let Some(done) = self.done[..self.count].get(self.position) {
            if done.is_repeated_by(&access) {
                self.position += 1;
                return Some(done.value);
            }
            // Something else runs than what was answered: an interrupt whose stack is a device, say.
            self.clear();
        }
        self.pending = Some(access);
        None
    }

    /// Whether there is no place for the answer to another access.
    pub fn is_full(&self) -> bool {
        self.count == MOST
    }

    /// The access to make.
    pub fn pending(&self) -> Option<Access> {
        self.pending
    }

    /// The access has been made, with this value for a read.
    pub fn complete(&mut self, value: u64) {
        if let Some(access) = self.pending.take()
            && let Some(slot) = self.done.get_mut(self.count)
        {
            *slot = if access.write { access } else { Access { value, ..access } };
            self.count += 1;
        }
    }

    /// Whether an instruction is half-way.
    pub fn is_active(&self) -> bool {
        self.count != 0
    }

    /// The instruction is about to run again from its start.
    pub fn rewind(&mut self) {
        self.position = 0;
    }

    /// The instruction is through, or has been given up for an exception.
    pub fn clear(&mut self) {
        self.count = 0;
        self.position = 0;
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_gets_its_answers_in_order() {
        let mut r = Replay::default();
        let read = Access { addr: 0x1000, width: 4, ..Access::default() };
        let write = Access { addr: 0x2000, width: 4, write: true, value: 7, ..Access::default() };
        assert_eq!(r.access(read), None);
        r.complete(5);
        r.rewind();
        assert_eq!((r.access(read), r.access(write)), (Some(5), None));
        assert_eq!(r.pending(), Some(write));
        r.complete(0);
        r.rewind();
        assert_eq!((r.access(read), r.access(write)), (Some(5), Some(7)));
        r.clear();
        assert!(!r.is_active());
    }

    #[test]
    fn answers_are_not_given_to_another_access() {
        let mut r = Replay::default();
        let read = Access { addr: 0x1000, width: 4, ..Access::default() };
        assert_eq!(r.access(read), None);
        r.complete(5);
        r.rewind();
        let other = Access { addr: 0x1004, ..read };
        assert_eq!(r.access(other), None);
        assert_eq!(r.pending(), Some(other));
        assert!(!r.is_active());
    }

    #[test]
    fn a_runaway_instruction_cannot_overflow_it() {
        let mut r = Replay::default();
        for _ in 0..100 {
            r.rewind();
            while r.access(Access::default()).is_some() {}
            r.complete(1);
        }
        assert_eq!(r.count, MOST);
    }
}
