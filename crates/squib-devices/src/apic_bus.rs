//! The local APICs of a machine and the delivery of messages among them.

use crate::apic::LocalApic;
use crate::cpu_set::CpuSet;
use crate::message::{DeliveryMode, InterruptMessage};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApicBus {
    pub(crate) apics: Vec<LocalApic>,
    /// Processors that may have something new to do.
    pub(crate) changed: CpuSet,
    /// Who comes first in the next lowest-priority arbitration among equals.
    first: usize,
}

impl ApicBus {
    pub(crate) fn new(cpus: usize) -> Self {
        let apics = (0..cpus).map(|id| LocalApic::new(id as u32, id == 0)).collect();
        Self { apics, changed: CpuSet::EMPTY, first: 0 }
    }

    /// Delivers `message` to everyone it addresses but `except`. Whether anyone has accepted it.
    pub(crate) fn deliver(&mut self, message: &InterruptMessage, except: Option<usize>) -> bool {
        if message.delivery == DeliveryMode::LowestPriority {
            let chosen = self.arbitrate(message, except);
            return chosen.is_some_and(|cpu| self.deliver_to(cpu, message));
        }
        let mut accepted = false;
        for cpu in 0..self.apics.len() {
            if Some(cpu) != except && self.apics[cpu].is_addressed_by(message.destination) {
                accepted |= self.deliver_to(cpu, message);
            }
        }
        accepted
    }

    fn deliver_to(&mut self, cpu: usize, message: &InterruptMessage) -> bool {
        let accepted = self.apics[cpu].deliver(message.delivery, message.vector, message.trigger);
        // A refusal may have raised an error interrupt.
        self.changed.insert(cpu);
        accepted
    }

    fn arbitrate(&mut self, message: &InterruptMessage, except: Option<usize>) -> Option<usize> {
        let count = self.apics.len();
        let (_, _, chosen) = (0..count)
            .filter(|cpu| Some(*cpu) != except && self.apics[*cpu].is_addressed_by(message.destination))
            .filter_map(|cpu| {
                let priority = self.apics[cpu].arbitration_priority()? >> 4;
                Some((priority, (cpu + count - self.first) % count, cpu))
            })
            .min()?;
        self.first = (chosen + 1) % count;
        Some(chosen)
    }
}
