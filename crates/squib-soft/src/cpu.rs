//! One soft vCPU: registers, translation caches, decoded code, and what it waits for.

use std::sync::Arc;

use squib_core::x86::bits::RFLAGS_TF;
use squib_core::{Clock, Entropy, GuestMemory};
use squib_x86::env::{Env, Flush, Leave};
use squib_x86::model::CpuModel;
use squib_x86::state::sreg;
use squib_x86::system::debug;
use squib_x86::system::paging::Paging;
use squib_x86::{CpuState, Stop};

use crate::block::Block;
use crate::cache::BlockCache;
use crate::code_segment::CodeSegment;
use crate::devices::Platform;
use crate::op::Op;
use crate::replay::Replay;
use crate::tlb::{Entries, Tlb};

/// The translations for one set of rights.
#[derive(Debug, Default)]
pub struct TlbSet {
    /// Loads.
    pub read: Tlb,
    /// Stores.
    pub write: Tlb,
    /// Instruction fetches.
    pub fetch: Tlb,
}

/// Rights under which translations are cached.
pub mod rights {
    /// Supervisor.
    pub const SUPERVISOR: usize = 0;
    /// User.
    pub const USER: usize = 1;
    /// Supervisor with RFLAGS.AC set, by which SMAP lets explicit accesses pass.
    pub const SMAP_OPEN: usize = 2;
    /// User with alignment checks. Its read and write arrays stay empty, so that every access is checked.
    pub const ALIGNED: usize = 3;
}

/// Number of [`rights`].
pub const TLB_SETS: usize = 4;

/// A soft vCPU. The fields that every instruction touches come first.
#[repr(C)]
pub struct Cpu {
    /// Architectural registers.
    pub state: CpuState,
    /// Read translations of the set in force.
    pub(crate) read: *const Entries,
    /// Write translations of the set in force.
    pub(crate) write: *const Entries,
    /// The block that runs.
    pub(crate) block: *const Block,
    /// Guest instructions left in this quantum. Blocks take their count off when they begin.
    pub(crate) left: i64,
    /// The operation at which the last block was left early.
    pub(crate) stopped_at: *const Op,
    /// Why the last instruction stopped.
    pub(crate) stop: Option<Stop>,
    /// Why the last instruction ends the run.
    pub(crate) leave: Option<Leave>,
    /// What the guest did that this CPU says it does not support.
    pub(crate) unsupported: Option<&'static str>,
    /// Counts changes of what linear addresses mean as code.
    pub(crate) code_generation: u64,
    /// The code segment that `code_generation` speaks of.
    pub(crate) decoded: CodeSegment,
    /// The registers that decide how addresses are translated.
    pub(crate) paging: Paging,
    /// The set in force: index into `tlbs`.
    pub(crate) rights: usize,
    pub(crate) tlbs: Box<[TlbSet; TLB_SETS]>,
    pub(crate) cache: BlockCache,
    pub(crate) replay: Replay,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) model: CpuModel,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) platform: Platform,
    /// An interrupt is waiting in the local APIC.
    pub(crate) interrupt_pending: bool,
    /// Instructions of all quanta so far, `left` included.
    pub(crate) granted: u64,
    /// An external interrupt that the embedder injected, where there is no local APIC.
    pub(crate) injected: Option<u8>,
    /// The embedder wants to know when the guest can take an interrupt.
    pub(crate) window_wanted: bool,
    /// A non-maskable interrupt waits.
    pub(crate) nmi_pending: bool,
    /// The local APIC has an event that is no maskable interrupt.
    pub(crate) signalled: bool,
    /// A breakpoint watches data.
    pub(crate) watching: bool,
    /// What the next debug trap reports: data and port breakpoints that were hit, or a step. Bits of DR6.
    pub(crate) hits: u64,
    /// Accesses to model-specific registers that nobody has.
    pub(crate) unknown_msrs: u64,
    /// Where RDRAND and RDSEED have their numbers from.
    pub(crate) entropy: Option<Arc<dyn Entropy>>,
    /// Every instruction runs by its full description, in a block of its own.
    pub(crate) plain: bool,
}

// SAFETY: the raw pointers are to parts of boxes that the same structure owns (`tlbs`, `cache`), so they move
// with it from thread to thread; everything else is `Send`.
#[allow(unsafe_code, reason = "see above")]
unsafe impl Send for Cpu {}

impl Cpu {
    /// A vCPU after reset.
    pub fn new(memory: Arc<GuestMemory>, model: CpuModel, clock: Arc<dyn Clock>, platform: Platform) -> Self {
        let tlbs: Box<[TlbSet; TLB_SETS]> = Box::default();
        let state = CpuState::reset();
        let mut cpu = Self {
            read: tlbs[0].read.entries(),
            write: tlbs[0].write.entries(),
            block: std::ptr::null(),
            left: 0,
            stopped_at: std::ptr::null(),
            stop: None,
            leave: None,
            unsupported: None,
            code_generation: 1,
            decoded: CodeSegment::of(&state),
            paging: Paging::of(&state, &model),
            rights: 0,
            tlbs,
            cache: BlockCache::default(),
            replay: Replay::default(),
            memory,
            model,
            clock,
            platform,
            interrupt_pending: false,
            granted: 0,
            injected: None,
            window_wanted: false,
            nmi_pending: false,
            signalled: false,
            watching: false,
            hits: 0,
            unknown_msrs: 0,
            entropy: None,
            plain: false,
            state,
        };
        cpu.refresh_mode();
        cpu
    }

    /// INIT: the registers as it leaves them, and nothing cached.
    pub(crate) fn init(&mut self) {
        self.state.init();
        self.flush(Flush::All);
        self.replay.clear();
        self.refresh_mode();
    }

    /// Start-up: real-mode code at page `page` of the first megabyte.
    pub(crate) fn start_at(&mut self, page: u8) {
        let cs = &mut self.state.seg[sreg::CS];
        cs.selector = u16::from(page) << 8;
        cs.base = u64::from(page) << 12;
        self.state.rip = 0;
        self.refresh_mode();
    }

    /// Guest instructions executed.
    pub fn instructions(&self) -> u64 {
        self.granted.wrapping_sub(self.left as u64)
    }

    /// Whether RFLAGS.TF is set.
    pub(crate) fn single_stepping(&self) -> bool {
        self.state.sys_flags & RFLAGS_TF != 0
    }

    /// Whether a debug exception can come with any instruction, so that they run one by one.
    pub(crate) fn is_debugged(&self) -> bool {
        self.single_stepping() || debug::armed(&self.state)
    }

    /// Whether something waits for the boundary of an instruction.
    pub(crate) fn has_waiting(&self) -> bool {
        self.interrupt_pending
            || self.injected.is_some()
            || self.nmi_pending
            || self.signalled
            || self.window_wanted
            || self.is_debugged()
    }

    /// Notes why the instruction stopped.
    #[cold]
    pub(crate) fn halt(&mut self, stop: Stop) -> Halted {
        self.stop = Some(stop);
        Halted
    }
}

/// An instruction stopped; [`Cpu::stop`] says why. Kept out of the result so that results stay in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halted;
