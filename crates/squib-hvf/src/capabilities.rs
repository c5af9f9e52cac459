//! What macOS' two frameworks can do for squib.

use squib_core::{Architecture, BackendCapabilities, ExitKind, ExitSet};

/// Hypervisor.framework on Apple silicon, with `max_vcpus` as `hv_vm_get_max_vcpu_count` says.
pub fn hypervisor_framework(max_vcpus: u32) -> BackendCapabilities {
    BackendCapabilities::new(
        Architecture::Arm64,
        ExitSet::of(&[
            ExitKind::Mmio,
            ExitKind::Hypercall,
            ExitKind::Wfi,
            ExitKind::Wfe,
            ExitKind::Debug,
            ExitKind::Cancelled,
            ExitKind::Completed,
            ExitKind::MsrRead,
            ExitKind::MsrWrite,
            ExitKind::MemoryFault,
            ExitKind::SystemEvent,
            ExitKind::Unsupported,
            ExitKind::Unknown,
        ]),
        max_vcpus,
    )
}

/// Virtualization.framework, which runs whole machines with devices of its own: no exit of a vCPU reaches the caller.
pub fn virtualization_framework(max_vcpus: u32) -> BackendCapabilities {
    let mut capabilities = BackendCapabilities::new(Architecture::Arm64, ExitSet::default(), max_vcpus);
    capabilities.exposes_exits = false;
    capabilities.irqchips = &[];
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hypervisor_exposes_exits() {
        let hypervisor = hypervisor_framework(8);
        assert!(hypervisor.exposes_exits && hypervisor.exits.contains(ExitKind::Mmio));
        assert!(!hypervisor.exits.contains(ExitKind::Pio) && !hypervisor.exits.contains(ExitKind::Hlt));
        let machines = virtualization_framework(8);
        assert!(!machines.exposes_exits && machines.exits.iter().next().is_none());
        assert_eq!(machines.max_vcpus, 8);
    }
}
