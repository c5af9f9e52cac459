//! Doorbells that JavaScript hears.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use napi::bindgen_prelude::{BigInt, FunctionRef};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;
use squib_core::{Doorbell, ErrorCode};
use squib_vmm::{Bus, DoorbellMapping};

use crate::error::{Result, node_api, thrown};
use crate::number::{small, whole, word};

/// Which writes ring a doorbell.
#[napi(object, object_to_js = false)]
pub struct DoorbellParts {
    /// What it is called.
    pub name: String,
    /// Whether it is at a port, not in memory.
    pub port: bool,
    /// Its port or address.
    pub base: f64,
    /// Bytes of a write that rings.
    pub length: u32,
    /// The only value that rings, if not all do.
    pub value: Option<BigInt>,
}

/// The doorbells of a VM, by number.
#[derive(Default)]
pub(crate) struct Doorbells(RefCell<Mapped>);

#[derive(Default)]
struct Mapped {
    doorbells: HashMap<u32, DoorbellMapping>,
    next: u32,
}

impl Doorbells {
    /// Maps one, whose rings `heard` is told of, and gives its number.
    pub(crate) fn map(
        &self,
        env: &Env,
        (ports, memory): (&Arc<Bus>, &Arc<Bus>),
        parts: &DoorbellParts,
        heard: &FunctionRef<f64, ()>,
    ) -> Result<u32> {
        let DoorbellParts { name, port, base, length, value } = parts;
        let value = value.as_ref().map(|value| word(value, ErrorCode::InvalidArgument)).transpose()?;
        let width = small(*length, 8, "the length of a doorbell")? as u8;
        let at = (whole(*base, ErrorCode::InvalidArgument)?, width, value);
        let callback = Arc::new(Callback::new(env, heard)?);
        let bus = if *port { ports } else { memory };
        let mapping = bus.map_doorbell(name, at, callback).map_err(|e| thrown(&e))?;
        let mut mapped = self.0.borrow_mut();
        let number = mapped.next;
        mapped.next += 1;
        mapped.doorbells.insert(number, mapping);
        Ok(number)
    }

    /// Takes one away.
    pub(crate) fn unmap(&self, number: u32) {
        let mapping = self.0.borrow_mut().doorbells.remove(&number);
        drop(mapping);
    }

    /// Takes all away.
    pub(crate) fn clear(&self) {
        self.0.take();
    }
}

/// Posts rings to the event loop. Weak: a doorbell keeps no process alive.
type Post = ThreadsafeFunction<(), (), f64, Status, false, true, 0>;

/// Rings on their way to the event loop. At most one message is, however often the guest rings.
struct Callback {
    waiting: Arc<AtomicU64>,
    post: Post,
}

impl Callback {
    fn new(env: &Env, heard: &FunctionRef<f64, ()>) -> Result<Self> {
        let waiting = Arc::new(AtomicU64::new(0));
        let taken = waiting.clone();
        let post = heard
            .borrow_back(env)
            .and_then(|f| {
                f.build_threadsafe_function::<()>()
                    .weak::<true>()
                    .build_callback(move |_| Ok(taken.swap(0, Ordering::AcqRel) as f64))
            })
            .map_err(|e| node_api(&e))?;
        Ok(Self { waiting, post })
    }
}

impl Doorbell for Callback {
    fn ring(&self, times: u64) {
        if self.waiting.fetch_add(times, Ordering::AcqRel) == 0 {
            // Only a closing environment refuses, and that has nobody who could hear.
            self.post.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}
