//! A set of processors.

/// Most processors that an [`Irqchip`](crate::irqchip::Irqchip) serves.
pub const MAX_CPUS: usize = 64;

/// A set of processors, by number below [`MAX_CPUS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet(u64);

impl CpuSet {
    /// No processor.
    pub const EMPTY: Self = Self(0);

    /// The set of one processor; numbers from [`MAX_CPUS`] on give the empty set.
    pub const fn one(cpu: usize) -> Self {
        if cpu < MAX_CPUS { Self(1 << cpu) } else { Self::EMPTY }
    }

    /// Adds `cpu`.
    pub fn insert(&mut self, cpu: usize) {
        self.0 |= Self::one(cpu).0;
    }

    /// Whether `cpu` is in the set.
    pub const fn contains(self, cpu: usize) -> bool {
        self.0 & Self::one(cpu).0 != 0
    }

    /// Whether no processor is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The processors in it, ascending.
    pub fn iter(mut self) -> impl Iterator<Item = usize> {
        std::iter::from_fn(move || {
            let lowest = self.0.trailing_zeros() as usize;
            self.0 &= self.0.wrapping_sub(1);
            (lowest < MAX_CPUS).then_some(lowest)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_in_order() {
        let mut set = CpuSet::one(63);
        set.insert(0);
        set.insert(64);
        set.insert(7);
        assert!(set.contains(7) && !set.contains(8) && !set.contains(64));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 7, 63]);
        assert!(CpuSet::EMPTY.is_empty());
    }
}
