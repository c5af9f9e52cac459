//! Time, waiting and random numbers from the standard library, for hosts that have threads and files. A browser brings its
//! own.

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use squib_core::{Clock, Entropy, Error, ErrorCode, Result, Waker};

use crate::device::{Action, Host, Idle};
use crate::machine::Machine;

/// The host's monotonic and wall clocks.
pub struct StdClock(Instant);

impl StdClock {
    /// A clock that counts from now.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    // 64 bits last for 584 years.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Clock for StdClock {
    fn now_ns(&self) -> u64 {
        nanoseconds(self.0.elapsed())
    }

    fn unix_ns(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanoseconds)
    }
}

/// The operating system's random numbers.
pub struct SystemEntropy(File);

impl SystemEntropy {
    /// # Errors
    /// [`ErrorCode::Unsupported`] where there is no `/dev/urandom`.
    pub fn open() -> Result<Arc<Self>> {
        let file = File::open("/dev/urandom")
            .map_err(|e| Error::new(ErrorCode::Unsupported, format!("/dev/urandom: {e}")))?;
        Ok(Arc::new(Self(file)))
    }
}

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        let read = (&self.0).read_exact(out);
        read.map_err(|e| Error::new(ErrorCode::Internal, format!("/dev/urandom: {e}")))
    }
}

/// Where threads wait for a VM's wake-ups.
#[derive(Default)]
pub struct ThreadWaker {
    /// Wakes so far. Each waiter remembers how many it has seen, so none is lost and none is stolen.
    wakes: Mutex<u64>,
    changed: Condvar,
}

impl ThreadWaker {
    /// A waker that nobody has called yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits until there were more wakes than `seen`, or for `limit`. Returns how many there were.
    pub fn wait(&self, seen: u64, limit: Option<Duration>) -> u64 {
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        let asleep = |wakes: &mut u64| *wakes == seen;
        *match limit {
            Some(limit) => match self.changed.wait_timeout_while(wakes, limit, asleep) {
                Ok((wakes, _)) => wakes,
                Err(poisoned) => poisoned.into_inner().0,
            },
            None => self.changed.wait_while(wakes, asleep).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Waker for ThreadWaker {
    fn wake(&self) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        *wakes = wakes.wrapping_add(1);
        self.changed.notify_all();
    }
}

/// A host for a vCPU with a thread of its own and no external devices.
pub struct ThreadHost {
    clock: Arc<dyn Clock>,
    waker: Arc<ThreadWaker>,
    seen: u64,
}

impl ThreadHost {
    /// Waits with `waker`, which is the VM's, until deadlines on `clock`, which is the VM's too.
    pub fn new(clock: Arc<dyn Clock>, waker: Arc<ThreadWaker>) -> Self {
        Self { clock, waker, seen: 0 }
    }
}

fn until(deadline_ns: Option<u64>, clock: &dyn Clock) -> Option<Duration> {
    deadline_ns.map(|at| Duration::from_nanos(at.saturating_sub(clock.now_ns())))
}

/// Calls [`Machine::tick`] when it is due, on this thread, while `wanted` says so; it is asked again whenever `waker` is
/// called. Clock and waker are the machine's.
///
/// # Errors
/// Those of [`Machine::tick`].
pub fn keep_time(
    machine: &Machine,
    clock: &dyn Clock,
    waker: &ThreadWaker,
    wanted: impl Fn() -> bool,
) -> Result<()> {
    let mut seen = 0;
    while wanted() {
        let deadline = machine.tick()?;
        seen = waker.wait(seen, until(deadline, clock));
    }
    Ok(())
}

fn no_such_device<T>(device: u32) -> Result<T> {
    Err(Error::new(ErrorCode::DeviceFailed, format!("nobody answers for external device {device}")))
}

impl Host for ThreadHost {
    fn read(&mut self, device: u32, _: u64, _: u8) -> Result<u64> {
        no_such_device(device)
    }

    fn write(&mut self, device: u32, _: u64, _: u8, _: u64) -> Result<Action> {
        no_such_device(device)
    }

    fn idle(&mut self, deadline_ns: Option<u64>) -> Idle {
        self.seen = self.waker.wait(self.seen, until(deadline_ns, &*self.clock));
        Idle::Resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_wakes_count_for_every_waiter() {
        let waker = ThreadWaker::new();
        waker.wake();
        waker.wake();
        for _ in 0..2 {
            assert_eq!(waker.wait(0, None), 2);
        }
    }

    #[test]
    fn a_wake_from_another_thread_ends_the_wait() {
        let waker = ThreadWaker::new();
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        assert_eq!(waker.wait(0, None), 1);
        thread.join().unwrap();
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let clock = StdClock::new();
        let mut host = ThreadHost::new(clock.clone(), ThreadWaker::new());
        let deadline = clock.now_ns() + 2_000_000;
        assert_eq!(host.idle(Some(deadline)), Idle::Resume);
        assert!(clock.now_ns() >= deadline);
        assert_eq!(host.idle(Some(0)), Idle::Resume);
    }

    #[test]
    fn nobody_answers_for_external_devices() {
        let mut host = ThreadHost::new(StdClock::new(), ThreadWaker::new());
        assert_eq!(host.read(7, 0, 1).unwrap_err().code(), ErrorCode::DeviceFailed);
        assert_eq!(host.write(7, 0, 1, 0).unwrap_err().code(), ErrorCode::DeviceFailed);
    }
}
