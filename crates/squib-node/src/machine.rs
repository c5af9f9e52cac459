//! A virtual PC: `squib_vmm::Machine` with a thread for each vCPU.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use napi::bindgen_prelude::{BigInt, Either, FunctionRef, Object, Uint8Array, Uint32Array};
use napi::{Env, JsDeferred};
use napi_derive::napi;
use squib_core::{Clock, Error, ErrorCode, IrqchipKind, VmExit, Waker};
use squib_vmm::boot::{BootSource, Protocol};
use squib_vmm::host::{StdClock, ThreadHost, ThreadWaker, keep_time};
use squib_vmm::stats::DeviceCount;
use squib_vmm::{Machine, MachineConfig, Outcome, Stop};

use crate::backends::{JsBackendKind, JsIrqchipKind, open};
use crate::console::{Bell, Listener};
use crate::doorbell::{DoorbellParts, Doorbells};
use crate::error::{ErrorValue, Result, node_api, refuse, thrown};
use crate::exit::JsExit;
use crate::host::{Dispatch, Mailbox, ThreadedHost};
use crate::life::{Ends, end_with_environment};
use crate::memory::NativeMemory;
use crate::number::whole;
use crate::thread::spawn;
use crate::vm::{map, unmap};

/// What a machine is made of.
#[napi(object, object_to_js = false)]
pub struct MachineParts {
    /// RAM in bytes.
    pub memory: f64,
    /// How many vCPUs.
    pub cpus: u32,
    /// Their model.
    pub cpu: Option<String>,
    /// Interrupt controllers inside the backend.
    pub irqchip: JsIrqchipKind,
    /// Kernel, program or firmware image.
    pub kernel: Uint8Array,
    /// The image is firmware, which is entered at the reset vector.
    pub firmware: Option<bool>,
    /// The board has the device that kvm-unit-tests look for.
    pub test_device: Option<bool>,
    /// Initial RAM disk.
    pub initrd: Option<Uint8Array>,
    /// Kernel command line.
    pub command_line: String,
}

/// How a machine ended.
#[napi(object, object_from_js = false, js_name = "Outcome")]
pub struct JsOutcome {
    /// What ended it.
    #[napi(ts_type = "OutcomeKind")]
    pub kind: &'static str,
    /// The exit status of a process that ran it.
    pub status: u8,
    /// What the guest wrote to the debug-exit port, if that ended it.
    pub value: Option<u32>,
    /// The exit that nobody could go on from, if that ended it.
    pub exit: Option<JsExit>,
}

/// The names of the outcomes.
#[napi(string_enum = "camelCase")]
pub enum OutcomeKind {
    /// The guest powered itself off.
    PowerOff,
    /// The guest wrote to the debug-exit port.
    DebugExit,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked, and then asked for a reset.
    KernelPanic,
    /// The guest's exception handling failed three deep.
    TripleFault,
    /// The guest did something that the backend or the board cannot go on from.
    Failed,
    /// A time limit was reached.
    TimedOut,
    /// The caller stopped it.
    Aborted,
}

/// Accesses to one device.
#[napi(object, object_from_js = false)]
pub struct DeviceAccesses {
    /// The device's name.
    pub name: String,
    /// Its first port or address.
    pub base: BigInt,
    /// Whether it is at ports, not in memory.
    pub ports: bool,
    /// Reads so far.
    pub reads: f64,
    /// Writes so far.
    pub writes: f64,
}

impl DeviceAccesses {
    fn new(count: DeviceCount, ports: bool) -> Self {
        let DeviceCount { name, base, reads, writes, .. } = count;
        Self { name, base: base.into(), ports, reads: reads as f64, writes: writes as f64 }
    }
}

/// What a machine has done so far.
#[napi(object, object_from_js = false)]
pub struct MachineStats {
    /// Exits of all vCPUs by kind.
    #[napi(ts_type = "Partial<Record<VmExit['kind'], number>>")]
    pub exits: HashMap<&'static str, f64>,
    /// Accesses to each device.
    pub devices: Vec<DeviceAccesses>,
    /// Accesses that met no device.
    pub open_bus: f64,
    /// Accesses to model-specific registers that do not exist, up to the end of the last run; each raised #GP(0).
    pub unknown_msrs: f64,
    /// Guest instructions up to the end of the last run, where the backend counts them.
    pub instructions: Option<BigInt>,
    /// Milliseconds from the machine's creation to the first byte on the console.
    pub first_output_ms: Option<f64>,
    /// Milliseconds from the machine's creation to the start of Linux's first process, if the console told.
    pub userspace_ms: Option<f64>,
    /// Whether the guest's kernel has said that it panicked.
    pub panicked: bool,
}

/// What was loaded.
#[napi(object, object_from_js = false)]
pub struct BootReport {
    /// By which protocol the guest is entered: `pvh`, `linux64`, `multiboot`, `firmware`, `flat` or `arm64`.
    pub protocol: &'static str,
    /// Guest-physical address of the first instruction.
    pub entry: BigInt,
    /// Version text of a bzImage.
    pub kernel_version: Option<String>,
    /// Size of the kernel after unpacking, in bytes.
    pub unpacked_size: f64,
}

/// The kernel command line when nobody asks for another. On an aarch64 host it is for either board: KVM's guests are aarch64
/// there and the soft backend's x86.
#[napi]
pub const DEFAULT_COMMAND_LINE: &str = if cfg!(target_arch = "aarch64") {
    squib_vmm::linux::COMMAND_LINE_EITHER
} else {
    squib_vmm::linux::COMMAND_LINE
};

type Created = Either<NativeMachine, ErrorValue>;
type Ended = Either<JsOutcome, ErrorValue>;
type Settle<T> = Box<dyn FnOnce(Env) -> napi::Result<T> + Send>;

/// A machine and what other threads need to end it.
struct Shared {
    machine: Machine,
    clock: Arc<dyn Clock>,
    waker: Arc<ThreadWaker>,
    bell: Arc<Bell>,
    mailboxes: Box<[Arc<Mailbox>]>,
    running: AtomicBool,
}

impl Ends for Shared {
    fn abandon(&self) {
        self.bell.close();
        self.mailboxes.iter().for_each(|mailbox| mailbox.close());
        self.machine.close();
    }
}

/// A machine. `ts/machine.ts` is its face.
#[napi]
pub struct NativeMachine {
    shared: RefCell<Option<Arc<Shared>>>,
    doorbells: Doorbells,
    dispatch: Dispatch,
}

/// Builds a machine on a thread of its own, because unpacking a kernel takes a while. `dispatch` answers device
/// accesses that it finds in `record`; `console` is told 0 when output waits and 1 when there is room for input.
#[napi(catch_unwind, ts_return_type = "Promise<NativeMachine | ErrorValue>")]
pub fn create_machine<'env>(
    env: &'env Env,
    backend: JsBackendKind,
    parts: MachineParts,
    record: Uint32Array,
    #[napi(ts_arg_type = "() => void")] dispatch: FunctionRef<(), ()>,
    #[napi(ts_arg_type = "(event: number) => void")] console: FunctionRef<u32, ()>,
) -> Result<Object<'env>> {
    let memory = whole(parts.memory, ErrorCode::MemorySize)?;
    // Copied on this thread: JavaScript may change its own bytes at any time.
    let (kernel, initrd) = (parts.kernel.to_vec(), parts.initrd.map(|bytes| bytes.to_vec()));
    let (cpus, irqchip) = (parts.cpus, parts.irqchip.into());
    let (cpu, command_line) = (parts.cpu, parts.command_line);
    let (firmware, test_device) = (parts.firmware == Some(true), parts.test_device == Some(true));
    let bell = Bell::new(env, console)?;
    let (deferred, promise): (JsDeferred<Created, Settle<Created>>, _) =
        env.create_deferred().map_err(|e| node_api(&e))?;
    spawn("squib-build".into(), move || {
        let boot = BootSource {
            initrd: initrd.as_deref(),
            command_line: &command_line,
            protocol: firmware.then_some(Protocol::Firmware),
            ..BootSource::new(&kernel)
        };
        let built = guarded(|| {
            let shared = build(&backend, cpu.as_deref(), memory, cpus, irqchip, boot, bell)?;
            if test_device {
                shared.machine.add_test_device()?;
            }
            Ok(shared)
        });
        deferred.resolve(Box::new(move |env| {
            let adopted = built.and_then(|shared| {
                adopt(&env, shared, record, dispatch)
                    .map_err(|e| Error::new(ErrorCode::Internal, e.reason.clone()))
            });
            Ok(match adopted {
                Ok(machine) => Either::A(machine),
                Err(error) => Either::B((&error).into()),
            })
        }));
    })?;
    Ok(promise)
}

fn build(
    backend: &JsBackendKind,
    cpu: Option<&str>,
    memory_size: u64,
    vcpus: u32,
    irqchip: IrqchipKind,
    boot: BootSource<'_>,
    bell: Arc<Bell>,
) -> squib_core::Result<Arc<Shared>> {
    let backend = open(backend, cpu)?;
    let (clock, waker): (Arc<dyn Clock>, _) = (StdClock::new(), ThreadWaker::new());
    let config = MachineConfig {
        memory_size,
        vcpus,
        irqchip,
        boot,
        clock: clock.clone(),
        waker: waker.clone(),
        console: Box::new(Listener(bell.clone())),
    };
    let machine = Machine::new(&*backend, config)?;
    let mailboxes = machine.vcpus().iter().map(|_| Arc::default()).collect();
    Ok(Arc::new(Shared { machine, clock, waker, bell, mailboxes, running: AtomicBool::new(false) }))
}

/// Makes the machine part of its JavaScript environment.
fn adopt(
    env: &Env,
    shared: Arc<Shared>,
    record: Uint32Array,
    dispatch: FunctionRef<(), ()>,
) -> Result<NativeMachine> {
    let dispatch = Dispatch::new(env, dispatch, record)?;
    end_with_environment(env, Arc::downgrade(&shared) as Weak<dyn Ends>)?;
    Ok(NativeMachine { shared: RefCell::new(Some(shared)), doorbells: Doorbells::default(), dispatch })
}

/// A call whose defect, should it have one, becomes an error and ends no process.
fn guarded<T>(f: impl FnOnce() -> squib_core::Result<T>) -> squib_core::Result<T> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "a defect in squib ended this call")))
}

/// One run of all vCPUs.
struct Run {
    shared: Arc<Shared>,
    /// vCPUs that have not come back.
    left: AtomicUsize,
    /// One vCPU has come back, so all do.
    stopping: AtomicBool,
    end: Mutex<RunEnd>,
}

#[derive(Default)]
struct RunEnd {
    error: Option<Error>,
    exit: Option<VmExit>,
    deferred: Option<JsDeferred<Ended, Settle<Ended>>>,
}

impl Run {
    /// Runs vCPU `id` until the run ends. The last one to come back settles the promise.
    fn vcpu(&self, id: u32, host: &mut ThreadedHost) {
        let machine = &self.shared.machine;
        let end = loop {
            match guarded(|| machine.run(id, host)) {
                // A kick of an earlier run's end came late.
                Ok(Stop::Exit(VmExit::Cancelled)) if !self.is_stopping() => {}
                end => break end,
            }
        };
        let mut state = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        match end {
            Ok(Stop::Exit(exit)) if machine.outcome() == Some(Outcome::Failed) => state.exit = Some(exit),
            // Another vCPU, or the caller, has ended the machine in the meantime.
            Err(error) if error.code() == ErrorCode::Closed && machine.outcome().is_some() => {}
            Err(error) => {
                state.error.get_or_insert(error);
            }
            Ok(_) => {}
        }
        self.stop();
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let end = std::mem::take(&mut *state);
            drop(state);
            self.settle(end);
        }
    }

    /// Makes all threads of this run come back.
    fn stop(&self) {
        if !self.stopping.swap(true, Ordering::AcqRel) {
            self.shared.machine.cancel();
            self.shared.waker.wake();
        }
    }

    /// Keeps the board's own timers, until the run ends.
    fn keep_time(&self) {
        let Shared { machine, clock, waker, .. } = &*self.shared;
        if let Err(error) = guarded(|| keep_time(machine, &**clock, waker, || !self.is_stopping())) {
            self.end.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(error);
            self.stop();
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) || self.shared.machine.outcome().is_some()
    }

    fn settle(&self, end: RunEnd) {
        self.shared.running.store(false, Ordering::Release);
        let outcome = self.shared.machine.outcome();
        let RunEnd { error, exit, deferred } = end;
        let Some(deferred) = deferred else { return };
        deferred.resolve(Box::new(move |_| {
            Ok(match (error, outcome) {
                (Some(error), _) => Either::B((&error).into()),
                (None, Some(outcome)) => Either::A(outcome_value(outcome, exit)),
                (None, None) => {
                    let error = Error::new(ErrorCode::Internal, "the machine stopped without an outcome");
                    Either::B((&error).into())
                }
            })
        }));
    }
}

fn outcome_value(outcome: Outcome, exit: Option<VmExit>) -> JsOutcome {
    let value = if let Outcome::DebugExit(value) = outcome { Some(value) } else { None };
    JsOutcome { kind: outcome.name(), status: outcome.status(), value, exit: exit.map(Into::into) }
}

#[napi]
impl NativeMachine {
    fn shared<T>(&self, f: impl FnOnce(&Arc<Shared>) -> Result<T>) -> Result<T> {
        match &*self.shared.borrow() {
            Some(shared) => f(shared),
            None => refuse(ErrorCode::Closed, "the machine has been closed"),
        }
    }

    fn machine<T>(&self, f: impl FnOnce(&Machine) -> squib_core::Result<T>) -> Result<T> {
        self.shared(|shared| f(&shared.machine).map_err(|e| thrown(&e)))
    }

    /// Runs all vCPUs, each on a thread of its own, until the machine ends or a device fails.
    #[napi(catch_unwind, ts_return_type = "Promise<Outcome | ErrorValue>")]
    pub fn run<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        self.shared(|shared| {
            if let Some(outcome) = shared.machine.outcome() {
                return refuse(ErrorCode::Closed, format!("the machine has ended: {}", outcome.name()));
            }
            if shared.running.swap(true, Ordering::AcqRel) {
                return refuse(ErrorCode::VcpuBusy, "the machine is running already");
            }
            let (deferred, promise): (JsDeferred<Ended, Settle<Ended>>, _) =
                env.create_deferred().map_err(|e| node_api(&e))?;
            let end = RunEnd { deferred: Some(deferred), ..RunEnd::default() };
            let run = Arc::new(Run {
                shared: shared.clone(),
                left: AtomicUsize::new(shared.mailboxes.len()),
                stopping: AtomicBool::new(false),
                end: Mutex::new(end),
            });
            let timekeeper = run.clone();
            spawn("squib-time".into(), move || timekeeper.keep_time())?;
            for (id, mailbox) in (0..).zip(&shared.mailboxes) {
                let wait = ThreadHost::new(shared.clock.clone(), shared.waker.clone());
                let mut host = self.dispatch.threaded(id, mailbox.clone(), Some(wait));
                let run_vcpu = run.clone();
                spawn(format!("squib-vcpu{id}"), move || run_vcpu.vcpu(id, &mut host))?;
            }
            Ok(promise)
        })
    }

    /// Ends the machine: as timed out, or as aborted.
    #[napi(catch_unwind)]
    pub fn end(&self, timed_out: bool) -> Result<JsOutcome> {
        self.shared(|shared| {
            shared.bell.close();
            shared.machine.end(if timed_out { Outcome::TimedOut } else { Outcome::Aborted });
            // Unless it had ended before.
            let outcome = shared.machine.outcome().unwrap_or(Outcome::Aborted);
            Ok(outcome_value(outcome, None))
        })
    }

    /// Its RAM.
    #[napi(catch_unwind)]
    pub fn memory(&self) -> Result<NativeMemory> {
        self.machine(|machine| Ok(NativeMemory::new(machine.ram().clone())))
    }

    /// What was loaded.
    #[napi(catch_unwind)]
    pub fn boot(&self) -> Result<BootReport> {
        self.machine(|machine| {
            let info = machine.boot();
            Ok(BootReport {
                protocol: match info.protocol {
                    Protocol::Pvh => "pvh",
                    Protocol::Linux64 => "linux64",
                    Protocol::Multiboot => "multiboot",
                    Protocol::Firmware => "firmware",
                    Protocol::Arm64 => "arm64",
                    _ => "flat",
                },
                entry: info.entry.into(),
                kernel_version: info.kernel_version.clone(),
                unpacked_size: info.unpacked_size as f64,
            })
        })
    }

    /// What it has done so far.
    #[napi(catch_unwind)]
    pub fn stats(&self) -> Result<MachineStats> {
        self.machine(|machine| {
            let stats = machine.stats();
            let ports = stats.ports.into_iter().map(|count| DeviceAccesses::new(count, true));
            let memory = stats.memory.into_iter().map(|count| DeviceAccesses::new(count, false));
            let ms = |ns: u64| ns as f64 / 1e6;
            Ok(MachineStats {
                exits: stats.exits.into_iter().map(|(kind, count)| (kind.name(), count as f64)).collect(),
                devices: ports.chain(memory).collect(),
                open_bus: stats.open_bus as f64,
                unknown_msrs: stats.unknown_msrs as f64,
                instructions: stats.instructions.map(Into::into),
                first_output_ms: stats.first_output_ns.map(ms),
                userspace_ms: stats.userspace_ns.map(ms),
                panicked: machine.panicked(),
            })
        })
    }

    /// Takes the output that waits.
    #[napi(catch_unwind)]
    pub fn take_output(&self) -> Result<Uint8Array> {
        self.shared(|shared| {
            shared.bell.taking();
            Ok(shared.machine.console().take_output().into())
        })
    }

    /// Whether the guest waits while nobody takes its output; else its oldest output is lost.
    #[napi(catch_unwind)]
    pub fn wait_for_reader(&self, wait: bool) -> Result<()> {
        self.shared(|shared| {
            shared.bell.wait_for_reader(wait);
            Ok(())
        })
    }

    /// Bytes of output that were lost because nobody took them in time.
    #[napi(catch_unwind)]
    pub fn lost_output(&self) -> Result<f64> {
        self.machine(|machine| Ok(machine.console().lost_output() as f64))
    }

    /// Gives the guest input, and says how many bytes of it were taken.
    #[napi(catch_unwind)]
    pub fn send_input(&self, bytes: Uint8Array) -> Result<u32> {
        self.machine(|machine| Ok(machine.console().send(&bytes)? as u32))
    }

    /// Gives `length` ports from `base` to device `device` of the dispatch function.
    #[napi(catch_unwind)]
    pub fn map_ports(&self, name: String, base: f64, length: f64, device: u32) -> Result<()> {
        self.shared(|shared| map(shared.machine.ports(), &name, base, length, device))
    }

    /// Gives `length` guest-physical addresses from `base` to device `device` of the dispatch function.
    #[napi(catch_unwind)]
    pub fn map_mmio(&self, name: String, base: f64, length: f64, device: u32) -> Result<()> {
        self.shared(|shared| map(shared.machine.device_memory(), &name, base, length, device))
    }

    /// Takes away the ports from `base`.
    #[napi(catch_unwind)]
    pub fn unmap_ports(&self, base: f64) -> Result<()> {
        self.shared(|shared| unmap(shared.machine.ports(), base))
    }

    /// Takes away the addresses from `base`.
    #[napi(catch_unwind)]
    pub fn unmap_mmio(&self, base: f64) -> Result<()> {
        self.shared(|shared| unmap(shared.machine.device_memory(), base))
    }

    /// Puts a doorbell at a port or address, and gives its number. `heard` is told how often it was rung.
    #[napi(catch_unwind)]
    pub fn map_doorbell(
        &self,
        env: Env,
        doorbell: DoorbellParts,
        #[napi(ts_arg_type = "(rings: number) => void")] heard: FunctionRef<f64, ()>,
    ) -> Result<u32> {
        self.shared(|shared| {
            let buses = (shared.machine.ports(), shared.machine.device_memory());
            self.doorbells.map(&env, buses, &doorbell, &heard)
        })
    }

    /// Takes away the doorbell of this number.
    #[napi(catch_unwind)]
    pub fn unmap_doorbell(&self, doorbell: u32) -> Result<()> {
        self.shared(|_| {
            self.doorbells.unmap(doorbell);
            Ok(())
        })
    }

    /// Sets the level of an interrupt line that the board does not use.
    #[napi(catch_unwind)]
    pub fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.machine(|machine| machine.set_irq_line(gsi, level))
    }

    /// Ends the machine and lets go of everything. A vCPU that waits for a device's answer gets it first. Further
    /// calls change nothing.
    #[napi(catch_unwind)]
    pub fn close(&self) {
        if let Some(shared) = self.shared.borrow_mut().take() {
            shared.bell.close();
            shared.machine.close();
            self.doorbells.clear();
        }
    }
}

/// The exit status of a process that failed with the error of this code.
#[napi(catch_unwind)]
pub fn error_status(code: String) -> u8 {
    let known = ErrorCode::ALL.iter().copied().find(|c| c.as_str() == code);
    squib_vmm::outcome::error_status(known.unwrap_or(ErrorCode::Internal))
}
