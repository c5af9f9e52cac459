//! What XSAVE and XRSTOR find in memory (Intel SDM vol. 1, 13.4).

use iced_x86::{Instruction, Mnemonic as M};

use super::Draft;
use super::operand::Width;
use crate::layout::{self, PAGE};
use crate::state::fx;
use crate::values;

/// Bytes of the legacy region and the header.
pub(super) const AREA: usize = 576;
/// Where XSTATE_BV is.
const STATE: usize = 512;
/// Where XCOMP_BV is.
const COMPACTION: usize = 520;

impl Draft<'_> {
    /// The operand, and the state components that are asked for: x87 and SSE, which every processor has.
    pub(super) fn prepare_xsave(&mut self, i: &mut Instruction, width: Width) -> Option<()> {
        if self.is_free(0) && self.is_free(2) {
            let components = self.r.below(4);
            self.fix(0, components);
            self.fix(2, 0);
        }
        let mut at = match self.r.below(8) {
            0 => layout::READ_ONLY + 64 * self.r.below(40),
            1 => layout::READ_ONLY - 64 * (1 + self.r.below(8)),
            2 => layout::READ_ONLY + PAGE - 64 * (1 + self.r.below(8)),
            _ => layout::DATA + 64 * self.r.below(100),
        };
        if self.r.chance(5) {
            at += self.r.below(64);
        }
        let area = self.area(matches!(i.mnemonic(), M::Xrstor | M::Xrstor64));
        self.patches.push((at, area));
        self.address(i, 0, at, false, width)
    }

    fn area(&mut self, restores: bool) -> Vec<u8> {
        let mut area = values::bytes(self.r, AREA);
        let mut put = |at: usize, value: u64, len: usize| {
            area[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        };
        let r = &mut *self.r;
        put(fx::FCW, 0x40 | r.next() & 0xf3f, 2);
        put(fx::FSW, r.next() & 0x7f00, 2);
        put(fx::MXCSR, if r.chance(95) { r.next() & 0xffff } else { r.next() }, 4);
        for at in (STATE..AREA).step_by(8) {
            put(at, 0, 8);
        }
        if restores && r.chance(10) {
            // Bits that no processor has a component for.
            put(STATE + 8 * r.below(8) as usize, 1 << (20 + r.below(44)), 8);
        } else if restores && r.chance(30) {
            let components = r.below(4);
            put(STATE, components, 8);
            put(COMPACTION, 1 << 63 | components | r.below(4), 8);
        } else {
            put(STATE, r.below(4), 8);
        }
        area
    }
}
