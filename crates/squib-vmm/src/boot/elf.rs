//! ELF executables for x86 (System V ABI, "gABI" chapters 4 and 5).

use std::ops::Range;

use object::elf;
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, ProgramHeader};
use squib_core::{Error, ErrorCode, Result};

use super::bytes::u32_at;
use super::format_error;
use super::placement::{Part, Placer};

/// Type of Xen's note that holds the PVH entry, `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, public/elfnote.h).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Most LOAD segments that anyone needs; it bounds the work on a hostile header.
const MAX_SEGMENTS: usize = 64;

/// An executable that says where its parts go.
pub(super) struct Executable<'a> {
    /// Whether it is of the 64-bit class.
    pub(super) is_64: bool,
    /// Entry address as the header gives it, virtual or physical.
    pub(super) entry: u64,
    /// Physical address of the 32-bit PVH entry.
    pub(super) pvh_entry: Option<u64>,
    pub(super) segments: Vec<Segment<'a>>,
}

/// A part of an executable that is loaded.
pub(super) struct Segment<'a> {
    /// Physical address.
    pub(super) addr: u64,
    /// Virtual address.
    pub(super) virtual_addr: u64,
    pub(super) bytes: &'a [u8],
    /// Zero bytes that follow.
    pub(super) zeros: u64,
}

impl Segment<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64 + self.zeros
    }

    fn range(&self) -> Range<u64> {
        self.addr..self.addr.saturating_add(self.len())
    }
}

/// Reads the headers of a 32-bit or 64-bit executable.
pub(super) fn parse(image: &[u8]) -> Result<Executable<'_>> {
    match image.get(4) {
        Some(1) => parse_class::<elf::FileHeader32<LittleEndian>>(image, elf::EM_386),
        Some(2) => parse_class::<elf::FileHeader64<LittleEndian>>(image, elf::EM_X86_64),
        _ => Err(format_error("the kernel is no ELF file of a known class")),
    }
}

fn parse_class<H: FileHeader<Endian = LittleEndian>>(image: &[u8], machine: u16) -> Result<Executable<'_>> {
    let header = H::parse(image).map_err(malformed)?;
    let endian = header.endian().map_err(|_| format_error("the ELF file is not little-endian"))?;
    if header.e_machine(endian) != machine {
        return Err(format_error(format!(
            "the ELF file is for machine {}, not for x86 (EM_{})",
            header.e_machine(endian),
            if header.is_class_64() { "X86_64" } else { "386" }
        )));
    }
    if header.e_type(endian) != elf::ET_EXEC {
        return Err(format_error(
            "the ELF file is not linked to run at fixed addresses (its type is not ET_EXEC)",
        ));
    }
    let mut executable = Executable {
        is_64: header.is_class_64(),
        entry: header.e_entry(endian).into(),
        pvh_entry: None,
        segments: Vec::new(),
    };
    for program_header in header.program_headers(endian, image).map_err(malformed)? {
        match program_header.p_type(endian) {
            elf::PT_LOAD => executable.segments.extend(segment(program_header, endian, image)?),
            elf::PT_NOTE if executable.pvh_entry.is_none() => {
                executable.pvh_entry = pvh_entry(program_header, endian, image)?;
            }
            _ => {}
        }
        if executable.segments.len() > MAX_SEGMENTS {
            return Err(format_error(format!("the ELF file has more than {MAX_SEGMENTS} segments to load")));
        }
    }
    executable.check_overlaps()?;
    Ok(executable)
}

/// The segment of a LOAD header, or nothing if it is empty.
fn segment<'a, P: ProgramHeader>(
    header: &P,
    endian: P::Endian,
    image: &'a [u8],
) -> Result<Option<Segment<'a>>> {
    let addr: u64 = header.p_paddr(endian).into();
    let memory_size: u64 = header.p_memsz(endian).into();
    let bytes = header.data(endian, image).map_err(|()| {
        format_error(format!("the bytes of the ELF segment at {addr:#x} lie past the end of the file"))
    })?;
    let Some(zeros) = memory_size.checked_sub(bytes.len() as u64) else {
        return Err(format_error(format!(
            "the ELF segment at {addr:#x} has {:#x} bytes in the file but only {memory_size:#x} in memory",
            bytes.len()
        )));
    };
    if addr.checked_add(memory_size).is_none() {
        return Err(format_error(format!(
            "the ELF segment at {addr:#x} of {memory_size:#x} bytes leaves the address space"
        )));
    }
    let virtual_addr = header.p_vaddr(endian).into();
    Ok((memory_size > 0).then_some(Segment { addr, virtual_addr, bytes, zeros }))
}

/// The PVH entry among the notes of a NOTE header.
fn pvh_entry<P: ProgramHeader>(header: &P, endian: P::Endian, image: &[u8]) -> Result<Option<u64>> {
    let Some(mut notes) = header.notes(endian, image).map_err(malformed)? else { return Ok(None) };
    while let Some(note) = notes.next().map_err(malformed)? {
        if note.name() == b"Xen" && note.n_type(endian) == XEN_ELFNOTE_PHYS32_ENTRY {
            // Xen takes a 32-bit or a 64-bit number, of which the low half counts.
            let entry = u32_at(note.desc(), 0).map(u64::from);
            return entry
                .map(Some)
                .ok_or_else(|| format_error("the kernel's PVH note is too short for an address"));
        }
    }
    Ok(None)
}

impl Executable<'_> {
    fn check_overlaps(&self) -> Result<()> {
        let mut ranges: Vec<_> = self.segments.iter().map(Segment::range).collect();
        ranges.sort_unstable_by_key(|r| r.start);
        match ranges.windows(2).find(|w| w[0].end > w[1].start) {
            Some(w) => {
                Err(format_error(format!("the kernel's segments {:#x?} and {:#x?} overlap", w[0], w[1])))
            }
            None => Ok(()),
        }
    }

    /// Puts the segments into memory.
    pub(super) fn load(&self, placer: &mut Placer<'_>) -> Result<()> {
        if self.segments.is_empty() {
            return Err(format_error("the kernel has nothing to load"));
        }
        self.segments.iter().try_for_each(|s| placer.put_padded(Part::Kernel, s.addr, s.bytes, s.zeros))
    }

    /// The header's entry as a physical address: some kernels give their own virtual one.
    pub(super) fn physical_entry(&self) -> Result<u64> {
        if self.segments.iter().any(|s| s.range().contains(&self.entry)) {
            return Ok(self.entry);
        }
        let offset = |s: &Segment<'_>| self.entry.checked_sub(s.virtual_addr).filter(|o| *o < s.len());
        self.segments.iter().find_map(|s| Some(s.addr + offset(s)?)).ok_or_else(|| entry_outside(self.entry))
    }

    /// The PVH entry.
    pub(super) fn pvh_entry(&self) -> Result<u64> {
        let entry = self.pvh_entry.ok_or_else(|| {
            format_error("the kernel has no PVH entry (no Xen note of type 18); try the 64-bit boot protocol")
        })?;
        if self.segments.iter().any(|s| s.range().contains(&entry)) {
            Ok(entry)
        } else {
            Err(entry_outside(entry))
        }
    }
}

fn malformed(cause: object::Error) -> Error {
    Error::with_source(ErrorCode::ImageFormat, "the ELF file is malformed", cause)
}

fn entry_outside(entry: u64) -> Error {
    format_error(format!("the kernel's entry {entry:#x} is in none of its segments"))
}
