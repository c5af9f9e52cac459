//! Which interrupt each of KVM's numbers stands for (KVM API, 4.52 `KVM_SET_GSI_ROUTING`). The table is only ever set whole.

use kvm_bindings::*;
use kvm_ioctls::VmFd;
use squib_core::x86::irqchip::{LINES, check_line, io_apic_input};
use squib_core::{Error, ErrorCode, IrqchipKind, Result};

use super::ioeoi::LevelMessages;
use crate::linux::errors::failed;

/// The table of a VM.
pub(super) struct Routes {
    irqchip: IrqchipKind,
    /// From 0, in the place of an I/O APIC's pins.
    level_messages: LevelMessages,
    /// From [`LINES`]: address and data of messages that have triggers.
    messages: Vec<Option<(u64, u32)>>,
}

impl Routes {
    pub(super) fn new(irqchip: IrqchipKind) -> Self {
        Self { irqchip, level_messages: LevelMessages::default(), messages: Vec::new() }
    }

    /// Hands KVM the table, as a VM begins.
    pub(super) fn begin(&self, vm: &VmFd) -> Result<()> {
        // Without lines there is nothing in it yet.
        if self.irqchip == IrqchipKind::Full { self.set(vm) } else { Ok(()) }
    }

    /// Makes KVM report the end of this level-triggered message's interrupt.
    pub(super) fn report_end(&mut self, vm: &VmFd, address: u64, data: u32) -> Result<()> {
        if self.level_messages.add((address, data)) { self.set(vm) } else { Ok(()) }
    }

    /// Gives a message a number.
    pub(super) fn add(&mut self, vm: &VmFd, address: u64, data: u32) -> Result<u32> {
        let free = self.messages.iter().position(Option::is_none).unwrap_or(self.messages.len());
        if free == self.messages.len() {
            self.messages.push(None);
        }
        self.messages[free] = Some((address, data));
        let set = self.set(vm);
        if set.is_err() {
            self.messages[free] = None;
        }
        set.map(|()| LINES + free as u32)
    }

    /// Takes the number of a message back.
    pub(super) fn remove(&mut self, vm: &VmFd, gsi: u32) -> Result<()> {
        let message = gsi.checked_sub(LINES).and_then(|at| self.messages.get_mut(at as usize));
        if message.and_then(Option::take).is_none() {
            return Ok(());
        }
        self.set(vm)
    }

    fn set(&self, vm: &VmFd) -> Result<()> {
        vm.set_gsi_routing(&self.table()?).map_err(|e| failed("KVM_SET_GSI_ROUTING", e))
    }

    fn table(&self) -> Result<KvmIrqRouting> {
        KvmIrqRouting::from_entries(&self.entries()).map_err(|_| {
            let message =
                "KVM has no room for one more message with a trigger: drop triggers that are not needed";
            Error::new(ErrorCode::Unsupported, message)
        })
    }

    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        // KVM has none of them for a split irqchip. The cascade is no line of a device's, and its input of the I/O APIC is the 8254's.
        let lines = if self.irqchip == IrqchipKind::Full { LINES } else { 0 };
        let lines = || (0..lines).filter(|gsi| check_line(*gsi).is_ok());
        let pic = |gsi: u32| {
            line(gsi, if gsi < 8 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE }, gsi % 8)
        };
        let io_apic = |gsi: u32| line(gsi, KVM_IRQCHIP_IOAPIC, io_apic_input(gsi));
        let level = (0..).zip(self.level_messages.iter()).map(message);
        let triggered =
            (LINES..).zip(&self.messages).filter_map(|(gsi, m)| Some(message((gsi, m.as_ref()?))));
        let pics = lines().take_while(|gsi| *gsi < 16).map(pic);
        pics.chain(lines().map(io_apic)).chain(level).chain(triggered).collect()
    }
}

fn line(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn message((gsi, &(address, data)): (u32, &(u64, u32))) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = address as u32;
    entry.u.msi.address_hi = (address >> 32) as u32;
    entry.u.msi.data = data;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_messages_than_kvm_has_room_for_are_refused() {
        let mut routes = Routes::new(IrqchipKind::Full);
        routes.messages = vec![Some((0xfee0_0000, 0x41)); 4000];
        routes.table().unwrap();
        routes.messages.resize(5000, Some((0xfee0_0000, 0x41)));
        assert_eq!(routes.table().err().unwrap().code(), ErrorCode::Unsupported);
    }

    #[test]
    fn lines_stay_and_messages_come_behind_them() {
        let mut routes = Routes::new(IrqchipKind::Full);
        routes.messages = vec![None, Some((0xfee0_0000, 0x41))];
        let entries = routes.entries();
        let gsis: Vec<_> = entries.iter().map(|entry| entry.gsi).collect();
        assert_eq!(
            gsis,
            [0, 1].into_iter().chain(3..16).chain([0, 1]).chain(3..24).chain([25]).collect::<Vec<_>>()
        );
        assert_eq!([0, 1, 3, 23].map(io_apic_input), [2, 1, 3, 23]);
        routes = Routes { irqchip: IrqchipKind::Split, ..routes };
        assert!(routes.level_messages.add((0xfee0_0000, 0x8042)));
        assert_eq!(routes.entries().iter().map(|entry| entry.gsi).collect::<Vec<_>>(), [0, 25]);
    }
}
