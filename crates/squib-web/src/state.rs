//! Register state as 64-bit words; `ts/wasm/state.ts` has the other half.

use squib_core::x86::{
    DebugRegisters, DescriptorTable, PendingEvents, Registers, Segment, SystemRegisters, X86State,
};
use squib_core::{Error, ErrorCode, Result};

/// Part of a vCPU's state, by its number.
const REGISTERS: u32 = 0;
const SYSTEM: u32 = 1;
const DEBUG: u32 = 2;
const PENDING: u32 = 3;
const XSAVE: u32 = 4;
const XCR0: u32 = 5;
/// Only to be read.
const MSR_INDICES: u32 = 6;

const SEGMENTS: usize = 8;
/// Base, limit, selector, attributes.
const SEGMENT_WORDS: usize = 4;
/// The segments; base and limit of GDTR and IDTR; five control registers, EFER and the APIC base.
const SYSTEM_WORDS: usize = SEGMENTS * SEGMENT_WORDS + 4 + 7;

/// Part `part` as bytes.
pub(crate) fn read(x86: &mut dyn X86State, part: u32) -> Result<Vec<u8>> {
    let words = match part {
        REGISTERS => {
            let r = x86.registers()?;
            [&r.gprs()[..], &[r.rip, r.rflags]].concat()
        }
        SYSTEM => system_words(&x86.system_registers()?),
        DEBUG => {
            let DebugRegisters { db, dr6, dr7 } = x86.debug_registers()?;
            [&db[..], &[dr6, dr7]].concat()
        }
        PENDING => pending_words(&x86.pending_events()?).to_vec(),
        XSAVE => return x86.xsave(),
        XCR0 => vec![x86.xcr0()?],
        MSR_INDICES => x86.msr_indices()?.into_iter().map(u64::from).collect(),
        _ => return Err(unknown(part)),
    };
    Ok(words.into_iter().flat_map(u64::to_le_bytes).collect())
}

/// Sets part `part` from bytes.
pub(crate) fn write(x86: &mut dyn X86State, part: u32, bytes: &[u8]) -> Result<()> {
    match part {
        REGISTERS => {
            let [gprs @ .., rip, rflags] = words::<18>(bytes)?;
            x86.set_registers(&Registers::from_gprs(gprs, rip, rflags))
        }
        SYSTEM => x86.set_system_registers(&system(words(bytes)?)),
        DEBUG => {
            let [db @ .., dr6, dr7] = words::<6>(bytes)?;
            x86.set_debug_registers(&DebugRegisters { db, dr6, dr7 })
        }
        PENDING => x86.set_pending_events(&pending(words(bytes)?)),
        XSAVE => x86.set_xsave(bytes),
        XCR0 => x86.set_xcr0(words::<1>(bytes)?[0]),
        _ => Err(unknown(part)),
    }
}

fn unknown(part: u32) -> Error {
    Error::new(ErrorCode::InvalidArgument, format!("there is no such part of a vCPU's state as {part}"))
}

fn words<const N: usize>(bytes: &[u8]) -> Result<[u64; N]> {
    match bytes.as_chunks() {
        (chunks, []) if chunks.len() == N => Ok(std::array::from_fn(|i| u64::from_le_bytes(chunks[i]))),
        _ => {
            let message = format!("{} bytes of state instead of {}", bytes.len(), 8 * N);
            Err(Error::new(ErrorCode::InvalidArgument, message))
        }
    }
}

// Attributes of a segment, as VMX has them (Intel SDM vol. 3, 25.4.1): the type is in bits 0 to 3.
const CODE_OR_DATA: u64 = 1 << 4;
const DPL_SHIFT: u32 = 5;
const PRESENT: u64 = 1 << 7;
const AVAILABLE: u64 = 1 << 12;
const LONG: u64 = 1 << 13;
const BIG: u64 = 1 << 14;
const GRANULARITY: u64 = 1 << 15;
const UNUSABLE: u64 = 1 << 16;

fn segment_words(s: &Segment) -> [u64; SEGMENT_WORDS] {
    let flag = |set, bit| if set { bit } else { 0 };
    let attributes = u64::from(s.kind & 0xf)
        | flag(s.code_or_data, CODE_OR_DATA)
        | u64::from(s.dpl & 3) << DPL_SHIFT
        | flag(s.present, PRESENT)
        | flag(s.available, AVAILABLE)
        | flag(s.long, LONG)
        | flag(s.big, BIG)
        | flag(s.granularity, GRANULARITY)
        | flag(s.unusable, UNUSABLE);
    [s.base, s.limit.into(), s.selector.into(), attributes]
}

fn segment([base, limit, selector, attributes]: [u64; SEGMENT_WORDS]) -> Segment {
    let flag = |bit| attributes & bit != 0;
    Segment {
        base,
        limit: limit as u32,
        selector: selector as u16,
        kind: (attributes & 0xf) as u8,
        dpl: (attributes >> DPL_SHIFT & 3) as u8,
        present: flag(PRESENT),
        code_or_data: flag(CODE_OR_DATA),
        long: flag(LONG),
        big: flag(BIG),
        granularity: flag(GRANULARITY),
        available: flag(AVAILABLE),
        unusable: flag(UNUSABLE),
    }
}

fn system_words(s: &SystemRegisters) -> Vec<u64> {
    let segments = [&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs, &s.ldt, &s.tr];
    let mut words: Vec<u64> = segments.into_iter().flat_map(segment_words).collect();
    words.extend([s.gdt.base, s.gdt.limit.into(), s.idt.base, s.idt.limit.into()]);
    words.extend([s.cr0, s.cr2, s.cr3, s.cr4, s.cr8, s.efer, s.apic_base]);
    words
}

fn system(words: [u64; SYSTEM_WORDS]) -> SystemRegisters {
    let [segments @ .., gdt, gdt_limit, idt, idt_limit, cr0, cr2, cr3, cr4, cr8, efer, apic_base] = words;
    let segments: [u64; SEGMENTS * SEGMENT_WORDS] = segments;
    let at = |i: usize| segment(std::array::from_fn(|word| segments[SEGMENT_WORDS * i + word]));
    let [es, cs, ss, ds, fs, gs, ldt, tr] = std::array::from_fn(at);
    let table = |base, limit| DescriptorTable { base, limit: limit as u16 };
    let (gdt, idt) = (table(gdt, gdt_limit), table(idt, idt_limit));
    SystemRegisters { es, cs, ss, ds, fs, gs, ldt, tr, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base }
}

/// Whether there is a value, and the value.
fn optional(value: Option<u64>) -> [u64; 2] {
    value.map_or([0, 0], |value| [1, value])
}

fn pending_words(events: &PendingEvents) -> [u64; 9] {
    let [raised, vector] = optional(events.exception.map(|(vector, _)| vector.into()));
    let [has_code, code] = optional(events.exception.and_then(|(_, code)| code).map(Into::into));
    let [acknowledged, interrupt] = optional(events.interrupt.map(Into::into));
    let flags = [events.nmi_pending, events.nmi_masked, events.interrupt_shadow].map(u64::from);
    let [nmi_pending, nmi_masked, shadow] = flags;
    [raised, vector, has_code, code, acknowledged, interrupt, nmi_pending, nmi_masked, shadow]
}

fn pending(words: [u64; 9]) -> PendingEvents {
    let [raised, vector, has_code, code, acknowledged, interrupt, nmi_pending, nmi_masked, shadow] = words;
    PendingEvents {
        exception: (raised != 0).then_some((vector as u8, (has_code != 0).then_some(code as u32))),
        interrupt: (acknowledged != 0).then_some(interrupt as u8),
        nmi_pending: nmi_pending != 0,
        nmi_masked: nmi_masked != 0,
        interrupt_shadow: shadow != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_registers_come_back_as_they_were() {
        let code = Segment { dpl: 3, available: true, limit: 5, ..Segment::flat_code(0x33, true) };
        let table = |base| DescriptorTable { base, limit: 0x7f };
        let registers = SystemRegisters {
            es: Segment { unusable: true, ..Segment::default() },
            cs: code,
            ss: Segment::flat_data(0x2b),
            ds: Segment::real_mode(0x1234),
            fs: Segment { base: u64::MAX, ..Segment::default() },
            gs: Segment { selector: u16::MAX, kind: 0xf, ..Segment::default() },
            ldt: Segment { limit: u32::MAX, ..Segment::default() },
            tr: Segment::task_state(0x40, 0x1000, 0x67),
            gdt: table(1),
            idt: table(2),
            cr0: 3,
            cr2: 4,
            cr3: 5,
            cr4: 6,
            cr8: 7,
            efer: 8,
            apic_base: 9,
        };
        assert_eq!(system(system_words(&registers).try_into().unwrap()), registers);
    }

    #[test]
    fn pending_events_come_back_as_they_were() {
        let none = PendingEvents::default();
        let exception = Some((14, Some(2)));
        for events in [
            none,
            PendingEvents { exception, nmi_pending: true, ..none },
            PendingEvents { exception: Some((6, None)), nmi_masked: true, ..none },
            PendingEvents { interrupt: Some(0), interrupt_shadow: true, ..none },
        ] {
            assert_eq!(pending(pending_words(&events)), events);
        }
    }

    #[test]
    fn state_of_the_wrong_length_is_refused() {
        assert_eq!(words::<2>(&[0; 16]).unwrap(), [0, 0]);
        for length in [0, 8, 15, 17, 24] {
            assert_eq!(words::<2>(&vec![0; length]).unwrap_err().code(), ErrorCode::InvalidArgument);
        }
    }
}
