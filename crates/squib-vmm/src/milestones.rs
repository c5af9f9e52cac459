//! What the console's output tells about a boot.
//!
//! Linux says so itself when it hands over to user space ("Run /init as init process") and when it panics
//! ("Kernel panic - not syncing"). Whole lines are looked at, so a guest can print these words and mislead
//! nobody but its own statistics; with `quiet` on the kernel's command line the first is not printed.

/// What has been seen, on the VM's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Milestones {
    /// When the first byte came.
    pub first_output_ns: Option<u64>,
    /// When the kernel started its first process.
    pub userspace_ns: Option<u64>,
    /// When the kernel said that it panicked.
    pub panic_ns: Option<u64>,
}

const USERSPACE: &[u8] = b" as init process";
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// Longest line that is looked at; the rest of a longer one is passed over.
const LINE: usize = 256;

/// Reads the console's output along.
#[derive(Default)]
pub(crate) struct Watcher {
    line: Vec<u8>,
    seen: Milestones,
}

impl Watcher {
    pub(crate) fn milestones(&self) -> Milestones {
        self.seen
    }

    pub(crate) fn observe(&mut self, byte: u8, now: impl Fn() -> u64) {
        self.seen.first_output_ns.get_or_insert_with(&now);
        if byte != b'\n' {
            if self.line.len() < LINE {
                self.line.push(byte);
            }
            return;
        }
        let says = |words: &[u8]| self.line.windows(words.len()).any(|w| w == words);
        if self.seen.userspace_ns.is_none() && says(USERSPACE) {
            self.seen.userspace_ns = Some(now());
        }
        if self.seen.panic_ns.is_none() && says(PANIC) {
            self.seen.panic_ns = Some(now());
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn watch(output: &[u8]) -> Milestones {
        let mut watcher = Watcher::default();
        let now = Cell::new(0);
        for byte in output {
            watcher.observe(*byte, || now.get());
            now.set(now.get() + 1);
        }
        watcher.milestones()
    }

    #[test]
    fn a_boot_is_followed() {
        let seen =
            watch(b"Linux\r\n[    0.9] Run /init as init process\r\nKernel panic - not syncing: x\r\n");
        assert_eq!(seen.first_output_ns, Some(0));
        assert_eq!(seen.userspace_ns, Some(43));
        assert_eq!(seen.panic_ns, Some(74));
    }

    #[test]
    fn only_the_first_of_each_counts() {
        let once = watch(b"a as init process\n");
        assert_eq!(watch(b"a as init process\nb as init process\n"), once);
    }

    #[test]
    fn half_a_line_says_nothing_and_long_lines_are_bounded() {
        assert_eq!(watch(b"Run /init as init process").userspace_ns, None);
        let mut long = vec![b'x'; 100_000];
        long.extend_from_slice(b" as init process\nRun /init as init process\n");
        assert_eq!(watch(&long).userspace_ns, Some(100_000 + 17 + 25));
        assert_eq!(watch(b""), Milestones::default());
    }
}
