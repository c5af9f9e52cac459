//! The backends this addon is built with.

use std::collections::HashMap;
use std::sync::Arc;

use napi_derive::napi;
use squib_core::arm64::gic::GicVersion;
use squib_core::{Architecture, DirtyTracking, Error, ErrorCode, ExitKind, HypervisorBackend, IrqchipKind};
use squib_kvm::{KvmBackend, Step};
use squib_soft::{CpuModel, SoftBackend};
use squib_vmm::host::SystemEntropy;

use crate::error::{Result, thrown};

/// The backends that can be named.
#[napi(js_name = "BackendKind", string_enum = "lowercase")]
#[derive(Debug)]
pub enum JsBackendKind {
    /// Linux KVM.
    Kvm,
    /// squib's own CPU.
    Soft,
}

/// Which interrupt controllers live inside the backend.
#[napi(js_name = "IrqchipKind", string_enum = "lowercase")]
#[derive(Debug)]
pub enum JsIrqchipKind {
    /// None.
    None,
    /// A local APIC for each vCPU.
    Split,
    /// Local APICs, I/O APIC, two 8259 and the 8254; on aarch64 a GIC.
    Full,
}

impl From<JsIrqchipKind> for IrqchipKind {
    fn from(kind: JsIrqchipKind) -> Self {
        match kind {
            JsIrqchipKind::None => Self::None,
            JsIrqchipKind::Split => Self::Split,
            JsIrqchipKind::Full => Self::Full,
        }
    }
}

impl From<IrqchipKind> for JsIrqchipKind {
    fn from(kind: IrqchipKind) -> Self {
        match kind {
            IrqchipKind::None => Self::None,
            IrqchipKind::Split => Self::Split,
            IrqchipKind::Full => Self::Full,
        }
    }
}

/// Opens a backend, with vCPUs of the model `cpu`.
///
/// # Errors
/// Those of the backend and of [`CpuModel::parse`]; [`ErrorCode::Unsupported`] for a model on KVM.
pub(crate) fn open(
    kind: &JsBackendKind,
    cpu: Option<&str>,
) -> squib_core::Result<Arc<dyn HypervisorBackend>> {
    match kind {
        JsBackendKind::Kvm if cpu.is_some() => Err(Error::new(
            ErrorCode::Unsupported,
            "KVM gives guests the host's CPU; only the soft backend has CPU models",
        )),
        JsBackendKind::Kvm => Ok(Arc::new(KvmBackend::open()?)),
        JsBackendKind::Soft => {
            let model = cpu.map_or_else(|| Ok(CpuModel::default()), CpuModel::parse)?;
            let backend = SoftBackend::new(model);
            Ok(Arc::new(match SystemEntropy::open() {
                Ok(entropy) => backend.with_entropy(entropy),
                // RDRAND then says that it has no numbers.
                Err(_) => backend,
            }))
        }
    }
}

/// What a backend's guests run on.
#[napi(js_name = "Architecture", string_enum)]
#[derive(Debug)]
pub enum JsArchitecture {
    /// x86-64.
    #[napi(value = "x86_64")]
    X86_64,
    /// aarch64.
    #[napi(value = "arm64")]
    Arm64,
}

/// Which generic interrupt controller a backend has on aarch64.
#[napi(js_name = "GicVersion", string_enum = "lowercase")]
#[derive(Debug)]
pub enum JsGicVersion {
    /// GICv2 (IHI 0048), for 8 vCPUs at most.
    V2,
    /// GICv3 (IHI 0069).
    V3,
}

/// What a backend can do.
#[napi(object, object_from_js = false)]
pub struct BackendCapabilities {
    /// What its guests run on.
    pub architecture: JsArchitecture,
    /// The kinds of exit that it can produce.
    #[napi(ts_type = "VmExit['kind'][]")]
    pub exits: Vec<&'static str>,
    /// Most vCPUs of a VM.
    pub max_vcpus: u32,
    /// Whether it can tell which pages a guest wrote.
    pub dirty_tracking: bool,
    /// Most entries of a dirty ring, where VMs can have those.
    pub dirty_ring: Option<u32>,
    /// Whether each vCPU exit reaches the caller.
    pub exposes_exits: bool,
    /// The interrupt controllers that it can host.
    pub irqchips: Vec<JsIrqchipKind>,
    /// The GIC that the irqchip `full` is; only on aarch64.
    pub gic: Option<JsGicVersion>,
    /// Whether an instruction budget can be set.
    pub instruction_budget: bool,
    /// Frequency of the guest's time-stamp counter in kHz, where it is fixed.
    pub tsc_khz: Option<u32>,
}

/// What a backend can do here.
#[napi(catch_unwind)]
pub fn backend_capabilities(backend: JsBackendKind) -> Result<BackendCapabilities> {
    let backend = open(&backend, None).map_err(|e| thrown(&e))?;
    let c = backend.capabilities();
    Ok(BackendCapabilities {
        architecture: match c.architecture {
            Architecture::X86_64 => JsArchitecture::X86_64,
            Architecture::Arm64 => JsArchitecture::Arm64,
        },
        exits: c.exits.iter().map(ExitKind::name).collect(),
        max_vcpus: c.max_vcpus,
        dirty_tracking: c.dirty_tracking != DirtyTracking::None,
        dirty_ring: match c.dirty_tracking {
            DirtyTracking::BitmapOrRing { max_entries } => Some(max_entries),
            DirtyTracking::None | DirtyTracking::Bitmap => None,
        },
        exposes_exits: c.exposes_exits,
        irqchips: c.irqchips.iter().copied().map(Into::into).collect(),
        gic: c.gic.map(|version| match version {
            GicVersion::V2 => JsGicVersion::V2,
            GicVersion::V3 => JsGicVersion::V3,
        }),
        instruction_budget: c.instruction_budget,
        tsc_khz: c.tsc_khz,
    })
}

/// How one step of a probe went.
#[napi(object, object_from_js = false)]
pub struct ProbeStep {
    /// What was tried.
    pub name: &'static str,
    /// Whether it works; nothing when an earlier step failed.
    pub works: Option<bool>,
    /// Why it does not work, and what to do.
    pub why: Option<String>,
}

/// What the machine's KVM is worth.
#[napi(object, object_from_js = false)]
pub struct KvmReport {
    /// What was tried, in order.
    pub steps: Vec<ProbeStep>,
    /// Version of the interface.
    pub api_version: Option<i32>,
    /// Speed of kernel code (ring 0, EL1), in millions of instructions a second.
    pub kernel_mips: Option<f64>,
    /// Frequency of the guest's time-stamp counter in kHz.
    pub tsc_khz: Option<u32>,
    /// The kernel's capabilities that squib knows a use for.
    pub capabilities: HashMap<&'static str, i32>,
    /// Whether guests as large as Linux run here as hardware runs them.
    pub runs_guests_at_speed: bool,
    /// Why the verdict is what it is.
    pub reason: String,
}

/// Tries the machine's KVM with small guests. Takes a fraction of a second at most.
#[napi(catch_unwind)]
pub fn probe_kvm() -> KvmReport {
    let report = squib_kvm::probe();
    let steps = [("open /dev/kvm", report.opens), ("create a VM", report.creates_vm)];
    let step = |(name, step)| match step {
        Step::Untried => ProbeStep { name, works: None, why: None },
        Step::Works => ProbeStep { name, works: Some(true), why: None },
        Step::Failed(why) => ProbeStep { name, works: Some(false), why: Some(why) },
    };
    KvmReport {
        steps: steps.into_iter().chain(report.programs).map(step).collect(),
        api_version: report.api_version,
        kernel_mips: report.kernel_mips,
        tsc_khz: report.tsc_khz,
        capabilities: report.capabilities.into_iter().collect(),
        runs_guests_at_speed: report.runs_guests_at_speed,
        reason: report.reason,
    }
}
