//! A virtual processor, run on the JavaScript thread or on one of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use napi::bindgen_prelude::{BigInt, Either, Object, Uint8Array};
use napi::{Env, JsDeferred};
use napi_derive::napi;
use squib_core::x86::X86State;
use squib_core::{Error, ErrorCode, ExitKind, Vcpu, VmEntry, VmExit};
use squib_vmm::{Host, SharedVcpu, Stop};

use crate::arm64::NativeArm64;
use crate::error::{ErrorValue, Result, node_api, refuse, thrown};
use crate::exit::{JsEntry, JsExit};
use crate::host::{Dispatch, Mailbox};
use crate::number::word;
use crate::registers::{self, JsCpuid, JsDebugRegisters, JsPendingEvents, JsRegisters, JsSystemRegisters};
use crate::thread::spawn;

/// How a run on a thread of its own ended.
type RunEnd = Either<JsExit, ErrorValue>;
type Settle = Box<dyn FnOnce(Env) -> napi::Result<RunEnd> + Send>;

/// How many exits of a kind there were.
#[napi(object, object_from_js = false)]
pub struct ExitCount {
    /// The kind.
    #[napi(ts_type = "VmExit['kind']")]
    pub kind: &'static str,
    /// How many.
    pub count: f64,
}

/// The state of a vCPU, out of reach while it runs.
#[derive(Clone)]
pub(crate) struct State {
    vcpu: Arc<SharedVcpu>,
    /// A run on a thread of its own has been started and has not ended. The thread takes the vCPU only when it gets
    /// to run, and nobody may come between.
    started: Arc<AtomicBool>,
}

impl State {
    /// # Errors
    /// `VcpuBusy` while it runs on a thread of its own.
    fn check_idle(&self) -> Result<()> {
        if self.started.load(Ordering::Acquire) {
            return refuse(
                ErrorCode::VcpuBusy,
                format!("vCPU {} is running; cancel it first", self.vcpu.id()),
            );
        }
        Ok(())
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut dyn Vcpu) -> squib_core::Result<T>) -> Result<T> {
        self.check_idle()?;
        self.vcpu.with(f).map_err(|e| thrown(&e))
    }
}

/// A vCPU. `ts/vcpu.ts` is its face.
#[napi]
pub struct NativeVcpu {
    state: State,
    mailbox: Arc<Mailbox>,
    dispatch: Rc<Dispatch>,
}

impl NativeVcpu {
    pub(crate) fn new(vcpu: Arc<SharedVcpu>, mailbox: Arc<Mailbox>, dispatch: Rc<Dispatch>) -> Self {
        Self { state: State { vcpu, started: Arc::default() }, mailbox, dispatch }
    }

    fn vcpu(&self) -> &Arc<SharedVcpu> {
        &self.state.vcpu
    }

    fn x86<T>(&self, f: impl FnOnce(&mut dyn X86State) -> squib_core::Result<T>) -> Result<T> {
        self.state.with(|vcpu| f(vcpu.x86()?))
    }
}

/// Runs a vCPU until an exit. A defect of squib's ends the run and not the process.
fn run(vcpu: &SharedVcpu, entry: VmEntry, host: &mut dyn Host) -> squib_core::Result<VmExit> {
    match catch_unwind(AssertUnwindSafe(|| vcpu.run(entry, host))) {
        Ok(Ok(Stop::Exit(exit))) => Ok(exit),
        // Only devices in Rust cause the other stops, and a VM without a board has none.
        Ok(Ok(stop)) => {
            Err(Error::new(ErrorCode::Internal, format!("a VM without a board stopped: {stop:?}")))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(ErrorCode::Internal, "a defect in squib ended this run")),
    }
}

#[napi]
impl NativeVcpu {
    /// Its number.
    #[napi(getter)]
    pub fn id(&self) -> u32 {
        self.vcpu().id()
    }

    /// Answers the last exit and runs the guest on this thread until the next that no device claims.
    #[napi(catch_unwind)]
    pub fn run(&self, env: Env, entry: Option<JsEntry>) -> Result<JsExit> {
        let entry = entry.unwrap_or(JsEntry::Resume).into_entry()?;
        self.state.check_idle()?;
        let mut host = self.dispatch.direct(env, self.vcpu().id())?;
        run(self.vcpu(), entry, &mut host).map(JsExit::from).map_err(|e| thrown(&e))
    }

    /// The same on a thread of its own.
    #[napi(catch_unwind, ts_return_type = "Promise<VmExit | ErrorValue>")]
    pub fn run_async<'env>(&self, env: &'env Env, entry: Option<JsEntry>) -> Result<Object<'env>> {
        let entry = entry.unwrap_or(JsEntry::Resume).into_entry()?;
        self.state.check_idle()?;
        let (deferred, promise): (JsDeferred<RunEnd, Settle>, _) =
            env.create_deferred().map_err(|e| node_api(&e))?;
        let mut host = self.dispatch.threaded(self.vcpu().id(), self.mailbox.clone(), None);
        let (vcpu, started) = (self.vcpu().clone(), self.state.started.clone());
        let work = move || {
            let end = run(&vcpu, entry, &mut host);
            started.store(false, Ordering::Release);
            deferred.resolve(Box::new(move |_| {
                Ok(match end {
                    Ok(exit) => Either::A(exit.into()),
                    Err(error) => Either::B((&error).into()),
                })
            }));
        };
        self.state.started.store(true, Ordering::Release);
        if let Err(error) = spawn(format!("squib-vcpu{}", self.vcpu().id()), work) {
            self.state.started.store(false, Ordering::Release);
            return Err(error);
        }
        Ok(promise)
    }

    /// Makes the run under way, or else the next one, return `cancelled`.
    #[napi(catch_unwind)]
    pub fn cancel(&self) {
        self.vcpu().cancel();
    }

    /// Makes runs return `budgetSpent` after about this many instructions; nothing takes the limit away.
    #[napi(catch_unwind)]
    pub fn set_budget(&self, instructions: Option<BigInt>) -> Result<()> {
        let instructions = instructions.map(|i| word(&i, ErrorCode::InvalidArgument)).transpose()?;
        self.state.with(|vcpu| vcpu.set_budget(instructions))
    }

    /// Guest instructions executed up to the end of the last run, where the backend counts them.
    #[napi(catch_unwind)]
    pub fn instructions(&self) -> Result<Option<BigInt>> {
        self.vcpu().check_open().map_err(|e| thrown(&e))?;
        Ok(self.vcpu().instructions().map(BigInt::from))
    }

    /// Exits so far, by kind, those that devices answered included.
    #[napi(catch_unwind)]
    pub fn exit_counts(&self) -> Result<Vec<ExitCount>> {
        self.vcpu().check_open().map_err(|e| thrown(&e))?;
        let counts = self.vcpu().counts();
        let count = |kind: ExitKind| ExitCount { kind: kind.name(), count: counts.get(kind) as f64 };
        Ok(ExitKind::ALL.into_iter().filter(|kind| counts.get(*kind) > 0).map(count).collect())
    }

    /// Delivers an external interrupt at the next entry, where the VM has no interrupt controller.
    #[napi(catch_unwind)]
    pub fn inject_interrupt(&self, vector: u32) -> Result<()> {
        let vector = registers::vector(vector)?;
        self.state.with(|vcpu| vcpu.inject_interrupt(vector))
    }

    /// Makes runs return `interruptWindow` once the guest can take an interrupt.
    #[napi(catch_unwind)]
    pub fn request_interrupt_window(&self, wanted: bool) -> Result<()> {
        self.state.with(|vcpu| {
            vcpu.request_interrupt_window(wanted);
            Ok(())
        })
    }

    /// Raises a non-maskable interrupt.
    #[napi(catch_unwind)]
    pub fn inject_nmi(&self) -> Result<()> {
        self.state.with(|vcpu| vcpu.inject_nmi())
    }

    /// Its state on aarch64.
    #[napi(catch_unwind)]
    pub fn arm64(&self) -> Result<NativeArm64> {
        self.state.with(|vcpu| vcpu.arm64().map(drop))?;
        Ok(NativeArm64(self.state.clone()))
    }

    /// General-purpose registers, instruction pointer and flags.
    #[napi(catch_unwind)]
    pub fn registers(&self) -> Result<JsRegisters> {
        self.x86(|x| x.registers()).map(Into::into)
    }

    /// Sets them.
    #[napi(catch_unwind)]
    pub fn set_registers(&self, registers: JsRegisters) -> Result<()> {
        let registers = registers.to_core()?;
        self.x86(|x| x.set_registers(&registers))
    }

    /// Segments and control registers.
    #[napi(catch_unwind)]
    pub fn system_registers(&self) -> Result<JsSystemRegisters> {
        self.x86(|x| x.system_registers()).map(Into::into)
    }

    /// Sets them.
    #[napi(catch_unwind)]
    pub fn set_system_registers(&self, registers: JsSystemRegisters) -> Result<()> {
        let registers = registers.to_core()?;
        self.x86(|x| x.set_system_registers(&registers))
    }

    /// Debug registers.
    #[napi(catch_unwind)]
    pub fn debug_registers(&self) -> Result<JsDebugRegisters> {
        self.x86(|x| x.debug_registers()).map(Into::into)
    }

    /// Sets them.
    #[napi(catch_unwind)]
    pub fn set_debug_registers(&self, registers: JsDebugRegisters) -> Result<()> {
        let registers = registers.to_core()?;
        self.x86(|x| x.set_debug_registers(&registers))
    }

    /// A model-specific register.
    #[napi(catch_unwind)]
    pub fn msr(&self, index: u32) -> Result<BigInt> {
        self.x86(|x| x.msr(index)).map(Into::into)
    }

    /// Sets one.
    #[napi(catch_unwind)]
    pub fn set_msr(&self, index: u32, value: BigInt) -> Result<()> {
        let value = word(&value, ErrorCode::InvalidArgument)?;
        self.x86(|x| x.set_msr(index, value))
    }

    /// The MSRs that make up the state of a vCPU.
    #[napi(catch_unwind)]
    pub fn msr_indices(&self) -> Result<Vec<u32>> {
        self.x86(|x| x.msr_indices())
    }

    /// x87, SSE and further state in the standard XSAVE format.
    #[napi(catch_unwind)]
    pub fn xsave(&self) -> Result<Uint8Array> {
        self.x86(|x| x.xsave()).map(Into::into)
    }

    /// Sets it.
    #[napi(catch_unwind)]
    pub fn set_xsave(&self, area: Uint8Array) -> Result<()> {
        self.x86(|x| x.set_xsave(&area))
    }

    /// Extended control register 0.
    #[napi(catch_unwind)]
    pub fn xcr0(&self) -> Result<BigInt> {
        self.x86(|x| x.xcr0()).map(Into::into)
    }

    /// Sets it.
    #[napi(catch_unwind)]
    pub fn set_xcr0(&self, value: BigInt) -> Result<()> {
        let value = word(&value, ErrorCode::InvalidArgument)?;
        self.x86(|x| x.set_xcr0(value))
    }

    /// Events on their way into the vCPU.
    #[napi(catch_unwind)]
    pub fn pending_events(&self) -> Result<JsPendingEvents> {
        self.x86(|x| x.pending_events()).map(Into::into)
    }

    /// Sets them.
    #[napi(catch_unwind)]
    pub fn set_pending_events(&self, events: JsPendingEvents) -> Result<()> {
        let events = events.to_core()?;
        self.x86(|x| x.set_pending_events(&events))
    }

    /// What CPUID says.
    #[napi(catch_unwind)]
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> Result<JsCpuid> {
        self.x86(|x| x.cpuid(leaf, subleaf)).map(Into::into)
    }
}
