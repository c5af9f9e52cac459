//! The kernels that Debian ships, unpacked and placed.

use std::time::Instant;

use crate::kernels::find;
use squib_core::{ErrorCode, GuestMemory};
use squib_vmm::boot::{self, BootSource, ImageKind, Part, Protocol};

fn boots(prefix: &str, version: &str, pvh_entry: u64, entry: u64) {
    let Some((path, image)) = find(prefix) else { return };
    assert_eq!(boot::detect(&image).unwrap(), ImageKind::BzImage);
    let initrd = vec![0xa5; 1_000_001];
    for (protocol, entry) in [(None, pvh_entry), (Some(Protocol::Linux64), entry)] {
        let memory = GuestMemory::new(256 << 20).unwrap();
        let source = BootSource {
            initrd: Some(&initrd),
            command_line: "console=ttyS0",
            protocol,
            rsdp: Some(0xe_0000),
            ..BootSource::new(&image)
        };
        let start = Instant::now();
        let state = boot::load(&memory, &source).unwrap();
        eprintln!("{}: {:?} in {:?}", path.display(), state.info.protocol, start.elapsed());
        assert_eq!(state.registers.rip, entry);
        assert!(
            state.info.kernel_version.as_ref().unwrap().starts_with(version),
            "{:?}",
            state.info.kernel_version
        );
        assert!(state.info.unpacked_size > 50_000_000);
        let initrd = state.info.placements.iter().find(|p| p.part == Part::Initrd).unwrap();
        assert_eq!(initrd.range, (256 << 20) - 0xf5000..(256 << 20) - 0xf5000 + 1_000_001);
        let kernel: Vec<_> = state.info.placements.iter().filter(|p| p.part == Part::Kernel).collect();
        assert_eq!(kernel.len(), 4);
        assert_eq!(kernel[0].range.start, 0x100_0000);
        assert_ne!(memory.read_array::<8>(entry).unwrap(), [0; 8], "there is code at the entry");
    }
    let small = GuestMemory::new(32 << 20).unwrap();
    assert_eq!(boot::load(&small, &BootSource::new(&image)).unwrap_err().code(), ErrorCode::ImageTooLarge);
    let truncated = boot::load(&small, &BootSource::new(&image[..image.len() / 2]));
    assert_eq!(truncated.unwrap_err().code(), ErrorCode::ImageFormat);
}

#[test]
fn debian_6_1_which_is_packed_with_lz4() {
    boots("vmlinuz-6.1.", "6.1.", 0x100_0850, 0x100_0000);
}

#[test]
fn debian_6_12_which_is_packed_with_zstd() {
    boots("vmlinuz-6.12.", "6.12.", 0x100_0a30, 0x100_0b53);
}
