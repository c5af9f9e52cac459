//! The soft vCPU as system instructions see it.

use squib_devices::apic::{LocalApic, MSR_APIC_BASE};
use squib_devices::irqchip::Irqchip;
use squib_x86::env::{Env, Flush, Leave, Rights};
use squib_x86::model::CpuModel;
use squib_x86::state::Shadow;
use squib_x86::system::debug::{self, Watched};
use squib_x86::system::paging::{Access, PhysMem};
use squib_x86::{CpuState, Exception, Size, Stop};

use crate::cpu::Cpu;
use crate::mmu::WalkMemory;
use crate::replay;

/// IA32_TSC_DEADLINE.
const MSR_TSC_DEADLINE: u32 = 0x6e0;

impl Cpu {
    fn access_for(&self, write: bool, rights: Rights) -> Access {
        let ac = self.state.sys_flags & squib_core::x86::bits::RFLAGS_AC != 0;
        let user = match rights {
            Rights::Current => self.state.cpl == 3,
            Rights::System => false,
            Rights::User => true,
        };
        Access { write, fetch: false, user, smap_open: rights == Rights::Current && !user && ac }
    }

    /// Looks whether the local APIC has something for this vCPU.
    pub(crate) fn note_interrupts(&mut self) {
        let look = |chip: &mut Irqchip, cpu| (chip.interrupt_pending(cpu), chip.signal_pending(cpu));
        let (pending, signalled) = self.platform.with(look).unwrap_or_default();
        if pending && !self.interrupt_pending || signalled {
            self.recheck();
        }
        self.interrupt_pending = pending;
        self.signalled = signalled;
    }

    /// Ends the run after this instruction, unless something ends it already.
    fn recheck(&mut self) {
        self.leave.get_or_insert(Leave::Recheck);
    }

    fn ticks_to_ns(&self, ticks: u64) -> u64 {
        let khz = u128::from(self.model.tsc_khz.max(1));
        u64::try_from(u128::from(ticks) * 1_000_000 / khz).unwrap_or(u64::MAX)
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }
}

impl Env for Cpu {
    fn state(&mut self) -> &mut CpuState {
        &mut self.state
    }

    fn state_ref(&self) -> &CpuState {
        &self.state
    }

    fn read(&mut self, addr: u64, size: Size, rights: Rights) -> Result<u64, Stop> {
        if rights == Rights::Current {
            return self.load(addr, size).map_err(|_| self.stop.take().unwrap_or(Stop::Exit));
        }
        self.read_with(addr, size, self.access_for(false, rights))
    }

    fn write(&mut self, addr: u64, size: Size, value: u64, rights: Rights) -> Result<(), Stop> {
        if rights == Rights::Current {
            return self
                .store(addr, size, size.trunc(value))
                .map_err(|_| self.stop.take().unwrap_or(Stop::Exit));
        }
        self.write_with(addr, size, size.trunc(value), self.access_for(true, rights))
    }

    fn probe_write(&mut self, addr: u64, len: u64, rights: Rights) -> Result<(), Stop> {
        // Longer operands have alignments of their own.
        if rights == Rights::Current && len.is_power_of_two() && len <= 8 {
            self.check_alignment(addr, len)?;
        }
        self.probe_with(addr, len, self.access_for(true, rights))
    }

    fn load_physical(&mut self, addr: u64) -> u64 {
        WalkMemory(self.memory.regions()).load_u64(addr)
    }

    fn flush(&mut self, what: Flush) {
        for set in self.tlbs.iter_mut() {
            for tlb in [&mut set.read, &mut set.write, &mut set.fetch] {
                match what {
                    Flush::All => tlb.flush(false),
                    Flush::NonGlobal => tlb.flush(true),
                    Flush::Page(addr) => tlb.flush_page(addr),
                }
            }
        }
        self.code_generation += 1;
    }

    fn mode_changed(&mut self) {
        self.refresh_mode();
    }

    fn host_tsc(&mut self) -> u64 {
        let ticks = u128::from(self.now_ns()) * u128::from(self.model.tsc_khz) / 1_000_000;
        ticks as u64
    }

    fn model(&self) -> &CpuModel {
        &self.model
    }

    fn task_priority(&mut self) -> u8 {
        self.platform.with(|chip, cpu| chip.cr8(cpu)).unwrap_or(0)
    }

    fn set_task_priority(&mut self, value: u8) {
        self.platform.with(|chip, cpu| chip.set_cr8(cpu, value));
        self.note_interrupts();
    }

    fn platform_rdmsr(&mut self, index: u32) -> Result<u64, Stop> {
        let now = self.now_ns();
        let found = self.platform.with(|chip, cpu| match index {
            MSR_TSC_DEADLINE => Some(Ok(chip.tsc_deadline(cpu))),
            _ => chip.msr_read(cpu, index, now),
        });
        // Reading a register may find a timer due.
        self.note_interrupts();
        match found.flatten() {
            Some(Ok(value)) => Ok(value),
            Some(Err(_)) => Err(Exception::GP0.into()),
            None => {
                self.unknown_msrs += 1;
                Err(Exception::GP0.into())
            }
        }
    }

    fn platform_wrmsr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        let now = self.now_ns();
        let due = self.ticks_to_ns(value.wrapping_sub(self.state.msr.tsc_offset));
        if index == MSR_APIC_BASE && value & !self.model.physical_mask() != 0 {
            return Err(Exception::GP0.into());
        }
        let found = self.platform.with(|chip, cpu| match index {
            MSR_TSC_DEADLINE => {
                chip.set_tsc_deadline(cpu, value, due);
                chip.tick(now);
                Some(Ok(()))
            }
            _ => chip.msr_write(cpu, index, value, now),
        });
        match found.flatten() {
            Some(Ok(())) => {
                if index == MSR_APIC_BASE {
                    let enabled =
                        |chip: &mut Irqchip, cpu| chip.apic(cpu).is_some_and(LocalApic::hardware_enabled);
                    self.state.apic_disabled = self.platform.with(enabled) == Some(false);
                }
                self.note_interrupts();
                Ok(())
            }
            Some(Err(_)) => Err(Exception::GP0.into()),
            None => {
                self.unknown_msrs += 1;
                Err(Exception::GP0.into())
            }
        }
    }

    fn random(&mut self) -> Option<u64> {
        let mut bytes = [0; 8];
        self.entropy.as_ref()?.fill(&mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn step_trap(&mut self) {
        self.hits |= debug::DR6_BS;
        self.recheck();
    }

    fn leave(&mut self, why: Leave) {
        match why {
            // Nothing waits, so nothing can become deliverable; before the end of the quantum nobody looks again either.
            Leave::Recheck if !self.has_waiting() => {
                if self.left > 0 {
                    self.state.shadow = Shadow::None;
                }
            }
            Leave::Recheck => self.recheck(),
            _ => self.leave = Some(why),
        }
    }

    fn port_read(&mut self, port: u16, size: Size) -> Result<u64, Stop> {
        let access = replay::Access {
            addr: u64::from(port),
            width: size.bytes() as u8,
            port: true,
            ..Default::default()
        };
        self.port_access(access)
    }

    fn port_write(&mut self, port: u16, size: Size, value: u64) -> Result<(), Stop> {
        let access = replay::Access {
            addr: u64::from(port),
            width: size.bytes() as u8,
            port: true,
            write: true,
            value: size.trunc(value),
        };
        self.port_access(access).map(drop)
    }

    fn begin_element(&mut self) {
        self.replay.clear();
    }

    fn code_version(&self) -> u64 {
        self.code_generation
    }

    fn fill(&mut self, addr: u64, size: Size, value: u64, count: u64) -> u64 {
        self.fill_page(addr, size, value, count)
    }

    fn copy(&mut self, to: u64, from: u64, size: Size, count: u64) -> u64 {
        self.copy_page(to, from, size, count)
    }

    fn pv_clock_changed(&mut self) {
        self.update_pv_clock();
    }
}

impl Cpu {
    fn port_access(&mut self, access: replay::Access) -> Result<u64, Stop> {
        if debug::armed(&self.state) {
            self.hits |= debug::conditions(&self.state, Watched::Port, access.addr, access.width.into());
        }
        let now = self.now_ns();
        if let Some(value) = self.platform.port_access(&access, now) {
            self.note_interrupts();
            return Ok(value);
        }
        self.ask(access)
    }
}
