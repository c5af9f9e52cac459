//! The architectural state of one x86 processor.

use squib_core::x86::{Segment, bits::*};

use crate::flags::{LazyFlags, STATUS};

/// Index of the always-zero pseudo register: the base or index of an address that has none.
pub const REG_ZERO: u8 = 16;
/// Index of the pseudo register that holds the linear address of the running code page.
pub const REG_PAGE: u8 = 17;
/// Index of the pseudo register that mirrors the FS base.
pub const REG_FS: u8 = 18;
/// Index of the pseudo register that mirrors the GS base.
pub const REG_GS: u8 = 19;

/// Segment register numbers, in the order of their encoding.
#[expect(missing_docs, reason = "named as in the manual")]
pub mod sreg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// A loaded segment register. `attr` has the descriptor's bits 40–55 without the limit: type in bits 0–3, S 4,
/// DPL 5–6, P 7, AVL 8, L 9, D/B 10, G 11; and bit 12 for "unusable".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seg {
    /// Linear address of byte 0.
    pub base: u64,
    /// Offset of the last byte, granularity applied.
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// Attributes.
    pub attr: u16,
}

impl Seg {
    /// Attribute: unusable (loaded with a null selector).
    pub const UNUSABLE: u16 = 1 << 12;
    /// Attribute: granularity.
    pub const G: u16 = 1 << 11;
    /// Attribute: default size 32.
    pub const DB: u16 = 1 << 10;
    /// Attribute: 64-bit code.
    pub const L: u16 = 1 << 9;
    /// Attribute: present.
    pub const P: u16 = 1 << 7;
    /// Attribute: code or data.
    pub const S: u16 = 1 << 4;

    /// Type field.
    pub const fn kind(&self) -> u8 {
        (self.attr & 15) as u8
    }

    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        (self.attr >> 5 & 3) as u8
    }

    /// Whether attribute bits `mask` are all set.
    pub const fn has(&self, mask: u16) -> bool {
        self.attr & mask == mask
    }

    /// Whether this is an executable segment.
    pub const fn is_code(&self) -> bool {
        self.attr & (Self::S | 8) == Self::S | 8
    }

    /// Whether data may be written through it.
    pub const fn is_writable(&self) -> bool {
        self.attr & (Self::S | 8 | 2) == Self::S | 2
    }

    /// Whether data may be read through it.
    pub const fn is_readable(&self) -> bool {
        self.attr & Self::S != 0 && self.attr & (8 | 2) != 8
    }

    /// Whether it is all of a 32-bit address space. Nothing is beyond its end: on Intel's processors, accesses go on at 0.
    pub const fn is_flat(&self) -> bool {
        self.base == 0 && self.limit == u32::MAX
    }

    /// Whether it is an expand-down data segment.
    pub const fn expands_down(&self) -> bool {
        self.attr & (Self::S | 8 | 4) == Self::S | 4
    }
}

impl From<&Segment> for Seg {
    fn from(s: &Segment) -> Self {
        let attr = u16::from(s.kind & 15)
            | u16::from(s.code_or_data) << 4
            | u16::from(s.dpl & 3) << 5
            | u16::from(s.present) << 7
            | u16::from(s.available) << 8
            | u16::from(s.long) << 9
            | u16::from(s.big) << 10
            | u16::from(s.granularity) << 11
            | u16::from(s.unusable) << 12;
        Self { base: s.base, limit: s.limit, selector: s.selector, attr }
    }
}

impl From<&Seg> for Segment {
    fn from(s: &Seg) -> Self {
        Self {
            base: s.base,
            limit: s.limit,
            selector: s.selector,
            kind: s.kind(),
            dpl: s.dpl(),
            present: s.has(Seg::P),
            code_or_data: s.has(Seg::S),
            long: s.has(Seg::L),
            big: s.has(Seg::DB),
            granularity: s.has(Seg::G),
            available: s.has(1 << 8),
            unusable: s.has(Seg::UNUSABLE),
        }
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Table {
    /// Linear address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

/// How instructions are decoded and addresses formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum CodeMode {
    /// 16-bit code: real mode, virtual-8086, or a 16-bit segment.
    #[default]
    Bits16,
    /// 32-bit code.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl CodeMode {
    /// 16, 32 or 64.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

/// What an instruction holds off until the one after it is through (Intel SDM vol. 3, 6.8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shadow {
    /// Nothing.
    #[default]
    None,
    /// Interrupts: after an STI that enabled them.
    Sti,
    /// Interrupts, and debug exceptions other than general detect: after MOV or POP to SS.
    MovSs,
}

/// Model-specific registers that are plain storage to the CPU.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_var: [u64; 16],
    /// Added to the host's time-stamp to give the guest's.
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
    pub xss: u64,
    /// KVM paravirtual clock: system time structure address, bit 0 enables.
    pub pv_system_time: u64,
    /// KVM paravirtual clock: wall clock structure address.
    pub pv_wall_clock: u64,
}

/// One processor.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct CpuState {
    /// General-purpose registers in the order of their encoding, then the pseudo registers `REG_*`.
    pub r: [u64; 32],
    /// Instruction pointer.
    pub rip: u64,
    /// Status flags.
    pub lazy: LazyFlags,
    /// The other flags: TF, IF, DF, IOPL, NT, RF, VM, AC, VIF, VIP, ID, and bit 1.
    pub sys_flags: u64,
    /// Decoding mode; see [`CpuState::update_mode`].
    pub mode: CodeMode,
    /// Current privilege level.
    pub cpl: u8,
    /// What is held off for one instruction.
    pub shadow: Shadow,
    /// NMIs are blocked until IRET.
    pub nmi_masked: bool,
    /// Initial APIC ID, as CPUID reports it.
    pub apic_id: u32,
    /// IA32_APIC_BASE says that there is no local APIC, and so does CPUID.
    pub apic_disabled: bool,
    /// Segment registers by [`sreg`] number.
    pub seg: [Seg; 6],
    /// Local descriptor table.
    pub ldt: Seg,
    /// Task register.
    pub tr: Seg,
    /// Global descriptor table.
    pub gdt: Table,
    /// Interrupt descriptor table.
    pub idt: Table,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 2.
    pub cr2: u64,
    /// Control register 3.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// The page-directory-pointer-table entries that PAE paging holds in registers (Intel SDM vol. 3, 4.4.1).
    pub pdpte: [u64; 4],
    /// Protection-key rights for user pages.
    pub pkru: u32,
    /// IA32_EFER.
    pub efer: u64,
    /// Extended control register 0.
    pub xcr0: u64,
    /// DR0–DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Model-specific registers.
    pub msr: Msrs,
    /// SSE registers.
    pub xmm: [u128; 16],
    /// SSE control and status.
    pub mxcsr: crate::fp::mxcsr::Mxcsr,
    /// x87 and MMX.
    pub x87: crate::x87::X87,
}

/// RFLAGS bits that live in [`CpuState::sys_flags`].
pub const SYS_FLAGS: u64 = RFLAGS_TF
    | RFLAGS_IF
    | RFLAGS_DF
    | RFLAGS_IOPL
    | RFLAGS_NT
    | RFLAGS_RF
    | RFLAGS_VM
    | RFLAGS_AC
    | RFLAGS_VIF
    | RFLAGS_VIP
    | RFLAGS_ID;

impl Default for CpuState {
    fn default() -> Self {
        Self::reset()
    }
}

impl CpuState {
    /// The state after power-up or INIT (Intel SDM vol. 3, table 10-1).
    pub fn reset() -> Self {
        let data = Seg { base: 0, limit: 0xffff, selector: 0, attr: 0x93 };
        let mut s = Self {
            r: [0; 32],
            rip: 0xfff0,
            lazy: LazyFlags::default(),
            sys_flags: RFLAGS_FIXED,
            mode: CodeMode::Bits16,
            cpl: 0,
            shadow: Shadow::None,
            nmi_masked: false,
            apic_id: 0,
            apic_disabled: false,
            seg: [data; 6],
            ldt: Seg { attr: 0x82, limit: 0xffff, ..Seg::default() },
            tr: Seg { attr: 0x8b, limit: 0xffff, ..Seg::default() },
            gdt: Table { base: 0, limit: 0xffff },
            idt: Table { base: 0, limit: 0xffff },
            cr0: CR0_CD | CR0_NW | CR0_ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            pdpte: [0; 4],
            pkru: 0,
            efer: 0,
            xcr0: 1,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            msr: Msrs { pat: 0x0007_0406_0007_0406, misc_enable: 1, ..Msrs::default() },
            xmm: [0; 16],
            mxcsr: crate::fp::mxcsr::Mxcsr::RESET,
            x87: crate::x87::X87::default(),
        };
        s.seg[sreg::CS] = Seg { base: 0xffff_0000, limit: 0xffff, selector: 0xf000, attr: 0x9b };
        s
    }

    /// INIT: as [`CpuState::reset`], but the units and registers that table 10-1 says are unchanged stay.
    pub fn init(&mut self) {
        *self = Self {
            cr0: self.cr0 & (CR0_CD | CR0_NW) | CR0_ET,
            apic_id: self.apic_id,
            apic_disabled: self.apic_disabled,
            pkru: self.pkru,
            xcr0: self.xcr0,
            msr: self.msr,
            xmm: self.xmm,
            mxcsr: self.mxcsr,
            x87: self.x87,
            ..Self::reset()
        };
    }

    /// RFLAGS as PUSHF would store them.
    pub fn rflags(&self) -> u64 {
        self.sys_flags | self.lazy.bits() | RFLAGS_FIXED
    }

    /// Sets all of RFLAGS; reserved bits are ignored.
    pub fn set_rflags(&mut self, value: u64) {
        self.lazy = LazyFlags::fixed(value & STATUS);
        self.sys_flags = value & SYS_FLAGS | RFLAGS_FIXED;
    }

    /// Whether paging is on.
    #[inline(always)]
    pub const fn paging(&self) -> bool {
        self.cr0 & CR0_PG != 0
    }

    /// Whether protected mode is on.
    #[inline(always)]
    pub const fn protected(&self) -> bool {
        self.cr0 & CR0_PE != 0
    }

    /// Whether long mode (64-bit or compatibility) is active.
    #[inline(always)]
    pub const fn long_mode(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    /// Whether the stack pointer is 16, 32 or 64 bits wide.
    #[inline(always)]
    pub const fn stack_size(&self) -> crate::Size {
        match self.mode {
            CodeMode::Bits64 => crate::Size::B8,
            _ if self.seg[sreg::SS].attr & Seg::DB != 0 => crate::Size::B4,
            _ => crate::Size::B2,
        }
    }

    /// Whether this is virtual-8086 mode.
    pub const fn v86(&self) -> bool {
        self.sys_flags & RFLAGS_VM != 0
    }

    /// I/O privilege level.
    pub const fn iopl(&self) -> u8 {
        (self.sys_flags >> 12 & 3) as u8
    }

    /// Recomputes what is derived: decoding mode, segment base mirrors. Call after any change of CS, CR0, EFER,
    /// RFLAGS.VM, FS or GS.
    pub fn update_mode(&mut self) {
        let cs = &self.seg[sreg::CS];
        self.mode = if self.long_mode() && cs.has(Seg::L) {
            CodeMode::Bits64
        } else if self.protected() && !self.v86() && cs.has(Seg::DB) {
            CodeMode::Bits32
        } else {
            CodeMode::Bits16
        };
        self.r[REG_ZERO as usize] = 0;
        self.r[REG_FS as usize] = self.seg[sreg::FS].base;
        self.r[REG_GS as usize] = self.seg[sreg::GS].base;
    }
}
