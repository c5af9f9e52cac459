//! x86 register state as plain objects of bigints and numbers.

use napi::bindgen_prelude::BigInt;
use napi_derive::napi;
use squib_core::ErrorCode;
use squib_core::x86::{
    CpuidResult, DebugRegisters, DescriptorTable, PendingEvents, Registers, Segment, SystemRegisters,
};

use crate::error::Result;
use crate::number::{small, word};

pub(crate) fn field(value: &BigInt) -> Result<u64> {
    word(value, ErrorCode::InvalidArgument)
}

/// An interrupt vector.
pub(crate) fn vector(number: u32) -> Result<u8> {
    Ok(small(number, 255, "a vector")? as u8)
}

macro_rules! registers {
    ($($name:ident),*) => {
        /// General-purpose registers, instruction pointer and flags.
        #[napi(object, js_name = "Registers")]
        #[expect(missing_docs, reason = "the fields are the registers")]
        pub struct JsRegisters { $(pub $name: BigInt,)* }

        impl From<Registers> for JsRegisters {
            fn from(r: Registers) -> Self {
                Self { $($name: r.$name.into(),)* }
            }
        }

        impl JsRegisters {
            pub(crate) fn to_core(&self) -> Result<Registers> {
                Ok(Registers { $($name: field(&self.$name)?,)* })
            }
        }
    };
}
registers!(rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags);

/// A segment register with its hidden part.
#[napi(object, js_name = "Segment")]
pub struct JsSegment {
    /// Linear address of byte 0.
    pub base: BigInt,
    /// Offset of the last byte, in bytes.
    pub limit: u32,
    /// The visible selector, 16 bits.
    pub selector: u32,
    /// Type field, 4 bits.
    pub kind: u32,
    /// Descriptor privilege level, 0–3.
    pub dpl: u32,
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

impl From<Segment> for JsSegment {
    fn from(s: Segment) -> Self {
        let Segment {
            base,
            limit,
            selector,
            kind,
            dpl,
            present,
            code_or_data,
            long,
            big,
            granularity,
            available,
            unusable,
        } = s;
        let base = base.into();
        Self {
            base,
            limit,
            selector: selector.into(),
            kind: kind.into(),
            dpl: dpl.into(),
            present,
            code_or_data,
            long,
            big,
            granularity,
            available,
            unusable,
        }
    }
}

impl JsSegment {
    fn to_core(&self) -> Result<Segment> {
        Ok(Segment {
            base: field(&self.base)?,
            limit: self.limit,
            selector: small(self.selector, 0xffff, "a selector")? as u16,
            kind: small(self.kind, 15, "a segment's kind")? as u8,
            dpl: small(self.dpl, 3, "a segment's dpl")? as u8,
            present: self.present,
            code_or_data: self.code_or_data,
            long: self.long,
            big: self.big,
            granularity: self.granularity,
            available: self.available,
            unusable: self.unusable,
        })
    }
}

/// GDTR or IDTR.
#[napi(object, js_name = "DescriptorTable")]
pub struct JsDescriptorTable {
    /// Linear address.
    pub base: BigInt,
    /// Offset of the last byte, 16 bits.
    pub limit: u32,
}

impl From<DescriptorTable> for JsDescriptorTable {
    fn from(t: DescriptorTable) -> Self {
        Self { base: t.base.into(), limit: t.limit.into() }
    }
}

impl JsDescriptorTable {
    fn to_core(&self) -> Result<DescriptorTable> {
        let limit = small(self.limit, 0xffff, "the limit of a table")? as u16;
        Ok(DescriptorTable { base: field(&self.base)?, limit })
    }
}

macro_rules! system_registers {
    (segments: $($segment:ident),*; tables: $($table:ident),*; words: $($word:ident),*) => {
        /// Segments, descriptor tables and control registers.
        #[napi(object, js_name = "SystemRegisters")]
        #[expect(missing_docs, reason = "the fields are the registers")]
        pub struct JsSystemRegisters {
            $(pub $segment: JsSegment,)*
            $(pub $table: JsDescriptorTable,)*
            $(pub $word: BigInt,)*
        }

        impl From<SystemRegisters> for JsSystemRegisters {
            fn from(s: SystemRegisters) -> Self {
                Self { $($segment: s.$segment.into(),)* $($table: s.$table.into(),)* $($word: s.$word.into(),)* }
            }
        }

        impl JsSystemRegisters {
            pub(crate) fn to_core(&self) -> Result<SystemRegisters> {
                Ok(SystemRegisters {
                    $($segment: self.$segment.to_core()?,)*
                    $($table: self.$table.to_core()?,)*
                    $($word: field(&self.$word)?,)*
                })
            }
        }
    };
}
system_registers!(
    segments: es, cs, ss, ds, fs, gs, ldt, tr;
    tables: gdt, idt;
    words: cr0, cr2, cr3, cr4, cr8, efer, apic_base
);

/// DR0–DR3, DR6, DR7.
#[napi(object, js_name = "DebugRegisters")]
pub struct JsDebugRegisters {
    /// Breakpoint addresses, four of them.
    pub db: Vec<BigInt>,
    /// Status.
    pub dr6: BigInt,
    /// Control.
    pub dr7: BigInt,
}

impl From<DebugRegisters> for JsDebugRegisters {
    fn from(d: DebugRegisters) -> Self {
        Self { db: d.db.map(BigInt::from).into(), dr6: d.dr6.into(), dr7: d.dr7.into() }
    }
}

impl JsDebugRegisters {
    pub(crate) fn to_core(&self) -> Result<DebugRegisters> {
        let [a, b, c, d] = self.db.as_slice() else {
            return crate::error::refuse(ErrorCode::InvalidArgument, "db must hold four addresses");
        };
        Ok(DebugRegisters {
            db: [field(a)?, field(b)?, field(c)?, field(d)?],
            dr6: field(&self.dr6)?,
            dr7: field(&self.dr7)?,
        })
    }
}

/// An exception on its way into a vCPU.
#[napi(object)]
pub struct PendingException {
    /// Vector, 0–255.
    pub vector: u32,
    /// Error code, where the exception has one.
    pub error_code: Option<u32>,
}

/// What is on its way into a vCPU but not yet in its registers.
#[napi(object, js_name = "PendingEvents")]
pub struct JsPendingEvents {
    /// Exception to deliver.
    pub exception: Option<PendingException>,
    /// Vector, 0–255, of an external interrupt already acknowledged, to deliver.
    pub interrupt: Option<u32>,
    /// An NMI is pending.
    pub nmi_pending: bool,
    /// NMIs are blocked until IRET.
    pub nmi_masked: bool,
    /// The instruction before was STI or MOV SS.
    pub interrupt_shadow: bool,
}

impl From<PendingEvents> for JsPendingEvents {
    fn from(e: PendingEvents) -> Self {
        Self {
            exception: e
                .exception
                .map(|(vector, error_code)| PendingException { vector: vector.into(), error_code }),
            interrupt: e.interrupt.map(Into::into),
            nmi_pending: e.nmi_pending,
            nmi_masked: e.nmi_masked,
            interrupt_shadow: e.interrupt_shadow,
        }
    }
}

impl JsPendingEvents {
    pub(crate) fn to_core(&self) -> Result<PendingEvents> {
        let exception = match &self.exception {
            Some(x) => Some((vector(x.vector)?, x.error_code)),
            None => None,
        };
        Ok(PendingEvents {
            exception,
            interrupt: self.interrupt.map(vector).transpose()?,
            nmi_pending: self.nmi_pending,
            nmi_masked: self.nmi_masked,
            interrupt_shadow: self.interrupt_shadow,
        })
    }
}

/// One CPUID result.
#[napi(object, object_from_js = false, js_name = "CpuidResult")]
#[expect(missing_docs, reason = "the fields are the registers")]
pub struct JsCpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl From<CpuidResult> for JsCpuid {
    fn from(c: CpuidResult) -> Self {
        Self { eax: c.eax, ebx: c.ebx, ecx: c.ecx, edx: c.edx }
    }
}
