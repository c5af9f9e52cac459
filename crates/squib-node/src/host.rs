//! Devices in JavaScript as the run loop's [`Host`]: called directly on the JavaScript thread, or by way of
//! its event loop from a vCPU's own thread.
#![allow(unsafe_code, reason = "the direct call goes through the raw Node-API, to allocate nothing")]

use std::ptr::null_mut;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::{FunctionRef, JsValue, Uint32Array};
use napi::threadsafe_function::{ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status, sys};
use squib_core::{Error, ErrorCode};
use squib_vmm::host::ThreadHost;
use squib_vmm::{Action, Host, Idle};

use crate::error::{Result, node_api};
use crate::record::{Access, Record};

/// Posts accesses to the event loop. Weak: a VM that does not run keeps no process alive.
type Post = ThreadsafeFunction<Access, (), (), Status, false, true, 0>;

/// The way into JavaScript that all devices of a VM share.
pub(crate) struct Dispatch {
    /// Reads the record, asks the device, writes the answer into the record.
    function: FunctionRef<(), ()>,
    record: Record,
    post: Arc<Post>,
}

impl Dispatch {
    /// A way to `function` by the record in `words`.
    pub(crate) fn new(env: &Env, function: FunctionRef<(), ()>, words: Uint32Array) -> Result<Self> {
        let record = Record::new(words)?;
        let asked = record.clone();
        let post = function
            .borrow_back(env)
            .and_then(|f| {
                f.build_threadsafe_function::<Access>().weak::<true>().build_callback(
                    move |ctx: ThreadsafeCallContext<Access>| {
                        asked.ask(ctx.value);
                        Ok(())
                    },
                )
            })
            .map_err(|e| node_api(&e))?;
        Ok(Self { function, record, post: Arc::new(post) })
    }

    /// The host of a vCPU that runs on the JavaScript thread.
    pub(crate) fn direct(&self, env: Env, vcpu: u32) -> Result<DirectHost> {
        let function = self.function.borrow_back(&env).map_err(|e| node_api(&e))?.raw();
        let mut undefined = null_mut();
        // SAFETY: the environment is alive, as we are called from it.
        unsafe { sys::napi_get_undefined(env.raw(), &mut undefined) };
        let scope = Scope::new(env.raw());
        Ok(DirectHost { env: env.raw(), function, undefined, record: self.record.clone(), vcpu, scope })
    }

    /// The host of a vCPU that runs on a thread of its own.
    /// `wait` is how it waits while the guest is idle; without, idleness goes back to the caller.
    pub(crate) fn threaded(
        &self,
        vcpu: u32,
        mailbox: Arc<Mailbox>,
        wait: Option<ThreadHost>,
    ) -> ThreadedHost {
        ThreadedHost { post: self.post.clone(), record: self.record.clone(), vcpu, mailbox, wait }
    }
}

/// Calls devices from the JavaScript thread. Lives no longer than the native call that made it, as its handles do.
pub(crate) struct DirectHost {
    env: sys::napi_env,
    function: sys::napi_value,
    undefined: sys::napi_value,
    record: Record,
    vcpu: u32,
    scope: Scope,
}

/// The handle scope of direct calls. Each call leaves a handle, and a vCPU may make millions before it returns to
/// JavaScript; a scope for each call would cost it an allocation.
struct Scope {
    env: sys::napi_env,
    open: sys::napi_handle_scope,
    /// How many more calls it takes.
    left: u32,
}

impl Scope {
    /// Calls that share a scope.
    const CALLS: u32 = 256;

    fn new(env: sys::napi_env) -> Self {
        let mut open = null_mut();
        // SAFETY: the environment is alive, as we are called from it.
        unsafe { sys::napi_open_handle_scope(env, &mut open) };
        Self { env, open, left: Self::CALLS }
    }

    /// Makes room for the handle of one call.
    fn count_call(&mut self) {
        if self.left == 0 {
            // SAFETY: as in `drop`; the next is opened after this one, so that they do not nest.
            unsafe {
                sys::napi_close_handle_scope(self.env, self.open);
                sys::napi_open_handle_scope(self.env, &mut self.open);
            }
            self.left = Self::CALLS;
        }
        self.left -= 1;
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // SAFETY: opened in the same native call, within which every scope that was opened later has been closed.
        unsafe { sys::napi_close_handle_scope(self.env, self.open) };
    }
}

impl DirectHost {
    fn access(&mut self, access: Access) -> squib_core::Result<u64> {
        self.record.ask(access);
        self.scope.count_call();
        // SAFETY: the environment and the handles belong to the native call that we are in.
        let status = unsafe {
            sys::napi_call_function(self.env, self.undefined, self.function, 0, null_mut(), null_mut())
        };
        if status != sys::Status::napi_ok {
            // TypeScript catches what devices throw, so JavaScript itself is at its end: the stack is full, or the
            // worker is being terminated. The exception stays pending and is thrown when the run returns.
            return Err(Error::new(ErrorCode::DeviceFailed, "JavaScript could not be called"));
        }
        self.record.answer()
    }
}

impl Host for DirectHost {
    fn read(&mut self, device: u32, offset: u64, width: u8) -> squib_core::Result<u64> {
        self.access(Access { vcpu: self.vcpu, device, offset, width, value: None })
    }

    fn write(&mut self, device: u32, offset: u64, width: u8, value: u64) -> squib_core::Result<Action> {
        self.access(Access { vcpu: self.vcpu, device, offset, width, value: Some(value) })
            .map(|_| Action::Continue)
    }

    fn idle(&mut self, _deadline_ns: Option<u64>) -> Idle {
        Idle::Return
    }
}

/// Where a vCPU's thread waits for an answer from JavaScript.
#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<Mail>,
    changed: Condvar,
}

#[derive(Default)]
struct Mail {
    answer: Option<squib_core::Result<u64>>,
    /// JavaScript is gone and will not answer.
    closed: bool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        // A thread that died here left at worst an answer that nobody takes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, answer: squib_core::Result<u64>) {
        self.lock().answer = Some(answer);
        self.changed.notify_one();
    }

    /// Ends every wait, now and later.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn take(&self) -> squib_core::Result<u64> {
        let mut mail = self.lock();
        loop {
            if let Some(answer) = mail.answer.take() {
                return answer;
            }
            if mail.closed {
                return Err(gone());
            }
            mail = self.changed.wait(mail).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorCode::Closed, "the JavaScript environment of this VM's devices has ended")
}

/// Calls devices from a vCPU's thread: the access goes to the event loop, and the thread waits for the answer.
pub(crate) struct ThreadedHost {
    post: Arc<Post>,
    record: Record,
    vcpu: u32,
    mailbox: Arc<Mailbox>,
    wait: Option<ThreadHost>,
}

impl ThreadedHost {
    fn access(&self, access: Access) -> squib_core::Result<u64> {
        let (mailbox, record) = (self.mailbox.clone(), self.record.clone());
        let status = self.post.call_with_return_value(
            access,
            ThreadsafeFunctionCallMode::NonBlocking,
            move |called, _env| {
                mailbox.put(match called {
                    Ok(_) => record.answer(),
                    Err(_) => Err(Error::new(ErrorCode::DeviceFailed, "JavaScript could not be called")),
                });
                Ok(())
            },
        );
        if status != Status::Ok {
            return Err(gone());
        }
        self.mailbox.take()
    }
}

impl Host for ThreadedHost {
    fn read(&mut self, device: u32, offset: u64, width: u8) -> squib_core::Result<u64> {
        self.access(Access { vcpu: self.vcpu, device, offset, width, value: None })
    }

    fn write(&mut self, device: u32, offset: u64, width: u8, value: u64) -> squib_core::Result<Action> {
        self.access(Access { vcpu: self.vcpu, device, offset, width, value: Some(value) })
            .map(|_| Action::Continue)
    }

    fn idle(&mut self, deadline_ns: Option<u64>) -> Idle {
        self.wait.as_mut().map_or(Idle::Return, |wait| wait.idle(deadline_ns))
    }
}
