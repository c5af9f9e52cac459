//! What one exit to a device in Rust costs, on each backend: the guest's instructions, the backend, the bus. On KVM beside
//! a loop on bare kvm-ioctls that runs the same guest, in turns.

use squib_kvm::KvmBackend;
use squib_soft::SoftBackend;

use crate::Result;
use crate::guest::{Access, Guest, PORT_READ};
use crate::measure::median;

const ACCESSES: [(&str, Access); 4] = [
    // out dx, al; loop back; out 0x80, al
    ("port write", Access(&[0xee, 0xe2, 0xfd, 0xe6, 0x80])),
    ("port read", PORT_READ),
    // mov [bx], al; loop back; out 0x80, al
    ("MMIO write", Access(&[0x88, 0x07, 0xe2, 0xfc, 0xe6, 0x80])),
    // mov al, [bx]; loop back; out 0x80, al
    ("MMIO read", Access(&[0x8a, 0x07, 0xe2, 0xfc, 0xe6, 0x80])),
];

const SOFT_EXITS: u16 = 60_000;
const KVM_EXITS: u16 = 500;
/// Rounds on KVM for each on the soft backend: they are shorter, and their difference is small.
const KVM_ROUNDS: usize = 20;

pub(crate) fn run(rounds: usize) -> Result<()> {
    println!("exit to a Rust device   ns on soft    ns on kvm    bare loop     ratio");
    let soft = SoftBackend::default();
    let kvm = KvmBackend::open().inspect_err(|e| println!("SKIPPED: exits on kvm, because {e}")).ok();
    for (name, access) in ACCESSES {
        let mut guest = Guest::new(&soft, &access)?;
        let times = (0..rounds).map(|_| guest.round(SOFT_EXITS)).collect::<Result<Vec<_>>>()?;
        print!("{:<22} {:>11.0}", name, median(times));
        match &kvm {
            Some(kvm) => {
                let [squib, bare, ratio] = against_bare(kvm, &access, rounds * KVM_ROUNDS)?;
                println!(" {squib:>12.0} {bare:>12.0} {ratio:>9.3}");
            }
            None => println!(" {:>12} {:>12} {:>9}", "–", "–", "–"),
        }
    }
    if kvm.is_some() {
        println!("port write to an ioeventfd, bare loop {:>22.0}", doorbell(rounds)?);
    }
    Ok(())
}

/// Nanoseconds of a port write that the kernel turns into a signal, the median.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn doorbell(rounds: usize) -> Result<f64> {
    let [(_, write), ..] = ACCESSES;
    let (mut bare, written) = crate::bare_kvm::Bare::with_ioeventfd(&write)?;
    let times = (0..rounds * KVM_ROUNDS).map(|_| bare.round(KVM_EXITS)).collect::<Result<Vec<_>>>()?;
    let (made, expected) = (written.read()?, u64::from(KVM_EXITS) * times.len() as u64);
    if made != expected {
        return Err(format!("the eventfd counted {made} of {expected} writes").into());
    }
    Ok(median(times))
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn doorbell(_: usize) -> Result<f64> {
    Err("ioeventfds are measured on x86-64 Linux".into())
}

/// Medians: nanoseconds of squib's exit, of the bare loop's, and their ratio within a round.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn against_bare(kvm: &KvmBackend, access: &Access, rounds: usize) -> Result<[f64; 3]> {
    let (mut guest, mut bare) = (Guest::new(kvm, access)?, crate::bare_kvm::Bare::new(access)?);
    let mut columns = [(); 3].map(|()| Vec::with_capacity(rounds));
    for round in 0..rounds {
        // Whoever goes first in one round goes second in the next.
        let (a, b) = if round % 2 == 0 {
            let a = guest.round(KVM_EXITS)?;
            (a, bare.round(KVM_EXITS)?)
        } else {
            let b = bare.round(KVM_EXITS)?;
            (guest.round(KVM_EXITS)?, b)
        };
        for (column, value) in columns.iter_mut().zip([a, b, a / b]) {
            column.push(value);
        }
    }
    Ok(columns.map(median))
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn against_bare(_: &KvmBackend, _: &Access, _: usize) -> Result<[f64; 3]> {
    Err("the kvm backend runs on x86-64 Linux".into())
}
