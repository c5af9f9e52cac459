//! Puts a flat guest into memory and a vCPU, for tests that have no machine builder at hand.

use squib_core::x86::{DescriptorTable, Registers, Segment, SystemRegisters, bits};
use squib_core::{Error, ErrorCode, GuestMemory, Result, Vcpu};

use crate::{Guest, Mode};

const GDT: u64 = 0x1000;
const PML4: u64 = 0x5000;
const PDPT: u64 = 0x6000;
const DIRECTORIES: u64 = 0x7000;
const STACK: u64 = 0x8_0000;
const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 1 << 7;

impl Guest {
    /// Writes the image to `memory`, with page tables and descriptors where the mode needs them (at 0x1000 and from 0x5000 to 0xafff),
    /// and sets the registers of `vcpu` to the guest's first instruction.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] for [`Mode::Multiboot`], which needs a loader; otherwise what memory and vCPU
    /// say, as [`ErrorCode::MemoryRange`] when there is too little of it.
    pub fn start(&self, memory: &GuestMemory, vcpu: &mut dyn Vcpu) -> Result<()> {
        let x86 = vcpu.x86()?;
        let mut system = x86.system_registers()?;
        match self.mode {
            Mode::Real16 => {
                let zero = Segment::real_mode(0);
                system.cs = Segment { kind: 0xb, ..zero };
                (system.ds, system.es, system.fs, system.gs, system.ss) = (zero, zero, zero, zero, zero);
                system.cr0 = bits::CR0_ET;
            }
            Mode::Long64 => {
                write_tables(memory)?;
                long_mode(&mut system);
            }
            Mode::Multiboot => {
                let message = format!("guest {} is an ELF file: boot it through a loader", self.name);
                return Err(Error::new(ErrorCode::Unsupported, message));
            }
        }
        memory.write(self.load_addr, &self.image)?;
        x86.set_system_registers(&system)?;
        x86.set_registers(&Registers {
            rip: self.load_addr,
            rsp: if self.mode == Mode::Real16 { self.load_addr } else { STACK },
            rflags: bits::RFLAGS_FIXED,
            ..Registers::default()
        })
    }
}

fn long_mode(system: &mut SystemRegisters) {
    let data = Segment::flat_data(16);
    system.cs = Segment { big: false, ..Segment::flat_code(8, true) };
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    system.tr = Segment::task_state(0, 0, 0x67);
    system.gdt = DescriptorTable { base: GDT, limit: 23 };
    system.idt = DescriptorTable::default();
    system.cr0 = bits::CR0_PE | bits::CR0_MP | bits::CR0_ET | bits::CR0_NE | bits::CR0_PG;
    system.cr3 = PML4;
    system.cr4 = bits::CR4_PAE | bits::CR4_OSFXSR | bits::CR4_OSXMMEXCPT;
    system.efer = bits::EFER_LME | bits::EFER_LMA;
}

fn write_tables(memory: &GuestMemory) -> Result<()> {
    let write = |addr: u64, entries: &[u64]| {
        let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        memory.write(addr, &bytes)
    };
    write(GDT, &[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff])?;
    write(PML4, &[PDPT | PRESENT_WRITABLE])?;
    let directories: Vec<u64> = (0..4).map(|i| (DIRECTORIES + i * 0x1000) | PRESENT_WRITABLE).collect();
    write(PDPT, &directories)?;
    let pages: Vec<u64> = (0..4 * 512).map(|i| (i << 21) | LARGE_PAGE | PRESENT_WRITABLE).collect();
    write(DIRECTORIES, &pages)
}
