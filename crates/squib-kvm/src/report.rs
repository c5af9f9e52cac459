//! What a probe found, for people and for the choice of a backend.

/// Kernel code of a guest below this speed means that KVM interprets it, MIPS.
///
/// Interpreting KVMs do 1 to 5, processors thousands, an emulated processor with a real KVM on it 150.
pub(crate) const AT_SPEED_MIPS: f64 = 25.0;

/// How one step of a probe went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Step {
    /// An earlier step failed, so this one was not tried.
    #[default]
    Untried,
    /// It works.
    Works,
    /// It does not, for this reason.
    Failed(String),
}

impl Step {
    /// Whether it works.
    pub fn works(&self) -> bool {
        *self == Self::Works
    }
}

/// What [`probe`](crate::probe) found out about this machine's KVM.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct ProbeReport {
    /// Whether `/dev/kvm` opens and speaks the interface that the backend needs; says what to do if not.
    pub opens: Step,
    /// The interface's version (KVM API, 4.1 `KVM_GET_API_VERSION`); 12 since Linux 2.6.22.
    pub api_version: Option<i32>,
    /// Whether a VM can be made.
    pub creates_vm: Step,
    /// Small guests that were tried, by what they do, in order. The last uses vector registers, which Linux and its
    /// programs need.
    pub programs: Vec<(&'static str, Step)>,
    /// Speed of a short loop of the guest in kernel mode (ring 0, EL1), in millions of instructions a second.
    pub kernel_mips: Option<f64>,
    /// Frequency of the guest's time-stamp counter in kHz; only on x86.
    pub tsc_khz: Option<u32>,
    /// The kernel's KVM capabilities that squib uses, by their name without `KVM_CAP_`, with the
    /// value that `KVM_CHECK_EXTENSION` gives: 0 is absent.
    pub capabilities: Vec<(&'static str, i32)>,
    /// The verdict: whether guests as large as Linux run here as hardware runs them.
    pub runs_guests_at_speed: bool,
    /// Why the verdict is what it is.
    pub reason: String,
}

impl ProbeReport {
    /// The report with its verdict.
    pub(crate) fn judged(mut self) -> Self {
        let programs = self.programs.iter().map(|(_, step)| step);
        let failure =
            [&self.opens, &self.creates_vm].into_iter().chain(programs).find_map(|step| match step {
                Step::Failed(why) => Some(why.clone()),
                Step::Untried | Step::Works => None,
            });
        let slow = self.kernel_mips.filter(|mips| *mips < AT_SPEED_MIPS).map(|mips| {
            format!(
                "this KVM has no hardware virtualisation under it: it interprets kernel code, at {mips:.1} MIPS"
            )
        });
        (self.runs_guests_at_speed, self.reason) = match (slow.or(failure), self.kernel_mips) {
            (Some(why), _) => (false, why),
            (None, Some(mips)) => {
                (true, format!("guests run on the processor, kernel code at {mips:.0} MIPS"))
            }
            (None, None) => (false, "the speed of a guest could not be measured".into()),
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sse: Step, kernel_mips: Option<f64>) -> ProbeReport {
        let works = || Step::Works;
        ProbeReport {
            opens: works(),
            creates_vm: works(),
            programs: vec![("run 64-bit code", works()), ("run SSE instructions", sse)],
            kernel_mips,
            ..ProbeReport::default()
        }
        .judged()
    }

    #[test]
    fn the_verdict_needs_every_step_and_speed() {
        assert!(report(Step::Works, Some(3000.0)).runs_guests_at_speed);
        let slow = report(Step::Works, Some(1.4));
        assert!(!slow.runs_guests_at_speed && slow.reason.contains("1.4 MIPS"), "{}", slow.reason);
        let both = report(Step::Failed("no SSE".into()), Some(1.4));
        assert!(both.reason.contains("1.4 MIPS"), "the cause before the symptom: {}", both.reason);
        let no_sse = report(Step::Failed("no SSE".into()), Some(3000.0));
        assert!(!no_sse.runs_guests_at_speed);
        assert_eq!(no_sse.reason, "no SSE");
        assert!(!report(Step::Works, None).runs_guests_at_speed);
        assert!(!ProbeReport::default().judged().runs_guests_at_speed);
    }
}
