//! x86 register state in portable types (Intel SDM vol. 1, chapter 3; vol. 3, chapters 2 and 3).

use crate::Result;

/// General-purpose registers, instruction pointer and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are the registers")]
pub struct Registers {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

impl Registers {
    /// The general-purpose registers in the order of their encoding.
    pub fn gprs(&self) -> [u64; 16] {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi, self.r8, self.r9,
            self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
    }

    /// The registers with these general-purpose values, in the order of their encoding.
    pub fn from_gprs(g: [u64; 16], rip: u64, rflags: u64) -> Self {
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = g;
        Self { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
    }
}

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Linear address of byte 0.
    pub base: u64,
    /// Offset of the last byte, in bytes (granularity already applied).
    pub limit: u32,
    /// The visible selector.
    pub selector: u16,
    /// Type field, 4 bits.
    pub kind: u8,
    /// Descriptor privilege level, 0–3.
    pub dpl: u8,
    /// P: present.
    pub present: bool,
    /// S: code or data, not system.
    pub code_or_data: bool,
    /// L: 64-bit code.
    pub long: bool,
    /// D/B: 32-bit default size.
    pub big: bool,
    /// G: limit counted in pages.
    pub granularity: bool,
    /// AVL: free for software.
    pub available: bool,
    /// Loaded with a null selector, so unusable.
    pub unusable: bool,
}

impl Segment {
    /// A real-mode segment: base is sixteen times the selector, limit 64 KiB.
    pub const fn real_mode(selector: u16) -> Self {
        Self {
            base: (selector as u64) << 4,
            limit: 0xffff,
            selector,
            kind: 3,
            dpl: 0,
            present: true,
            code_or_data: true,
            long: false,
            big: false,
            granularity: false,
            available: false,
            unusable: false,
        }
    }

    /// A flat ring-0 code segment, 64-bit or 32-bit.
    pub const fn flat_code(selector: u16, long: bool) -> Self {
        Self { kind: 0xb, long, big: !long, ..Self::flat_data(selector) }
    }

    /// A flat ring-0 data segment.
    pub const fn flat_data(selector: u16) -> Self {
        Self {
            base: 0,
            limit: u32::MAX,
            selector,
            kind: 3,
            dpl: 0,
            present: true,
            code_or_data: true,
            long: false,
            big: true,
            granularity: true,
            available: false,
            unusable: false,
        }
    }

    /// A 64-bit or 32-bit busy task state segment of `limit + 1` bytes at `base`.
    pub const fn task_state(selector: u16, base: u64, limit: u32) -> Self {
        Self {
            base,
            limit,
            selector,
            kind: 0xb,
            dpl: 0,
            present: true,
            code_or_data: false,
            long: false,
            big: false,
            granularity: false,
            available: false,
            unusable: false,
        }
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DescriptorTable {
    /// Linear address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

/// Segments, descriptor tables, control registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are the registers")]
pub struct SystemRegisters {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ldt: Segment,
    pub tr: Segment,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// Task priority, 0–15.
    pub cr8: u64,
    /// IA32_EFER (MSR 0xC0000080).
    pub efer: u64,
    /// IA32_APIC_BASE (MSR 0x1B).
    pub apic_base: u64,
}

/// DR0–DR3, DR6, DR7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DebugRegisters {
    /// Breakpoint addresses.
    pub db: [u64; 4],
    /// Status.
    pub dr6: u64,
    /// Control.
    pub dr7: u64,
}

/// What is on its way into a vCPU but not yet in its registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PendingEvents {
    /// Exception to deliver: vector and, where it has one, error code.
    pub exception: Option<(u8, Option<u32>)>,
    /// External interrupt already acknowledged, to deliver.
    pub interrupt: Option<u8>,
    /// An NMI is pending.
    pub nmi_pending: bool,
    /// NMIs are blocked until IRET.
    pub nmi_masked: bool,
    /// The instruction before was STI or MOV SS.
    pub interrupt_shadow: bool,
}

/// Whether a processor executes instructions, or what it waits for (Intel SDM vol. 3, 25.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activity {
    /// It executes instructions.
    Active,
    /// After `HLT`, for an interrupt.
    Halted,
    /// For INIT: a processor other than the first, as it is made.
    WaitForInit,
    /// For a start-up message, after INIT.
    WaitForStartUp,
}

/// One CPUID result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are the registers")]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// The x86 state of a vCPU. Called while the vCPU is not running.
///
/// # Errors
/// Every function gives [`ErrorCode::Hypervisor`](crate::ErrorCode::Hypervisor) when the host fails; setters
/// give [`ErrorCode::InvalidArgument`](crate::ErrorCode::InvalidArgument) for a state that no processor can be
/// in, and change nothing then.
pub trait X86State {
    /// General-purpose registers.
    fn registers(&mut self) -> Result<Registers>;
    /// Sets them.
    fn set_registers(&mut self, regs: &Registers) -> Result<()>;
    /// Segments and control registers.
    fn system_registers(&mut self) -> Result<SystemRegisters>;
    /// Sets them; no descriptor is read from memory.
    fn set_system_registers(&mut self, regs: &SystemRegisters) -> Result<()>;
    /// Debug registers.
    fn debug_registers(&mut self) -> Result<DebugRegisters>;
    /// Sets them.
    fn set_debug_registers(&mut self, regs: &DebugRegisters) -> Result<()>;
    /// A model-specific register. [`ErrorCode::Register`](crate::ErrorCode::Register) when there is none.
    fn msr(&mut self, index: u32) -> Result<u64>;
    /// Sets one. [`ErrorCode::Register`](crate::ErrorCode::Register) when there is none or it refuses the value.
    fn set_msr(&mut self, index: u32, value: u64) -> Result<()>;
    /// The MSRs that make up the state of a vCPU.
    fn msr_indices(&mut self) -> Result<Vec<u32>>;
    /// x87, SSE and further state in the standard (not compacted) XSAVE format (Intel SDM vol. 1, 13.4);
    /// at least 576 bytes.
    fn xsave(&mut self) -> Result<Vec<u8>>;
    /// Sets it, from at least 576 bytes.
    fn set_xsave(&mut self, area: &[u8]) -> Result<()>;
    /// Extended control register 0.
    fn xcr0(&mut self) -> Result<u64>;
    /// Sets it.
    fn set_xcr0(&mut self, value: u64) -> Result<()>;
    /// Events on their way.
    fn pending_events(&mut self) -> Result<PendingEvents>;
    /// Sets them.
    fn set_pending_events(&mut self, events: &PendingEvents) -> Result<()>;
    /// What the processor does. Setters of registers and events end a halt in some backends, so this comes last when a
    /// state is restored.
    fn activity(&mut self) -> Result<Activity>;
    /// Sets it. Without local APIC nothing can start a processor, so it can only be active or halted.
    fn set_activity(&mut self, activity: Activity) -> Result<()>;
    /// What CPUID says, as the guest would see it now.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<CpuidResult>;
}

/// A PC's interrupt controllers: where they are, and their lines.
pub mod irqchip {
    use std::ops::Range;

    use crate::{Error, ErrorCode, Result};

    /// The I/O APIC, by convention (MP specification 1.4, 3.6.5).
    pub const IO_APIC: Range<u64> = 0xfec0_0000..0xfec0_1000;
    /// The local APICs, after reset.
    pub const LOCAL_APIC: Range<u64> = 0xfee0_0000..0xfee0_1000;
    /// Interrupt lines, which are inputs of the I/O APIC.
    pub const LINES: u32 = 24;
    /// The 8254's line.
    pub const TIMER_LINE: u32 = 0;
    /// By which one 8259 interrupts through the other: no line.
    const CASCADE_LINE: u32 = 2;

    /// Says whether there is line `gsi`.
    ///
    /// # Errors
    /// [`ErrorCode::IrqLine`].
    pub fn check_line(gsi: u32) -> Result<()> {
        if gsi < LINES && gsi != CASCADE_LINE {
            return Ok(());
        }
        let message = format!("no interrupt line {gsi}: there are 0, 1 and 3 to {}", LINES - 1);
        Err(Error::new(ErrorCode::IrqLine, message))
    }

    /// The I/O APIC's input of line `gsi`: the 8254 has what the cascade leaves free.
    pub const fn io_apic_input(gsi: u32) -> u32 {
        if gsi == TIMER_LINE { CASCADE_LINE } else { gsi }
    }
}

/// Bits of control registers, EFER and RFLAGS that more than one crate needs.
pub mod bits {
    #![expect(missing_docs, reason = "named as in the manual")]
    pub const CR0_PE: u64 = 1 << 0;
    pub const CR0_MP: u64 = 1 << 1;
    pub const CR0_EM: u64 = 1 << 2;
    pub const CR0_TS: u64 = 1 << 3;
    pub const CR0_ET: u64 = 1 << 4;
    pub const CR0_NE: u64 = 1 << 5;
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_AM: u64 = 1 << 18;
    pub const CR0_NW: u64 = 1 << 29;
    pub const CR0_CD: u64 = 1 << 30;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_PSE: u64 = 1 << 4;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_PGE: u64 = 1 << 7;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    pub const EFER_SCE: u64 = 1 << 0;
    pub const EFER_LME: u64 = 1 << 8;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_NXE: u64 = 1 << 11;
    pub const RFLAGS_CF: u64 = 1 << 0;
    pub const RFLAGS_FIXED: u64 = 1 << 1;
    pub const RFLAGS_PF: u64 = 1 << 2;
    pub const RFLAGS_AF: u64 = 1 << 4;
    pub const RFLAGS_ZF: u64 = 1 << 6;
    pub const RFLAGS_SF: u64 = 1 << 7;
    pub const RFLAGS_TF: u64 = 1 << 8;
    pub const RFLAGS_IF: u64 = 1 << 9;
    pub const RFLAGS_DF: u64 = 1 << 10;
    pub const RFLAGS_OF: u64 = 1 << 11;
    pub const RFLAGS_IOPL: u64 = 3 << 12;
    pub const RFLAGS_NT: u64 = 1 << 14;
    pub const RFLAGS_RF: u64 = 1 << 16;
    pub const RFLAGS_VM: u64 = 1 << 17;
    pub const RFLAGS_AC: u64 = 1 << 18;
    pub const RFLAGS_VIF: u64 = 1 << 19;
    pub const RFLAGS_VIP: u64 = 1 << 20;
    pub const RFLAGS_ID: u64 = 1 << 21;
}
