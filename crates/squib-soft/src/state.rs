//! A soft vCPU's registers in portable types.

use squib_core::x86::bits::*;
use squib_core::x86::{
    Activity, CpuidResult, DebugRegisters, DescriptorTable, PendingEvents, Registers, Segment,
    SystemRegisters, X86State,
};
use squib_core::{Error, ErrorCode, Result};
use squib_devices::apic::MSR_APIC_BASE;
use squib_x86::env::{Env, Flush};
use squib_x86::state::{Seg, Shadow, Table, sreg};
use squib_x86::system::msr::{self, Effect, Refused};
use squib_x86::system::{self, debug};

use crate::vcpu::SoftVcpu;

fn refuse(what: &str) -> Error {
    Error::new(ErrorCode::InvalidArgument, format!("no x86 processor can be in this state: {what}"))
}

fn table(t: Table) -> DescriptorTable {
    DescriptorTable { base: t.base, limit: t.limit }
}

/// Checks what the processor checks when it loads control registers (Intel SDM vol. 3, 2.5 and 10.8.5).
fn check(r: &SystemRegisters) -> Result<()> {
    let set = |v: u64, bits: u64| v & bits == bits;
    if set(r.cr0, CR0_PG) && !set(r.cr0, CR0_PE) {
        return Err(refuse("CR0.PG without CR0.PE"));
    }
    if set(r.cr0, CR0_NW) && !set(r.cr0, CR0_CD) {
        return Err(refuse("CR0.NW without CR0.CD"));
    }
    if set(r.efer, EFER_LMA) != (set(r.efer, EFER_LME) && set(r.cr0, CR0_PG)) {
        return Err(refuse("EFER.LMA must be set exactly where EFER.LME and CR0.PG are"));
    }
    if set(r.efer, EFER_LMA) && !set(r.cr4, CR4_PAE) {
        return Err(refuse("long mode without CR4.PAE"));
    }
    if set(r.efer, EFER_LMA) && r.cs.long && r.cs.big {
        return Err(refuse("CS with both L and D"));
    }
    if r.cr8 > 15 {
        return Err(refuse("CR8 above 15"));
    }
    Ok(())
}

impl X86State for SoftVcpu {
    fn registers(&mut self) -> Result<Registers> {
        let s = &self.cpu.state;
        let gprs = std::array::from_fn(|i| s.r[i]);
        Ok(Registers::from_gprs(gprs, s.rip, s.rflags()))
    }

    fn set_registers(&mut self, regs: &Registers) -> Result<()> {
        let s = &mut self.cpu.state;
        s.r[..16].copy_from_slice(&regs.gprs());
        s.rip = regs.rip;
        s.set_rflags(regs.rflags);
        self.cpu.refresh_mode();
        self.state_was_set();
        Ok(())
    }

    fn system_registers(&mut self) -> Result<SystemRegisters> {
        let apic_base = self.cpu.platform_rdmsr(MSR_APIC_BASE).unwrap_or(0);
        let cr8 = u64::from(self.cpu.task_priority());
        let s = &self.cpu.state;
        let seg = |i: usize| Segment::from(&s.seg[i]);
        Ok(SystemRegisters {
            es: seg(sreg::ES),
            cs: seg(sreg::CS),
            ss: seg(sreg::SS),
            ds: seg(sreg::DS),
            fs: seg(sreg::FS),
            gs: seg(sreg::GS),
            ldt: Segment::from(&s.ldt),
            tr: Segment::from(&s.tr),
            gdt: table(s.gdt),
            idt: table(s.idt),
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8,
            efer: s.efer,
            apic_base,
        })
    }

    fn set_system_registers(&mut self, r: &SystemRegisters) -> Result<()> {
        check(r)?;
        let s = &mut self.cpu.state;
        s.seg = [&r.es, &r.cs, &r.ss, &r.ds, &r.fs, &r.gs].map(Seg::from);
        s.ldt = Seg::from(&r.ldt);
        s.tr = Seg::from(&r.tr);
        s.gdt = Table { base: r.gdt.base, limit: r.gdt.limit };
        s.idt = Table { base: r.idt.base, limit: r.idt.limit };
        (s.cr0, s.cr2, s.cr3, s.cr4, s.efer) = (r.cr0, r.cr2, r.cr3, r.cr4, r.efer);
        s.cpl = if s.protected() { s.seg[sreg::SS].dpl() } else { 0 };
        self.cpu.set_task_priority(r.cr8 as u8);
        if r.apic_base != 0 {
            // Refused values leave the base as it was; a vCPU without a local APIC has none.
            let _ = self.cpu.platform_wrmsr(MSR_APIC_BASE, r.apic_base);
        }
        self.cpu.flush(Flush::All);
        self.cpu.refresh_mode();
        self.state_was_set();
        Ok(())
    }

    fn debug_registers(&mut self) -> Result<DebugRegisters> {
        let s = &self.cpu.state;
        Ok(DebugRegisters { db: s.dr, dr6: s.dr6, dr7: s.dr7 })
    }

    fn set_debug_registers(&mut self, regs: &DebugRegisters) -> Result<()> {
        let s = &mut self.cpu.state;
        (s.dr, s.dr6, s.dr7) = (regs.db, regs.dr6, regs.dr7);
        debug::changed(&mut self.cpu);
        Ok(())
    }

    fn msr(&mut self, index: u32) -> Result<u64> {
        let host_tsc = self.cpu.host_tsc();
        let own = msr::get(&self.cpu.state, &self.cpu.model, host_tsc, index);
        own.or_else(|| self.cpu.platform_rdmsr(index).ok()).ok_or_else(|| no_msr(index))
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
        let host_tsc = self.cpu.host_tsc();
        let cpu = &mut self.cpu;
        match msr::set(&mut cpu.state, &cpu.model, host_tsc, index, value) {
            Ok(Effect::None) => {}
            Ok(Effect::Bases) => cpu.state.update_mode(),
            Ok(Effect::Mode) => {
                cpu.flush(Flush::All);
                cpu.refresh_mode();
            }
            Ok(Effect::Clock) => cpu.update_pv_clock(),
            Err(Refused::Unknown) => return cpu.platform_wrmsr(index, value).map_err(|_| no_msr(index)),
            Err(Refused::Value) => return Err(no_msr(index)),
        }
        Ok(())
    }

    fn msr_indices(&mut self) -> Result<Vec<u32>> {
        Ok(msr::state_msrs(&self.cpu.model).collect())
    }

    fn xsave(&mut self) -> Result<Vec<u8>> {
        Ok(system::xsave::image(&self.cpu.state))
    }

    fn set_xsave(&mut self, area: &[u8]) -> Result<()> {
        if system::xsave::set_image(&mut self.cpu.state, area) {
            // It has the rights of protection keys.
            self.cpu.flush(Flush::All);
            self.cpu.refresh_mode();
            Ok(())
        } else {
            Err(refuse("an XSAVE area of fewer than 576 bytes, with reserved bits, or in compacted format"))
        }
    }

    fn xcr0(&mut self) -> Result<u64> {
        Ok(self.cpu.state.xcr0)
    }

    fn set_xcr0(&mut self, value: u64) -> Result<()> {
        if value & 1 == 0 {
            return Err(refuse("XCR0 without x87"));
        }
        self.cpu.state.xcr0 = value;
        Ok(())
    }

    fn pending_events(&mut self) -> Result<PendingEvents> {
        let s = &self.cpu.state;
        Ok(PendingEvents {
            exception: None,
            interrupt: None,
            nmi_pending: self.cpu.nmi_pending,
            nmi_masked: s.nmi_masked,
            interrupt_shadow: s.shadow != Shadow::None,
        })
    }

    fn set_pending_events(&mut self, events: &PendingEvents) -> Result<()> {
        if events.exception.is_some() || events.interrupt.is_some() {
            return Err(refuse("the soft CPU delivers events at once, so none can be half-way"));
        }
        self.cpu.nmi_pending = events.nmi_pending;
        self.cpu.state.nmi_masked = events.nmi_masked;
        self.cpu.state.shadow = if events.interrupt_shadow { Shadow::Sti } else { Shadow::None };
        Ok(())
    }

    fn activity(&mut self) -> Result<Activity> {
        Ok(self.current_activity())
    }

    fn set_activity(&mut self, activity: Activity) -> Result<()> {
        self.change_activity(activity)
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<CpuidResult> {
        Ok(system::cpuid::query(&self.cpu.model, &self.cpu.state, leaf, subleaf))
    }
}

fn no_msr(index: u32) -> Error {
    Error::new(
        ErrorCode::Register,
        format!("model-specific register {index:#x} does not exist or refuses the value"),
    )
}
