//! What a probe found, for people and for the choice of a backend.

/// Ring-0 guest code below this speed means that KVM interprets it, MIPS.
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
    /// Whether a real-mode guest gets as far as an `OUT`.
    pub real_mode: Step,
    /// Whether a 64-bit guest with paging does.
    pub long_mode: Step,
    /// Whether SSE instructions run. Linux and all 64-bit programs need them.
    pub sse: Step,
    /// Speed of a short loop of the guest in ring 0, in millions of instructions a second.
    pub ring0_mips: Option<f64>,
    /// Frequency of the guest's time-stamp counter in kHz.
    pub tsc_khz: Option<u32>,
    /// The kernel's KVM capabilities that squib knows a use for, by their name without `KVM_CAP_`, with the
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
        let steps = [&self.opens, &self.creates_vm, &self.real_mode, &self.long_mode, &self.sse];
        let failure = steps.into_iter().find_map(|step| match step {
            Step::Failed(why) => Some(why.clone()),
            Step::Untried | Step::Works => None,
        });
        let slow = self.ring0_mips.filter(|mips| *mips < AT_SPEED_MIPS).map(|mips| {
            format!(
                "this KVM has no hardware virtualisation under it: it interprets ring 0, at {mips:.1} MIPS"
            )
        });
        (self.runs_guests_at_speed, self.reason) = match (slow.or(failure), self.ring0_mips) {
            (Some(why), _) => (false, why),
            (None, Some(mips)) => (true, format!("guests run on the processor, ring 0 at {mips:.0} MIPS")),
            (None, None) => (false, "the speed of a guest could not be measured".into()),
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sse: Step, ring0_mips: Option<f64>) -> ProbeReport {
        let works = || Step::Works;
        ProbeReport {
            opens: works(),
            creates_vm: works(),
            real_mode: works(),
            long_mode: works(),
            sse,
            ring0_mips,
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
