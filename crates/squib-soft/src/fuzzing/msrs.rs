//! Body of the fuzz target `msrs`: RDMSR and WRMSR of any register with any value, the local APIC's among them.

use std::sync::Arc;

use squib_devices::irqchip::Irqchip;
use squib_x86::model::CpuModel;
use squib_x86::system::msr;
use squib_x86::{Exception, Stop};

use super::{Input, Still};
use crate::cpu::Cpu;
use crate::devices::{Controllers, Platform};

/// Most operations of one run.
const MOST: usize = 100;

/// Carries out what `data` says, and asserts that a refused write changes nothing, and that every register can be set
/// to what it was read as.
pub fn msrs(data: &[u8]) {
    let mut input = Input(data);
    let model = [CpuModel::v1(), CpuModel::v2(), CpuModel::max()][usize::from(input.byte() % 3)];
    let Ok(memory) = squib_core::GuestMemory::new(0x1_0000) else { unreachable!("64 KiB can be had") };
    let Ok(chip) = Irqchip::new(1) else { unreachable!("one processor can be had") };
    let platform = Platform::new(Some(Arc::new(Controllers::new(chip))), 0);
    let mut cpu = Cpu::new(memory, model, Arc::new(Still), platform);
    for _ in 0..MOST {
        if input.0.is_empty() {
            break;
        }
        let index = index(&mut input);
        let value = value(&mut input);
        if input.byte() & 3 == 0 {
            only_gp(msr::read(&mut cpu, index).map(drop));
            continue;
        }
        let before = registers(&cpu);
        if only_gp(msr::write(&mut cpu, index, value)) {
            assert_eq!(registers(&cpu), before, "{index:#x} was refused {value:#x}");
        }
        for (index, value) in registers(&cpu) {
            let mut copy = cpu.state.clone();
            assert!(msr::set(&mut copy, &cpu.model, 0, index, value).is_ok(), "{index:#x} is {value:#x}");
            assert_eq!(msr::get(&copy, &cpu.model, 0, index), Some(value));
        }
    }
}

/// Whether it was refused; by #GP(0), if so.
fn only_gp(result: Result<(), Stop>) -> bool {
    assert!(matches!(result, Ok(()) | Err(Stop::Fault(Exception::GP0))), "{result:?}");
    result.is_err()
}

/// The processor's registers and their values.
fn registers(cpu: &Cpu) -> Vec<(u32, u64)> {
    let value = |index| msr::get(&cpu.state, &cpu.model, 0, index).unwrap_or_default();
    msr::state_msrs(&cpu.model).map(|index| (index, value(index))).collect()
}

fn index(input: &mut Input<'_>) -> u32 {
    let (kind, n) = (input.byte(), input.byte());
    match kind & 7 {
        0..=3 => msr::STATE_MSRS[usize::from(n) % msr::STATE_MSRS.len()],
        4 | 5 => 0x800 | u32::from(n),
        6 => [0x1b, 0x6e0, 0xfe, 0x3a][usize::from(n & 3)],
        _ => input.word() as u32,
    }
}

fn value(input: &mut Input<'_>) -> u64 {
    match input.byte() & 3 {
        0 => input.byte().into(),
        1 => 1 << (input.byte() & 63),
        2 => u64::from(input.byte()) << 8 | 0xfee0_0000,
        _ => input.word(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn registers_keep_what_they_take(data in prop::collection::vec(any::<u8>(), 0..600)) {
            super::msrs(&data);
        }
    }
}
