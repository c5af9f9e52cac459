//! The console's output on its way to the event loop.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::FunctionRef;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use squib_vmm::ConsoleListener;

use crate::error::{Result, node_api};

/// What TypeScript is told, by number: output waits.
const OUTPUT: u32 = 0;
/// There is room for input again.
const ROOM: u32 = 1;

/// Tells the event loop, once for as much output as it takes at a time. Weak: a machine that does not run keeps
/// no process alive.
pub(crate) struct Bell {
    ring: ThreadsafeFunction<u32, (), u32, Status, false, true, 0>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// TypeScript has been told of output and has not taken it yet.
    told: bool,
    /// A guest that prints faster than TypeScript reads has to wait; else its oldest output is lost.
    wait_for_reader: bool,
    /// The machine is ending: nobody waits any more.
    closed: bool,
}

impl Bell {
    pub(crate) fn new(env: &Env, listener: FunctionRef<u32, ()>) -> Result<Arc<Self>> {
        let ring = listener
            .borrow_back(env)
            .and_then(|f| f.build_threadsafe_function::<u32>().weak::<true>().build())
            .map_err(|e| node_api(&e))?;
        Ok(Arc::new(Self { ring, state: Mutex::default(), changed: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Three flags are sound whatever happened to the thread that set one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.lock());
        self.changed.notify_all();
    }

    /// TypeScript is about to take the output.
    pub(crate) fn taking(&self) {
        self.change(|state| state.told = false);
    }

    /// Whether the guest waits while nobody takes its output.
    pub(crate) fn wait_for_reader(&self, wait: bool) {
        self.change(|state| state.wait_for_reader = wait);
    }

    /// Ends every wait, now and later.
    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }
}

/// The machine's hold of the bell.
pub(crate) struct Listener(pub(crate) Arc<Bell>);

impl ConsoleListener for Listener {
    fn output(&self) {
        let mut state = self.0.lock();
        if !state.told {
            state.told = true;
            drop(state);
            self.0.ring.call(OUTPUT, ThreadsafeFunctionCallMode::NonBlocking);
            return;
        }
        // Told a second time before anybody came: there is as much output as may be.
        while state.told && state.wait_for_reader && !state.closed {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn input_room(&self) {
        self.0.ring.call(ROOM, ThreadsafeFunctionCallMode::NonBlocking);
    }
}
