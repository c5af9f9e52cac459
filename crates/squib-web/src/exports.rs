//! The exports. Each takes a VM by its number. Those that give `i32` give a negative number for an error, whose code
//! and message are then in the transfer area, with a NUL between them.
#![allow(unsafe_code, reason = "an export needs its plain name")]

use std::cell::RefCell;
use std::rc::Rc;

use squib_core::{Error, ErrorCode, ExitKind, IrqchipKind, Result};
use squib_vmm::Target;
use squib_vmm::boot::{Flat, FlatMode, Protocol};

use crate::exit::entry;
use crate::state;
use crate::vm::WebVm;

/// What an export gives that failed.
const FAILED: i32 = -1;

thread_local! {
    /// The VMs by number. One that runs is kept alive by its run, so a device may close it.
    static VMS: RefCell<Vec<Option<Rc<WebVm>>>> = const { RefCell::new(Vec::new()) };
    /// Bytes on their way in or out.
    static TRANSFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A budget that stands for none.
const NO_BUDGET: u64 = u64::MAX;

fn leave(bytes: impl Into<Vec<u8>>) {
    TRANSFER.replace(bytes.into());
}

fn leave_words(words: impl IntoIterator<Item = u64>) {
    leave(words.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>());
}

fn finish(result: Result<i32>) -> i32 {
    result.unwrap_or_else(|error| {
        leave(format!("{}\0{error}", error.code().as_str()));
        FAILED
    })
}

fn with(vm: u32, f: impl FnOnce(&WebVm) -> Result<i32>) -> i32 {
    let found = VMS.with_borrow(|vms| vms.get(vm as usize).cloned().flatten());
    finish(match found {
        Some(vm) => f(&vm),
        None => Err(Error::new(ErrorCode::Closed, "the VM has been closed")),
    })
}

/// Makes the transfer area `length` bytes long and says where it is, until the next call of any export.
#[unsafe(no_mangle)]
extern "C" fn squib_transfer(length: u32) -> *mut u8 {
    TRANSFER.with_borrow_mut(|bytes| {
        bytes.resize(length as usize, 0);
        bytes.as_mut_ptr()
    })
}

/// How long it is.
#[unsafe(no_mangle)]
extern "C" fn squib_transfer_length() -> u32 {
    TRANSFER.with_borrow(|bytes| bytes.len() as u32)
}

/// Leaves the names of the exit kinds, in the order of their numbers, with commas between them.
#[unsafe(no_mangle)]
extern "C" fn squib_exit_kinds() {
    leave(ExitKind::ALL.map(ExitKind::name).join(","));
}

/// Makes a VM with `memory` bytes of RAM and gives its number. `irqchip` 0: no interrupt controllers; 1: split; 2: full. The
/// CPU model is in the transfer area.
#[unsafe(no_mangle)]
extern "C" fn squib_create(memory: u64, irqchip: u32) -> i32 {
    let cpu = TRANSFER.take();
    let cpu = String::from_utf8_lossy(&cpu);
    let irqchip = match irqchip {
        0 => Ok(IrqchipKind::None),
        1 => Ok(IrqchipKind::Split),
        2 => Ok(IrqchipKind::Full),
        _ => Err(Error::new(ErrorCode::InvalidArgument, format!("an irqchip is 0, 1 or 2, not {irqchip}"))),
    };
    finish(irqchip.and_then(|irqchip| WebVm::new(memory, irqchip, &cpu)).map(|vm| {
        VMS.with_borrow_mut(|vms| {
            let at = vms.iter().position(Option::is_none).unwrap_or(vms.len());
            if at == vms.len() {
                vms.push(None);
            }
            vms[at] = Some(Rc::new(vm));
            at as i32
        })
    }))
}

/// Closes a VM and frees its number.
#[unsafe(no_mangle)]
extern "C" fn squib_close(vm: u32) {
    let closed = VMS.with_borrow_mut(|vms| vms.get_mut(vm as usize).and_then(Option::take));
    if let Some(vm) = closed {
        vm.close();
    }
}

/// Where a VM's access record is, for as long as the VM lives; 0 when there is no such VM.
#[unsafe(no_mangle)]
extern "C" fn squib_record(vm: u32) -> i32 {
    with(vm, |vm| Ok(vm.record().address().addr() as i32))
}

/// Where the words of a VM's last exit are, for as long as the VM lives.
#[unsafe(no_mangle)]
extern "C" fn squib_words(vm: u32) -> i32 {
    with(vm, |vm| Ok(vm.words().addr() as i32))
}

/// Leaves address and length of each run of RAM, as 64-bit numbers.
#[unsafe(no_mangle)]
extern "C" fn squib_memory_regions(vm: u32) -> i32 {
    with(vm, |vm| {
        let regions = vm.memory().regions().iter();
        leave_words(regions.flat_map(|r| [r.guest_addr(), r.len()]));
        Ok(0)
    })
}

/// Leaves `length` bytes of RAM from `addr`.
#[unsafe(no_mangle)]
extern "C" fn squib_memory_read(vm: u32, addr: u64, length: u32) -> i32 {
    with(vm, |vm| {
        if !vm.memory().contains(addr, length.into()) {
            let message = format!("guest-physical range {addr:#x}+{length:#x} is not RAM");
            return Err(Error::new(ErrorCode::MemoryRange, message));
        }
        let mut bytes = vec![0; length as usize];
        vm.memory().read(addr, &mut bytes)?;
        leave(bytes);
        Ok(0)
    })
}

/// Writes the transfer area to RAM.
#[unsafe(no_mangle)]
extern "C" fn squib_memory_write(vm: u32, addr: u64) -> i32 {
    let bytes = TRANSFER.take();
    with(vm, |vm| vm.memory().write(addr, &bytes).map(|()| 0))
}

/// Sets `length` bytes of RAM to `byte`.
#[unsafe(no_mangle)]
extern "C" fn squib_memory_fill(vm: u32, addr: u64, byte: u32, length: u64) -> i32 {
    with(vm, |vm| vm.memory().fill(addr, byte as u8, length).map(|()| 0))
}

/// Gives `length` ports (`ports` not 0) or addresses from `base` to device `device` of JavaScript. Its name is in the
/// transfer area.
#[unsafe(no_mangle)]
extern "C" fn squib_map(vm: u32, ports: u32, base: u64, length: u64, device: u32) -> i32 {
    let name = TRANSFER.take();
    let name = String::from_utf8_lossy(&name);
    with(vm, |vm| vm.bus(ports != 0).map(&name, base, length, Target::External(device)).map(|()| 0))
}

/// Takes away the range that begins at `base`.
#[unsafe(no_mangle)]
extern "C" fn squib_unmap(vm: u32, ports: u32, base: u64) -> i32 {
    with(vm, |vm| vm.bus(ports != 0).unmap(base).map(|()| 0))
}

/// Puts a doorbell of `width` bytes at port (`ports` not 0) or address `addr`, rung by writes of `value`, or by all where `any` is not
/// 0. Gives its number. Its name is in the transfer area.
#[unsafe(no_mangle)]
extern "C" fn squib_map_doorbell(vm: u32, ports: u32, addr: u64, width: u32, any: u32, value: u64) -> i32 {
    let name = TRANSFER.take();
    let name = String::from_utf8_lossy(&name);
    // A width of more than a byte's bits is none either way.
    let at = (addr, u8::try_from(width).unwrap_or(u8::MAX), (any == 0).then_some(value));
    with(vm, |vm| vm.map_doorbell(&name, ports != 0, at).map(|number| number as i32))
}

/// Takes away the doorbell of this number.
#[unsafe(no_mangle)]
extern "C" fn squib_unmap_doorbell(vm: u32, doorbell: u32) -> i32 {
    with(vm, |vm| {
        vm.unmap_doorbell(doorbell);
        Ok(0)
    })
}

/// Makes the vCPU with local APIC number `id`.
#[unsafe(no_mangle)]
extern "C" fn squib_create_vcpu(vm: u32, id: u32) -> i32 {
    with(vm, |vm| vm.create_vcpu(id).map(|()| 0))
}

/// Loads the image in the transfer area and puts the vCPU at its first instruction. `mode` 16, 32 or 64: a flat binary
/// for address `addr`; 0: a kernel, by its headers.
#[unsafe(no_mangle)]
extern "C" fn squib_boot(vm: u32, mode: u32, addr: u64) -> i32 {
    let image = TRANSFER.take();
    let flat = |mode| Ok(Some(Protocol::Flat(Flat::at(addr, mode))));
    with(vm, |vm| {
        let protocol = match mode {
            0 => Ok(None),
            16 => flat(FlatMode::Real16),
            32 => flat(FlatMode::Protected32),
            64 => flat(FlatMode::Long64),
            _ => Err(Error::new(ErrorCode::InvalidArgument, format!("a mode is 16, 32 or 64, not {mode}"))),
        };
        vm.boot(&image, protocol?).map(|()| 0)
    })
}

/// Answers the last exit and runs the guest to the next that no device claims. Gives the exit's kind; its text, if it
/// has one, is in the transfer area. `kind`, `length` and `value` are the entry.
#[unsafe(no_mangle)]
extern "C" fn squib_run(vm: u32, kind: u32, length: u32, value: u64) -> i32 {
    with(vm, |vm| {
        let (kind, text) = vm.run(entry(kind, length, value)?)?;
        leave(text);
        Ok(kind.into())
    })
}

/// Makes the run under way, or else the next one, end.
#[unsafe(no_mangle)]
extern "C" fn squib_cancel(vm: u32) -> i32 {
    with(vm, |vm| {
        vm.shared()?.cancel();
        Ok(0)
    })
}

/// Makes runs end after about `instructions` further instructions; 2^64 - 1 takes the limit away.
#[unsafe(no_mangle)]
extern "C" fn squib_set_budget(vm: u32, instructions: u64) -> i32 {
    let budget = (instructions != NO_BUDGET).then_some(instructions);
    with(vm, |vm| vm.vcpu(|vcpu| vcpu.set_budget(budget)).map(|()| 0))
}

/// Leaves the number of instructions executed up to the end of the last run.
#[unsafe(no_mangle)]
extern "C" fn squib_instructions(vm: u32) -> i32 {
    with(vm, |vm| {
        leave_words(vm.shared()?.instructions());
        Ok(0)
    })
}

/// Leaves the number of exits of each kind, in the order of the kinds' numbers.
#[unsafe(no_mangle)]
extern "C" fn squib_exit_counts(vm: u32) -> i32 {
    with(vm, |vm| {
        let counts = vm.shared()?.counts();
        leave_words(ExitKind::ALL.map(|kind| counts.get(kind)));
        Ok(0)
    })
}

/// Leaves part `part` of the vCPU's state, as `state.rs` numbers and writes them.
#[unsafe(no_mangle)]
extern "C" fn squib_state(vm: u32, part: u32) -> i32 {
    with(vm, |vm| {
        leave(vm.x86(|x86| state::read(x86, part))?);
        Ok(0)
    })
}

/// Sets it from the transfer area.
#[unsafe(no_mangle)]
extern "C" fn squib_set_state(vm: u32, part: u32) -> i32 {
    let bytes = TRANSFER.take();
    with(vm, |vm| vm.x86(|x86| state::write(x86, part, &bytes)).map(|()| 0))
}

/// Leaves a model-specific register.
#[unsafe(no_mangle)]
extern "C" fn squib_msr(vm: u32, index: u32) -> i32 {
    with(vm, |vm| {
        leave_words([vm.x86(|x86| x86.msr(index))?]);
        Ok(0)
    })
}

/// Sets one.
#[unsafe(no_mangle)]
extern "C" fn squib_set_msr(vm: u32, index: u32, value: u64) -> i32 {
    with(vm, |vm| vm.x86(|x86| x86.set_msr(index, value)).map(|()| 0))
}

/// Leaves EAX, EBX, ECX and EDX as CPUID gives them.
#[unsafe(no_mangle)]
extern "C" fn squib_cpuid(vm: u32, leaf: u32, subleaf: u32) -> i32 {
    with(vm, |vm| {
        let result = vm.x86(|x86| x86.cpuid(leaf, subleaf))?;
        leave_words([result.eax, result.ebx, result.ecx, result.edx].map(u64::from));
        Ok(0)
    })
}

/// Delivers external interrupt `vector` at the next run.
#[unsafe(no_mangle)]
extern "C" fn squib_inject_interrupt(vm: u32, vector: u32) -> i32 {
    let vector = u8::try_from(vector)
        .map_err(|_| Error::new(ErrorCode::InvalidArgument, format!("a vector is 0 to 255, not {vector}")));
    with(vm, |vm| vm.vcpu(|vcpu| vcpu.inject_interrupt(vector?)).map(|()| 0))
}

/// Makes runs end once the guest can take an interrupt, if `wanted` is not 0.
#[unsafe(no_mangle)]
extern "C" fn squib_request_interrupt_window(vm: u32, wanted: u32) -> i32 {
    with(vm, |vm| {
        vm.vcpu(|vcpu| {
            vcpu.request_interrupt_window(wanted != 0);
            Ok(0)
        })
    })
}

/// Raises a non-maskable interrupt.
#[unsafe(no_mangle)]
extern "C" fn squib_inject_nmi(vm: u32) -> i32 {
    with(vm, |vm| vm.vcpu(|vcpu| vcpu.inject_nmi()).map(|()| 0))
}

/// Sets the level of interrupt line `gsi`.
#[unsafe(no_mangle)]
extern "C" fn squib_set_irq_line(vm: u32, gsi: u32, level: u32) -> i32 {
    with(vm, |vm| vm.vm().set_irq_line(gsi, level != 0).map(|()| 0))
}

/// Delivers a message-signalled interrupt.
#[unsafe(no_mangle)]
extern "C" fn squib_signal_msi(vm: u32, addr: u64, data: u32) -> i32 {
    with(vm, |vm| vm.vm().signal_msi(addr, data).map(|()| 0))
}

/// Starts (`enabled` not 0) or stops recording of pages that the guest writes.
#[unsafe(no_mangle)]
extern "C" fn squib_set_dirty_log(vm: u32, enabled: u32) -> i32 {
    with(vm, |vm| vm.vm().set_dirty_log(enabled != 0).map(|()| 0))
}

/// Leaves the addresses of the pages written since the last call.
#[unsafe(no_mangle)]
extern "C" fn squib_take_dirty_pages(vm: u32) -> i32 {
    with(vm, |vm| {
        leave_words(vm.vm().take_dirty_pages()?);
        Ok(0)
    })
}
