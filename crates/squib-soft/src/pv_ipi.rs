//! The hypercall that the processors answer among themselves: KVM_HC_SEND_IPI (Linux,
//! Documentation/virt/kvm/x86/hypercalls.rst; numbers from include/uapi/linux/kvm_para.h).
//!
//! CPUID does not offer it: an interrupt command costs no exit here, which is what the call saves under other hypervisors. KVM
//! answers it to guests that do not ask, and so does squib.

use squib_devices::message::DeliveryMode;
use squib_x86::{CodeMode, Size};

use crate::cpu::Cpu;

const SEND_IPI: u64 = 10;

/// The fields of the interrupt command that have to be zero: destination mode and shorthand.
const DESTINATION: u64 = 1 << 11 | 3 << 18;

/// -KVM_EPERM, -KVM_EINVAL.
const NOT_PERMITTED: i64 = -1;
const INVALID: i64 = -22;

impl Cpu {
    /// The result of the hypercall that the registers name; `None` where it is not the processors' own.
    pub(crate) fn own_hypercall(&mut self) -> Option<u64> {
        let width = if self.state.mode == CodeMode::Bits64 { Size::B8 } else { Size::B4 };
        let [number, low, high, first, command] = [0, 3, 1, 2, 6].map(|r| width.trunc(self.state.r[r]));
        if number != SEND_IPI || !self.platform.is_present() {
            return None;
        }
        let result = if self.state.cpl != 0 {
            NOT_PERMITTED
        } else if command & DESTINATION != 0 {
            INVALID
        } else {
            let set = u128::from(low) | u128::from(high) << width.bits();
            let delivery = DeliveryMode::from_bits((command >> 8) as u32);
            let send = |delivery| {
                self.platform.with(|chip, _| chip.signal_set(first as u32, set, delivery, command as u8))
            };
            let accepted = delivery.and_then(send).unwrap_or(0);
            self.note_interrupts();
            i64::from(accepted)
        };
        Some(width.trunc(result as u64))
    }
}
