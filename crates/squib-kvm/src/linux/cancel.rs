//! Cancellation: how any thread gets a vCPU's thread out of `KVM_RUN`, without losing a request.
//!
//! Everything is in one atomic word: which thread is inside `run` (or none), whether a cancellation is
//! requested, and whether a canceller is just about to signal. See `docs/design/kvm.md` for the argument.
#![allow(unsafe_code, reason = "signals, and the immediate_exit byte that other threads write")]

use std::cell::{Cell, RefCell};
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use squib_core::backend::Cancel;
use squib_core::{Error, ErrorCode, Result, Waker};

use super::run_page::RunPage;

/// The thread inside, by its kernel number; 0 when there is none.
const THREAD: u64 = 0xffff_ffff;
/// A cancellation is requested and not yet reported by `run`.
const REQUESTED: u64 = 1 << 32;
/// A canceller uses the thread number and the run page; the thread may not leave before it is done.
const KICKING: u64 = 1 << 33;

/// What a vCPU shares with its cancel handles.
pub(super) struct Kick {
    state: AtomicU64,
    /// In the vCPU's run page. 0 whenever no thread is inside, and touched by a canceller only while
    /// `KICKING` keeps one there; so a handle may outlive the vCPU.
    immediate_exit: NonNull<AtomicU8>,
    signal: libc::c_int,
    waker: Arc<dyn Waker>,
    /// The thread that was inside last, by its pointer to its own variables, and its number: who comes again does not have to look
    /// for its variables. 0 when that thread has ended, as another may have its pointer then.
    last: AtomicUsize,
    number: AtomicU64,
}

// SAFETY: `immediate_exit` is the only field that is not Send, and is used as its comment says.
unsafe impl Send for Kick {}
// SAFETY: as above, and the byte is atomic.
unsafe impl Sync for Kick {}

impl Kick {
    /// For the vCPU whose run page this is.
    pub(super) fn new(page: &RunPage, waker: Arc<dyn Waker>) -> Result<Self> {
        let immediate_exit = page.immediate_exit();
        let (last, number) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Self { state: AtomicU64::new(0), immediate_exit, signal: kick_signal()?, waker, last, number })
    }

    /// Calls `enter_guest`, which a cancellation interrupts: one that was requested before, at once. With
    /// `at_once` it is interrupted in any case, as soon as the last access is finished.
    #[inline]
    pub(super) fn inside<R>(
        self: &Arc<Self>,
        page: &RunPage,
        at_once: bool,
        enter_guest: impl FnOnce() -> R,
    ) -> R {
        assert!(page.immediate_exit() == self.immediate_exit, "a vCPU is entered with its own run page");
        // SAFETY: the byte lies in `page`, which is borrowed until this returns.
        let immediate_exit = unsafe { self.immediate_exit.as_ref() };
        // Nobody is inside, so adding and subtracting the number are setting and clearing it; unlike those,
        // they are one instruction on x86.
        let here = thread_pointer();
        let thread = match self.last.load(Ordering::Relaxed) == here {
            true => self.number.load(Ordering::Relaxed),
            false => self.comes_from(here),
        };
        let before = self.state.fetch_add(thread, Ordering::SeqCst);
        if at_once || before & REQUESTED != 0 {
            immediate_exit.store(1, Ordering::SeqCst);
        }
        let result = enter_guest();
        let after = self.state.fetch_sub(thread, Ordering::SeqCst);
        // Whoever kicks has requested before, and nobody but this thread takes requests.
        if at_once || after & REQUESTED != 0 {
            self.leave(immediate_exit);
        }
        result
    }

    /// Takes note of the calling thread, whose pointer is `here`, and tells its number.
    #[cold]
    fn comes_from(self: &Arc<Self>, here: usize) -> u64 {
        let note = |this: &ThisThread| {
            let number = this.number(self.signal);
            this.entered(self);
            self.number.store(number, Ordering::Relaxed);
            self.last.store(here, Ordering::Relaxed);
            number
        };
        // A thread that is ending has no variables any more, and is not remembered.
        THIS_THREAD.try_with(note).unwrap_or_else(|_| unblock(self.signal))
    }

    /// The rest of leaving when there was, or could have been, a request.
    #[cold]
    fn leave(&self, immediate_exit: &AtomicU8) {
        while self.state.load(Ordering::SeqCst) & KICKING != 0 {
            std::thread::yield_now();
        }
        immediate_exit.store(0, Ordering::SeqCst);
    }

    /// Takes the request, if there is one.
    pub(super) fn take(&self) -> bool {
        self.state.fetch_and(!REQUESTED, Ordering::SeqCst) & REQUESTED != 0
    }
}

impl Cancel for Kick {
    fn cancel(&self) {
        let request = |state: u64| {
            let kicking = if state & THREAD == 0 { 0 } else { KICKING };
            (state & REQUESTED == 0).then_some(state | REQUESTED | kicking)
        };
        // When the request is there already, whoever made it also kicks.
        let Ok(before) = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, request) else { return };
        let thread = before & THREAD;
        if thread != 0 {
            // SAFETY: a thread is in `inside`, with the page borrowed, and stays until `KICKING` is taken away.
            unsafe { self.immediate_exit.as_ref() }.store(1, Ordering::SeqCst);
            // SAFETY: a signal to a thread of this process that is alive, with a handler that does nothing.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread as libc::c_long, self.signal) };
            self.state.fetch_and(!KICKING, Ordering::SeqCst);
        }
        self.waker.wake();
    }
}

thread_local!(static THIS_THREAD: ThisThread = const { ThisThread { number: Cell::new(0), kicks: RefCell::new(Vec::new()) } });

/// What a thread knows of itself.
struct ThisThread {
    number: Cell<u64>,
    /// Those that may remember it.
    kicks: RefCell<Vec<Weak<Kick>>>,
}

impl ThisThread {
    /// Its kernel number. The first call also lets the kick signal through to it.
    fn number(&self, signal: libc::c_int) -> u64 {
        if self.number.get() == 0 {
            self.number.set(unblock(signal));
        }
        self.number.get()
    }

    /// `kick` is about to remember it.
    fn entered(&self, kick: &Arc<Kick>) {
        let mut kicks = self.kicks.borrow_mut();
        kicks.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(kick)));
        kicks.push(Arc::downgrade(kick));
    }
}

impl Drop for ThisThread {
    fn drop(&mut self) {
        let here = thread_pointer();
        for kick in self.kicks.get_mut().iter().filter_map(Weak::upgrade) {
            // Another thread may have been inside since.
            let _ = kick.last.compare_exchange(here, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

/// Where the calling thread's variables are, which no other thread has while this one lives. An addon would have to ask the loader
/// for a variable itself.
#[inline]
fn thread_pointer() -> usize {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the word at FS:0, where the pointer to it is (System V ABI, AMD64 supplement: thread-local storage).
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly, pure));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register that is the thread's (Arm ARM, TPIDR_EL0).
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem, pure));
    }
    pointer
}

/// Lets `signal` through to the calling thread, and tells its kernel number.
#[cold]
fn unblock(signal: libc::c_int) -> u64 {
    // SAFETY: the set is initialised before it is used, and only this thread's mask changes. `gettid` is a
    // bare system call because C libraries have it only since glibc 2.30.
    let number = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, null_mut());
        libc::syscall(libc::SYS_gettid)
    };
    number as u64 & THREAD
}

/// The signal that interrupts `KVM_RUN`, its handler installed by the first call.
///
/// It is the highest real-time signal that nobody has a handler for. The handler does nothing: what counts
/// is that a signal is pending. With `SA_RESTART` other system calls of the thread go on after a signal that
/// comes too late; `KVM_RUN` returns `EINTR` all the same (KVM API, 4.10).
fn kick_signal() -> Result<libc::c_int> {
    extern "C" fn nothing(_: libc::c_int) {}
    static SIGNAL: OnceLock<Option<libc::c_int>> = OnceLock::new();
    let install = || {
        (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().find(|&signal| {
            // SAFETY: both structures are plain data that the calls fill in or read.
            unsafe {
                let mut old: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(signal, null(), &raw mut old) != 0 || old.sa_sigaction != libc::SIG_DFL {
                    return false;
                }
                let mut new: libc::sigaction = std::mem::zeroed();
                new.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
                new.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
                libc::sigaction(signal, &raw const new, null_mut()) == 0
            }
        })
    };
    SIGNAL.get_or_init(install).ok_or_else(|| {
        Error::new(
            ErrorCode::Hypervisor,
            "every real-time signal of this process has a handler, none is left for squib",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Waker for Wakes {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn kick(page: &RunPage) -> (Arc<Kick>, Arc<Wakes>) {
        let wakes = Arc::new(Wakes::default());
        (Arc::new(Kick::new(page, wakes.clone()).unwrap()), wakes)
    }

    /// The page's byte.
    fn byte(page: &RunPage) -> u8 {
        // SAFETY: the page is borrowed.
        unsafe { page.immediate_exit().as_ref() }.load(Ordering::SeqCst)
    }

    #[test]
    fn a_request_from_before_counts_once() {
        let page = RunPage::blank();
        let (kick, wakes) = kick(&page);
        kick.cancel();
        kick.cancel();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert_eq!(byte(&page), 0, "the page is not touched while nobody is inside");
        assert_eq!(kick.inside(&page, false, || byte(&page)), 1);
        assert_eq!(byte(&page), 0);
        assert!(kick.take());
        assert!(!kick.take());
        assert_eq!(kick.inside(&page, false, || byte(&page)), 0);
    }

    #[test]
    fn completing_leaves_a_request_for_later() {
        let page = RunPage::blank();
        let (kick, _) = kick(&page);
        assert_eq!(kick.inside(&page, true, || byte(&page)), 1);
        kick.cancel();
        assert_eq!(kick.inside(&page, true, || byte(&page)), 1);
        assert!(kick.take());
    }

    #[test]
    fn a_request_from_another_thread_reaches_who_is_inside() {
        let page = RunPage::blank();
        let (kick, _) = kick(&page);
        kick.inside(&page, false, || {
            std::thread::scope(|s| s.spawn(|| kick.cancel()).join()).unwrap();
            assert_eq!(byte(&page), 1);
        });
        assert_eq!(byte(&page), 0);
        assert!(kick.take());
    }

    /// Threads of which each may have the place of the one before in memory, but not its number.
    #[test]
    fn a_thread_that_has_ended_is_forgotten() {
        let mut page = RunPage::blank();
        let (kick, _) = kick(&page);
        let mut places = Vec::new();
        for _ in 0..20 {
            let kick = kick.clone();
            let visit = move || {
                let inside = || kick.inside(&page, false, || kick.state.load(Ordering::SeqCst) & THREAD);
                // SAFETY: takes no memory of ours.
                let number = unsafe { libc::syscall(libc::SYS_gettid) } as u64;
                assert_eq!([inside(), inside()], [number; 2]);
                (thread_pointer(), page)
            };
            let place;
            (place, page) = std::thread::spawn(visit).join().unwrap();
            places.push(place);
        }
        assert_eq!(kick.last.load(Ordering::SeqCst), 0);
        places.sort_unstable();
        places.dedup();
        assert!(places.len() < 20, "some had the same place, or this shows nothing");
    }

    #[test]
    fn a_handle_may_outlive_the_page() {
        let page = RunPage::blank();
        let (kick, wakes) = kick(&page);
        drop(page);
        kick.cancel();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn no_request_is_lost_in_a_storm() {
        let page = RunPage::blank();
        let (kick, wakes) = kick(&page);
        let (kick, cancel) = (&kick, || (0..2000).for_each(|_| kick.cancel()));
        let taken = std::thread::scope(|s| {
            let cancellers: Vec<_> = (0..3).map(|_| s.spawn(cancel)).collect();
            let mut taken = 0;
            while !cancellers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                kick.inside(&page, false, std::thread::yield_now);
                taken += usize::from(kick.take());
            }
            taken + usize::from(kick.take())
        });
        assert_eq!(taken, wakes.0.load(Ordering::SeqCst), "each request that was new was taken once");
        assert_eq!(kick.state.load(Ordering::SeqCst), 0);
        assert_eq!(byte(&page), 0);
    }
}
