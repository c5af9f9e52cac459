//! What system instructions need beyond the registers: memory by linear address, translation caches,
//! time, and the world outside the processor.

use crate::fault::Stop;
use crate::model::CpuModel;
use crate::size::Size;
use crate::state::CpuState;

/// With whose rights an access is made (Intel SDM vol. 3, 4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// The current privilege level's.
    Current,
    /// Supervisor rights whatever the privilege level: descriptor tables, task state, stacks of a more
    /// privileged level.
    System,
    /// User rights: the pushes of an interrupt that stays in ring 3, say.
    User,
}

/// What a change of paging structures invalidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Every translation.
    All,
    /// Every translation that is not global.
    NonGlobal,
    /// The translation of this linear address.
    Page(u64),
}

/// Something that ends the run of guest code after this instruction, told by [`Env::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// HLT.
    Halt,
    /// VMCALL or VMMCALL: RAX and the arguments are in the registers; the result goes to RAX.
    Hypercall,
    /// Shutdown state (Intel SDM vol. 3, 6.15 "Interrupt 8"): the third fault.
    TripleFault,
    /// An interrupt may be deliverable now, or the decoding mode has changed: look again.
    Recheck,
    /// The guest did what this CPU documents that it does not do; the text says what.
    Unsupported(&'static str),
}

/// The processor's surroundings.
pub trait Env {
    /// The registers.
    fn state(&mut self) -> &mut CpuState;

    /// The registers, to read.
    fn state_ref(&self) -> &CpuState;

    /// Reads `size` bytes at linear address `addr`, zero-extended.
    ///
    /// # Errors
    /// [`Stop::Fault`] with #PF, or #GP(0) where the address is not canonical; [`Stop::Exit`] for device
    /// memory whose answer is not there yet.
    fn read(&mut self, addr: u64, size: Size, rights: Rights) -> Result<u64, Stop>;

    /// Writes the low `size` bytes of `value`.
    ///
    /// # Errors
    /// As [`Env::read`].
    fn write(&mut self, addr: u64, size: Size, value: u64, rights: Rights) -> Result<(), Stop>;

    /// Checks that `len` bytes at `addr` can be written, and changes nothing but accessed and dirty bits. After
    /// it, writes there do not fault.
    ///
    /// # Errors
    /// [`Stop::Fault`] as [`Env::write`].
    fn probe_write(&mut self, addr: u64, len: u64, rights: Rights) -> Result<(), Stop>;

    /// Reads 8 bytes of RAM at physical address `addr`, which is a multiple of 8; all ones where there is no RAM.
    fn load_physical(&mut self, addr: u64) -> u64;

    /// Drops cached translations.
    fn flush(&mut self, what: Flush);

    /// Tells that CR0, CR3, CR4, EFER, CPL, CS or RFLAGS.AC changed in a way that changes what accesses are
    /// allowed, or where code is and how it is decoded. `update_mode` is called by this.
    fn mode_changed(&mut self);

    /// The time-stamp counter without the guest's offset, in ticks of [`CpuModel::tsc_khz`].
    fn host_tsc(&mut self) -> u64;

    /// The CPU model: what CPUID says.
    fn model(&self) -> &CpuModel;

    /// Task priority, 0–15 (CR8), kept by the local APIC.
    fn task_priority(&mut self) -> u8;

    /// Sets it.
    fn set_task_priority(&mut self, value: u8);

    /// Reads an MSR that the CPU itself does not have: APIC base, x2APIC, TSC deadline, the embedder's.
    ///
    /// # Errors
    /// #GP(0) when nobody has it.
    fn platform_rdmsr(&mut self, index: u32) -> Result<u64, Stop>;

    /// Writes one.
    ///
    /// # Errors
    /// #GP(0) when nobody has it or the value is refused.
    fn platform_wrmsr(&mut self, index: u32, value: u64) -> Result<(), Stop>;

    /// Tells that the guest placed, moved or removed a paravirtual clock structure (`state.msr.pv_system_time` or
    /// `pv_wall_clock` was written), or that it set its time-stamp counter. The structure must be filled in before
    /// the next instruction.
    fn pv_clock_changed(&mut self) {}

    /// Reads an I/O port; the caller has checked that it may.
    ///
    /// # Errors
    /// [`Stop::Exit`] for a device whose answer is not there yet.
    fn port_read(&mut self, port: u16, size: Size) -> Result<u64, Stop>;

    /// Writes an I/O port.
    ///
    /// # Errors
    /// As [`Env::port_read`].
    fn port_write(&mut self, port: u16, size: Size, value: u64) -> Result<(), Stop>;

    /// An element of a repeated string instruction is through, and the registers say so: from here the instruction can
    /// start again.
    fn begin_element(&mut self);

    /// Changes whenever decoded code may no longer be what memory holds.
    fn code_version(&self) -> u64 {
        0
    }

    /// Fills up to `count` elements from linear address `addr` upwards with `value`, as many as lie in the same page of
    /// plain RAM; gives their number, which may be 0.
    fn fill(&mut self, _addr: u64, _size: Size, _value: u64, _count: u64) -> u64 {
        0
    }

    /// Copies up to `count` elements upwards, in order, as many as lie in the same page at both ends and are plain RAM;
    /// gives their number, which may be 0.
    fn copy(&mut self, _to: u64, _from: u64, _size: Size, _count: u64) -> u64 {
        0
    }

    /// Random bits for RDRAND and RDSEED; `None` where there are none to be had.
    fn random(&mut self) -> Option<u64>;

    /// A single-step trap follows this instruction, whatever RFLAGS.TF was before it.
    fn step_trap(&mut self) {}

    /// Ends the run of guest code after this instruction.
    fn leave(&mut self, why: Leave);
}
