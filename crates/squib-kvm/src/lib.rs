//! The Linux KVM backend.
