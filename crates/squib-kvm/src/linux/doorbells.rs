//! Doorbells that the kernel rings (KVM API, 4.59 `KVM_IOEVENTFD`), and the thread that hears them.
//!
//! Each doorbell is an eventfd, to which the kernel adds one for a write and lets the guest go on. One thread of the VM
//! listens to all of them. It is made with the first and ends with the VM.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvm_bindings::*;
use squib_core::{AddressSpace, Attachment, Doorbell, DoorbellRegister, Error, ErrorCode, Result};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::errors::failed;
use super::sys;
use super::vm::Machine;

/// The doorbells of a VM.
#[derive(Default)]
pub(super) struct Doorbells(Mutex<Option<Arc<Listener>>>);

impl Doorbells {
    /// The listener, with its thread.
    fn listener(&self) -> Result<Arc<Listener>> {
        let mut listener = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = &*listener {
            return Ok(listener.clone());
        }
        let new = Arc::new(Listener::new().map_err(|e| host("nothing can wait for doorbells", e))?);
        let listening = new.clone();
        std::thread::Builder::new()
            .name("squib-doorbells".into())
            .spawn(move || listening.listen())
            .map_err(|e| host("no thread for doorbells", e))?;
        Ok(listener.insert(new).clone())
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        let listener = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It is not waited for: the VM may be dropped by a doorbell, on that very thread.
        if let Some(listener) = listener {
            let _ = listener.quit.write(1);
        }
    }
}

/// Makes writes ring `doorbell` without an exit. `None` when there is no room for more: Linux allows 1,000 devices on a bus of KVM's, and
/// a process only so many descriptors.
pub(super) fn attach(
    vm: &Arc<Machine>,
    at: &DoorbellRegister,
    doorbell: &Arc<dyn Doorbell>,
) -> Result<Option<Attachment>> {
    let listener = vm.doorbells.listener()?;
    let event = match EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => return Ok(None),
        event => event.map_err(|e| host("no eventfd for a doorbell", e))?,
    };
    let bell = Arc::new(Bell { event, doorbell: doorbell.clone() });
    listener.add(&bell).map_err(|e| host("a doorbell cannot be waited for", e))?;
    match sys::ioeventfd(&vm.fd, &bell.request(at, 0)) {
        Ok(()) => Ok(Some(Box::new(Attached { vm: Arc::downgrade(vm), listener, at: *at, bell }))),
        Err(e) => {
            listener.remove(&bell);
            if e.errno() == libc::ENOSPC { Ok(None) } else { Err(failed("KVM_IOEVENTFD", e)) }
        }
    }
}

fn host(what: &str, error: io::Error) -> Error {
    Error::with_source(ErrorCode::Hypervisor, what, error)
}

/// A doorbell in the kernel.
struct Bell {
    event: EventFd,
    doorbell: Arc<dyn Doorbell>,
}

impl Bell {
    fn request(&self, at: &DoorbellRegister, flags: u32) -> kvm_ioeventfd {
        let pio = u32::from(at.space() == AddressSpace::Ports) << kvm_ioeventfd_flag_nr_pio;
        let value = u32::from(at.value().is_some()) << kvm_ioeventfd_flag_nr_datamatch;
        kvm_ioeventfd {
            datamatch: at.value().unwrap_or(0),
            addr: at.addr(),
            len: at.width().into(),
            fd: self.event.as_raw_fd(),
            flags: flags | pio | value,
            ..Default::default()
        }
    }

    /// Tells of the rings since the last time, if there were any.
    fn tell(&self) {
        if let Ok(times) = self.event.read() {
            self.doorbell.ring(times);
        }
    }
}

/// A doorbell until the kernel gives it back.
struct Attached {
    vm: Weak<Machine>,
    listener: Arc<Listener>,
    at: DoorbellRegister,
    bell: Arc<Bell>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        // A VM that is gone has no doorbells either.
        if let Some(vm) = self.vm.upgrade() {
            let request = self.bell.request(&self.at, 1 << kvm_ioeventfd_flag_nr_deassign);
            let _ = sys::ioeventfd(&vm.fd, &request);
        }
        self.listener.remove(&self.bell);
        self.bell.tell();
    }
}

/// What the thread waits for.
struct Listener {
    epoll: Epoll,
    quit: EventFd,
    /// By descriptor. One that is closed and used again for another doorbell is that one's: it finds nothing to tell.
    bells: Mutex<HashMap<RawFd, Arc<Bell>>>,
}

impl Listener {
    fn new() -> io::Result<Self> {
        let (epoll, quit) = (Epoll::new()?, EventFd::new(libc::EFD_CLOEXEC)?);
        let listener = Self { epoll, quit, bells: Mutex::default() };
        listener.control(ControlOperation::Add, &listener.quit)?;
        Ok(listener)
    }

    fn control(&self, operation: ControlOperation, event: &EventFd) -> io::Result<()> {
        let fd = event.as_raw_fd();
        self.epoll.ctl(operation, fd, EpollEvent::new(EventSet::IN, fd as u64))
    }

    fn bells(&self) -> MutexGuard<'_, HashMap<RawFd, Arc<Bell>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bell: &Arc<Bell>) -> io::Result<()> {
        self.control(ControlOperation::Add, &bell.event)?;
        self.bells().insert(bell.event.as_raw_fd(), bell.clone());
        Ok(())
    }

    fn remove(&self, bell: &Bell) {
        let _ = self.control(ControlOperation::Delete, &bell.event);
        self.bells().remove(&bell.event.as_raw_fd());
    }

    fn listen(&self) {
        let mut events = [EpollEvent::default(); 16];
        loop {
            let ready = match self.epoll.wait(-1, &mut events) {
                Ok(ready) => ready,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            for event in &events[..ready] {
                if event.fd() == self.quit.as_raw_fd() {
                    return;
                }
                let bell = self.bells().get(&event.fd()).cloned();
                // A doorbell whose owner panics must not silence the others.
                let _ = catch_unwind(AssertUnwindSafe(|| bell.inspect(|bell| bell.tell())));
            }
        }
    }
}
