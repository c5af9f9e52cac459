//! A vCPU that makes the exits of a script, and hosts and devices that write down what they are asked.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use squib_core::backend::Cancel;
use squib_core::{CancelHandle, Error, ErrorCode, ExitData, Result, Vcpu, VmEntry, VmExit};
use squib_vmm::{Action, Bus, Device, Host, Idle, Stop, Target, Unclaimed, VcpuLoop};

#[derive(Default)]
pub struct Cancelled(AtomicBool);

impl Cancel for Cancelled {
    fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Makes the exits of `script` one after the other, then [`VmExit::Unknown`]; notes the entries.
pub struct Script {
    pub script: VecDeque<Result<VmExit>>,
    pub entries: Arc<Mutex<Vec<VmEntry>>>,
    pub cancelled: Arc<Cancelled>,
    pub runnable: bool,
    pub deadline: Option<u64>,
    pub instructions: u64,
}

impl Vcpu for Script {
    fn id(&self) -> u32 {
        0
    }

    fn run(&mut self, entry: VmEntry) -> Result<VmExit> {
        let complete = matches!(entry, VmEntry::Complete(_));
        self.entries.lock().unwrap().push(entry);
        if complete {
            return Ok(VmExit::Completed);
        }
        if self.cancelled.0.swap(false, Ordering::SeqCst) {
            return Ok(VmExit::Cancelled);
        }
        self.instructions += 1;
        self.script.pop_front().unwrap_or(Ok(VmExit::Unknown { reason: 0 }))
    }

    fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(self.cancelled.clone())
    }

    fn instructions(&self) -> Option<u64> {
        Some(self.instructions)
    }

    fn is_runnable(&mut self) -> bool {
        self.runnable
    }

    fn idle_deadline_ns(&self) -> Option<u64> {
        self.deadline
    }
}

pub type Access = (u64, u8, Option<u64>);

/// Answers reads with `answer`, ends writes with `action`, notes (offset, width, value written).
pub struct Recorder {
    pub answer: fn() -> Result<u64>,
    pub action: fn() -> Result<Action>,
    pub seen: Mutex<Vec<Access>>,
}

impl Recorder {
    pub fn new(answer: fn() -> Result<u64>, action: fn() -> Result<Action>) -> Arc<Self> {
        Arc::new(Self { answer, action, seen: Mutex::default() })
    }
}

impl Device for Recorder {
    fn read(&self, offset: u64, width: u8) -> Result<u64> {
        self.seen.lock().unwrap().push((offset, width, None));
        (self.answer)()
    }

    fn write(&self, offset: u64, width: u8, value: u64) -> Result<Action> {
        self.seen.lock().unwrap().push((offset, width, Some(value)));
        (self.action)()
    }
}

/// As [`Recorder`], for external devices; idles as `idle` says.
pub struct RecordingHost {
    pub seen: Vec<(u32, Access)>,
    pub idles: Vec<Option<u64>>,
    pub idle: Idle,
}

impl RecordingHost {
    pub fn new() -> Self {
        Self { seen: vec![], idles: vec![], idle: Idle::Resume }
    }
}

impl Host for RecordingHost {
    fn read(&mut self, device: u32, offset: u64, width: u8) -> Result<u64> {
        self.seen.push((device, (offset, width, None)));
        match device {
            0 => Err(Error::new(ErrorCode::DeviceFailed, "thrown")),
            n => Ok(u64::from(n) * 0x0101_0101_0101_0101),
        }
    }

    fn write(&mut self, device: u32, offset: u64, width: u8, value: u64) -> Result<Action> {
        self.seen.push((device, (offset, width, Some(value))));
        match device {
            0 => Err(Error::new(ErrorCode::DeviceFailed, "thrown")),
            _ => Ok(Action::Continue),
        }
    }

    fn idle(&mut self, deadline_ns: Option<u64>) -> Idle {
        self.idles.push(deadline_ns);
        self.idle
    }
}

/// Runs on, for a minute at most, and then says where the guest is.
pub fn run_in_time(vcpu: &mut VcpuLoop, host: &mut RecordingHost) -> Stop {
    let cancel = vcpu.vcpu().cancel_handle();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let overdue = wait.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout);
        if overdue {
            cancel.cancel();
        }
        overdue
    });
    let stop = vcpu.run(VmEntry::Resume, host).unwrap();
    drop(done);
    if watch.join().unwrap() {
        let state = vcpu.vcpu().x86().map(|x86| (x86.registers(), x86.system_registers()));
        panic!("the guest does not come to an end: {stop:?}, {state:x?}");
    }
    stop
}

/// A scripted vCPU on empty buses.
pub struct Bench {
    pub ports: Arc<Bus>,
    pub memory: Arc<Bus>,
    pub entries: Arc<Mutex<Vec<VmEntry>>>,
    pub host: RecordingHost,
    pub vcpu: VcpuLoop,
}

impl Bench {
    pub fn new(unclaimed: Unclaimed, script: impl IntoIterator<Item = VmExit>) -> Self {
        Self::with(unclaimed, |s| s.script = script.into_iter().map(Ok).collect())
    }

    pub fn with(unclaimed: Unclaimed, change: impl FnOnce(&mut Script)) -> Self {
        let (ports, memory) = (Bus::ports(), Bus::memory());
        let mut script = script();
        change(&mut script);
        let entries = script.entries.clone();
        let vcpu = VcpuLoop::new(Box::new(script), &ports, &memory, unclaimed);
        Self { ports, memory, entries, host: RecordingHost::new(), vcpu }
    }

    pub fn run(&mut self) -> Result<Stop> {
        self.vcpu.run(VmEntry::Resume, &mut self.host)
    }

    pub fn entries(&self) -> Vec<VmEntry> {
        self.entries.lock().unwrap().clone()
    }

    /// Maps `device` at ports 0x100–0x103 and at memory 0x1000–0x100f.
    pub fn map(&self, device: &Arc<Recorder>) {
        self.ports.map("device", 0x100, 4, Target::Device(device.clone())).unwrap();
        self.memory.map("device", 0x1000, 16, Target::Device(device.clone())).unwrap();
    }
}

pub fn script() -> Script {
    Script {
        script: VecDeque::new(),
        entries: Arc::default(),
        cancelled: Arc::default(),
        runnable: false,
        deadline: None,
        instructions: 0,
    }
}

pub fn port_in(port: u16, width: usize) -> VmExit {
    VmExit::Pio { port, write: false, data: ExitData::from_elem(0, width) }
}

pub fn port_out(port: u16, data: &[u8]) -> VmExit {
    VmExit::Pio { port, write: true, data: ExitData::from_slice(data) }
}

pub fn load(addr: u64, width: usize) -> VmExit {
    VmExit::Mmio { addr, write: false, data: ExitData::from_elem(0, width) }
}

pub fn store(addr: u64, data: &[u8]) -> VmExit {
    VmExit::Mmio { addr, write: true, data: ExitData::from_slice(data) }
}

pub fn read(data: &[u8]) -> VmEntry {
    VmEntry::Read(ExitData::from_slice(data))
}
