//! x86 registers in and out of KVM.

use kvm_bindings::*;
use squib_core::x86::{
    Activity, CpuidResult, DebugRegisters, DescriptorTable, PendingEvents, Registers, Segment,
    SystemRegisters, X86State,
};
use squib_core::{Error, ErrorCode, IrqchipKind, Result};

use super::cpuid;
use super::sys;
use crate::linux::errors::{failed, refused};
use crate::linux::vcpu::KvmVcpu;

/// Length of the legacy region and header of an XSAVE area (Intel SDM vol. 1, 13.4).
const XSAVE_MIN: usize = 576;

impl X86State for KvmVcpu {
    fn registers(&mut self) -> Result<Registers> {
        let r = self.general()?;
        Ok(Registers {
            rax: r.rax,
            rcx: r.rcx,
            rdx: r.rdx,
            rbx: r.rbx,
            rsp: r.rsp,
            rbp: r.rbp,
            rsi: r.rsi,
            rdi: r.rdi,
            r8: r.r8,
            r9: r.r9,
            r10: r.r10,
            r11: r.r11,
            r12: r.r12,
            r13: r.r13,
            r14: r.r14,
            r15: r.r15,
            rip: r.rip,
            rflags: r.rflags,
        })
    }

    fn set_registers(&mut self, r: &Registers) -> Result<()> {
        let regs = kvm_regs {
            rax: r.rax,
            rbx: r.rbx,
            rcx: r.rcx,
            rdx: r.rdx,
            rsi: r.rsi,
            rdi: r.rdi,
            rsp: r.rsp,
            rbp: r.rbp,
            r8: r.r8,
            r9: r.r9,
            r10: r.r10,
            r11: r.r11,
            r12: r.r12,
            r13: r.r13,
            r14: r.r14,
            r15: r.r15,
            rip: r.rip,
            rflags: r.rflags,
        };
        self.set_general(regs)?;
        self.state_changed();
        Ok(())
    }

    fn system_registers(&mut self) -> Result<SystemRegisters> {
        let s = self.system()?;
        Ok(SystemRegisters {
            es: from_segment(&s.es),
            cs: from_segment(&s.cs),
            ss: from_segment(&s.ss),
            ds: from_segment(&s.ds),
            fs: from_segment(&s.fs),
            gs: from_segment(&s.gs),
            ldt: from_segment(&s.ldt),
            tr: from_segment(&s.tr),
            gdt: DescriptorTable { base: s.gdt.base, limit: s.gdt.limit },
            idt: DescriptorTable { base: s.idt.base, limit: s.idt.limit },
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            apic_base: s.apic_base,
        })
    }

    fn set_system_registers(&mut self, s: &SystemRegisters) -> Result<()> {
        // KVM takes it here, and refuses to enter the guest with it.
        if s.cr8 > 15 {
            let message = format!("CR8 is a task priority from 0 to 15, not {}; nothing was changed", s.cr8);
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        // What is there now keeps the interrupt that KVM is about to deliver.
        let now = self.fd.get_sregs().map_err(|e| failed("KVM_GET_SREGS", e))?;
        let table =
            |t: &DescriptorTable| kvm_dtable { base: t.base, limit: t.limit, ..kvm_dtable::default() };
        let sregs = kvm_sregs {
            es: to_segment(&s.es),
            cs: to_segment(&s.cs),
            ss: to_segment(&s.ss),
            ds: to_segment(&s.ds),
            fs: to_segment(&s.fs),
            gs: to_segment(&s.gs),
            ldt: to_segment(&s.ldt),
            tr: to_segment(&s.tr),
            gdt: table(&s.gdt),
            idt: table(&s.idt),
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            apic_base: s.apic_base,
            ..now
        };
        self.settled()?.set_sregs(&sregs).map_err(|e| refused("KVM_SET_SREGS", e))?;
        self.page.set_cr8(s.cr8);
        self.state_changed();
        Ok(())
    }

    fn debug_registers(&mut self) -> Result<DebugRegisters> {
        let d = self.fd.get_debug_regs().map_err(|e| failed("KVM_GET_DEBUGREGS", e))?;
        Ok(DebugRegisters { db: d.db, dr6: d.dr6, dr7: d.dr7 })
    }

    fn set_debug_registers(&mut self, d: &DebugRegisters) -> Result<()> {
        let regs = kvm_debugregs { db: d.db, dr6: d.dr6, dr7: d.dr7, ..Default::default() };
        self.fd.set_debug_regs(&regs).map_err(|e| refused("KVM_SET_DEBUGREGS", e))
    }

    fn msr(&mut self, index: u32) -> Result<u64> {
        let mut msrs = one_msr(index, 0)?;
        match self.fd.get_msrs(&mut msrs).map_err(|e| failed("KVM_GET_MSRS", e))? {
            0 => {
                Err(Error::new(ErrorCode::Register, format!("KVM has no model-specific register {index:#x}")))
            }
            _ => Ok(msrs.as_slice().first().map_or(0, |msr| msr.data)),
        }
    }

    fn set_msr(&mut self, index: u32, value: u64) -> Result<()> {
        match self.settled()?.set_msrs(&one_msr(index, value)?).map_err(|e| failed("KVM_SET_MSRS", e))? {
            0 => Err(Error::new(
                ErrorCode::Register,
                format!("KVM does not set model-specific register {index:#x} to {value:#x}"),
            )),
            _ => Ok(()),
        }
    }

    fn msr_indices(&mut self) -> Result<Vec<u32>> {
        // KVM lists what the host has; which of them this vCPU has depends on its CPUID.
        let listed = self.vm.host.msr_indices.clone();
        Ok(listed.into_iter().filter(|&index| self.msr(index).is_ok()).collect())
    }

    fn xsave(&mut self) -> Result<Vec<u8>> {
        sys::get_xsave(&self.vm.fd, &self.fd).map_err(|e| failed("KVM_GET_XSAVE", e))
    }

    fn set_xsave(&mut self, area: &[u8]) -> Result<()> {
        if area.len() < XSAVE_MIN {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("an XSAVE area has at least {XSAVE_MIN} bytes, not {}", area.len()),
            ));
        }
        sys::set_xsave(&self.vm.fd, &self.fd, area).map_err(|e| refused("KVM_SET_XSAVE", e))
    }

    fn xcr0(&mut self) -> Result<u64> {
        let xcrs = self.fd.get_xcrs().map_err(|e| failed("KVM_GET_XCRS", e))?;
        let used = &xcrs.xcrs[..xcrs.xcrs.len().min(xcrs.nr_xcrs as usize)];
        // Without XSAVE there is no XCR0, and x87 is all the state there is.
        Ok(used.iter().find(|x| x.xcr == 0).map_or(1, |x| x.value))
    }

    fn set_xcr0(&mut self, value: u64) -> Result<()> {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = value;
        self.fd.set_xcrs(&xcrs).map_err(|e| refused("KVM_SET_XCRS", e))
    }

    fn pending_events(&mut self) -> Result<PendingEvents> {
        let e = self.settled()?.get_vcpu_events().map_err(|e| failed("KVM_GET_VCPU_EVENTS", e))?;
        let exception = e.exception.injected != 0 || e.exception.pending != 0;
        let error_code = (e.exception.has_error_code != 0).then_some(e.exception.error_code);
        Ok(PendingEvents {
            exception: exception.then_some((e.exception.nr, error_code)),
            interrupt: (e.interrupt.injected != 0 && e.interrupt.soft == 0).then_some(e.interrupt.nr),
            nmi_pending: e.nmi.pending != 0 || e.nmi.injected != 0,
            nmi_masked: e.nmi.masked != 0,
            interrupt_shadow: e.interrupt.shadow != 0,
        })
    }

    fn set_pending_events(&mut self, events: &PendingEvents) -> Result<()> {
        let mut e = self.settled()?.get_vcpu_events().map_err(|e| failed("KVM_GET_VCPU_EVENTS", e))?;
        e.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
        let (vector, error_code) = events.exception.unwrap_or_default();
        e.exception = kvm_vcpu_events__bindgen_ty_1 {
            injected: u8::from(events.exception.is_some()),
            nr: vector,
            has_error_code: u8::from(error_code.is_some()),
            pending: 0,
            error_code: error_code.unwrap_or(0),
        };
        e.interrupt = kvm_vcpu_events__bindgen_ty_2 {
            injected: u8::from(events.interrupt.is_some()),
            nr: events.interrupt.unwrap_or(0),
            soft: 0,
            shadow: if events.interrupt_shadow { KVM_X86_SHADOW_INT_STI as u8 } else { 0 },
        };
        e.nmi.injected = 0;
        e.nmi.pending = u8::from(events.nmi_pending);
        e.nmi.masked = u8::from(events.nmi_masked);
        self.settled()?.set_vcpu_events(&e).map_err(|e| refused("KVM_SET_VCPU_EVENTS", e))?;
        self.state_changed();
        Ok(())
    }

    fn activity(&mut self) -> Result<Activity> {
        if self.state.halted {
            return Ok(Activity::Halted);
        }
        let state = self.settled()?.get_mp_state().map_err(|e| failed("KVM_GET_MP_STATE", e))?;
        Ok(match state.mp_state {
            KVM_MP_STATE_HALTED => Activity::Halted,
            KVM_MP_STATE_UNINITIALIZED => Activity::WaitForInit,
            KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForStartUp,
            _ => Activity::Active,
        })
    }

    fn set_activity(&mut self, activity: Activity) -> Result<()> {
        // Without a local APIC KVM forgets a halt, and the vCPU remembers it.
        let remembers = self.vm.board.irqchip == IrqchipKind::None;
        let mp_state = match activity {
            Activity::Active => KVM_MP_STATE_RUNNABLE,
            Activity::Halted if remembers => KVM_MP_STATE_RUNNABLE,
            Activity::Halted => KVM_MP_STATE_HALTED,
            Activity::WaitForInit => KVM_MP_STATE_UNINITIALIZED,
            Activity::WaitForStartUp => KVM_MP_STATE_INIT_RECEIVED,
        };
        let state = kvm_mp_state { mp_state };
        self.settled()?.set_mp_state(state).map_err(|e| refused("KVM_SET_MP_STATE", e))?;
        self.state.halted = remembers && activity == Activity::Halted;
        Ok(())
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<CpuidResult> {
        let entries = self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(|e| failed("KVM_GET_CPUID2", e))?;
        Ok(cpuid::look_up(entries.as_slice(), leaf, subleaf))
    }
}

fn one_msr(index: u32, data: u64) -> Result<Msrs> {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }])
        .map_err(|_| Error::new(ErrorCode::OutOfMemory, "no memory for one register"))
}

fn from_segment(s: &kvm_segment) -> Segment {
    Segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        kind: s.type_ & 0xf,
        dpl: s.dpl & 3,
        present: s.present != 0,
        code_or_data: s.s != 0,
        long: s.l != 0,
        big: s.db != 0,
        granularity: s.g != 0,
        available: s.avl != 0,
        unusable: s.unusable != 0,
    }
}

fn to_segment(s: &Segment) -> kvm_segment {
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: s.kind & 0xf,
        dpl: s.dpl & 3,
        present: s.present.into(),
        s: s.code_or_data.into(),
        l: s.long.into(),
        db: s.big.into(),
        g: s.granularity.into(),
        avl: s.available.into(),
        unusable: s.unusable.into(),
        padding: 0,
    }
}
