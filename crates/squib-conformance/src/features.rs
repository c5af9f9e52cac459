//! Which features both processors have.

use iced_x86::{Code, CpuidFeature as F, Mnemonic as M};
use squib_x86::model::{CpuModel, Feature};
use squib_x86::offer;

use crate::host::is_amd;
use crate::vendor;

/// The features of the two processors.
pub struct Features {
    model: CpuModel,
    /// The host's, as `/proc/cpuinfo` names them; `None` where the host is not asked.
    host: Option<Vec<String>>,
    /// Whether it is AMD's.
    amd: bool,
}

/// Who lacks an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// squib's CPU model.
    Model,
    /// The host.
    Host,
}

impl Features {
    /// Those of the model, and of the host if that is to be asked.
    ///
    /// # Errors
    /// What the host does not tell.
    pub fn new(model: CpuModel, ask_host: bool) -> Result<Self, String> {
        let host = if ask_host {
            let text = std::fs::read_to_string("/proc/cpuinfo").map_err(|e| format!("/proc/cpuinfo: {e}"))?;
            let flags = text.lines().find_map(|l| l.strip_prefix("flags")?.split_once(':'));
            let (_, flags) = flags.ok_or("/proc/cpuinfo names no flags")?;
            Some(flags.split_whitespace().map(str::to_owned).collect())
        } else {
            None
        };
        Ok(Self { model, host, amd: ask_host && is_amd() })
    }

    fn host_has(&self, feature: Feature) -> bool {
        self.host.as_ref().is_none_or(|flags| flags.iter().any(|f| f == feature.name()))
    }

    /// Whether both processors have the instruction.
    ///
    /// # Errors
    /// Which has not.
    pub fn have(&self, code: Code) -> Result<(), Lacks> {
        // Hints, which are reserved NOPs to those who do not know them.
        if matches!(
            code.mnemonic(),
            M::Endbr32 | M::Endbr64 | M::Prefetchw | M::Prefetch | M::Rdsspd | M::Rdsspq
        ) {
            return Ok(());
        }
        if !offer::offers(&self.model, code) {
            return Err(Lacks::Model);
        }
        if self.amd && vendor::amd_lacks(code) {
            return Err(Lacks::Host);
        }
        let of_host = |c: &F| offer::feature(*c).is_none_or(|feature| self.host_has(feature));
        if code.cpuid_features().iter().all(of_host) { Ok(()) } else { Err(Lacks::Host) }
    }
}
