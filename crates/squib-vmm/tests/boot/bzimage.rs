//! bzImages in each compression. The packed files in `data` hold `Elf::pvh()`, packed by the usual tools:
//! `xz --check=crc32 --x86 --lzma2=dict=1MiB`, `zstd -19`, `lz4 -l`, `gzip -9`, and nothing else, so that the
//! size after the stream is added here. `greedy.xz` is like the first, but with `dict=1GiB`.

use squib_core::ErrorCode;
use squib_vmm::boot::{self, BootSource, ImageKind, Part, Protocol};

use crate::image::{Elf, bzimage, code};
use crate::{bytes_at, error, load, place, u32_at};

const XZ: &[u8] = include_bytes!("data/kernel.xz");
const ZSTD: &[u8] = include_bytes!("data/kernel.zst");
const LZ4: &[u8] = include_bytes!("data/kernel.lz4");
const GZIP: &[u8] = include_bytes!("data/kernel.gz");

/// A stream with the size of what it unpacks to after it, as the kernel's build adds it.
fn sized(stream: &[u8], size: u32) -> Vec<u8> {
    [stream, &size.to_le_bytes()].concat()
}

fn kernel_size() -> u32 {
    Elf::pvh().build().len() as u32
}

/// Payloads in every compression.
pub(crate) fn payloads() -> [(&'static str, Vec<u8>); 5] {
    [
        ("none", Elf::pvh().build()),
        ("xz", sized(XZ, kernel_size())),
        ("zstd", sized(ZSTD, kernel_size())),
        ("lz4", sized(LZ4, kernel_size())),
        ("gzip", GZIP.to_vec()),
    ]
}

#[test]
fn every_compression_is_unpacked() {
    for (name, payload) in payloads() {
        let image = bzimage(&payload);
        assert_eq!(boot::detect(&image).unwrap(), ImageKind::BzImage);
        let (memory, state) = load(64, &BootSource::new(&image)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(state.info.protocol, Protocol::Pvh);
        assert_eq!(state.registers.rip, 0x10_0020);
        assert_eq!(bytes_at(&memory, 0x10_0000, code().len()), code(), "{name}");
        assert_eq!(state.info.kernel_version.as_deref(), Some("9.9.9-squib (test) #1"));
        assert_eq!(state.info.unpacked_size, kernel_size().into());
    }
}

#[test]
fn the_setup_header_is_obeyed_and_passed_on() {
    let image = bzimage(&Elf::kernel().build());
    let line = "x".repeat(255);
    let source = BootSource { initrd: Some(&[9; 100]), command_line: &line, ..BootSource::new(&image) };
    let (memory, state) = load(64, &source).unwrap();
    assert_eq!(state.info.protocol, Protocol::Linux64);
    assert_eq!(place(&state, Part::Initrd).start, 0x2ff_f000, "below initrd_addr_max");
    let params = state.registers.rsi;
    assert_eq!(u32_at(&memory, params + 0x230), 0x20_0000, "kernel_alignment");
    assert_eq!(u32_at(&memory, params + 0x248), 0x40, "payload_offset");
    assert_eq!(bytes_at(&memory, params + 0x210, 1), [0xff]);
    let longer = BootSource { command_line: &"x".repeat(256), ..source };
    assert_eq!(error(&longer), ErrorCode::CommandLine);
}

#[test]
fn lz4_frames_may_follow_each_other() {
    let elf = Elf::pvh().build();
    // Blocks of literals only: a token of 15, 255s, the rest.
    let literals = |bytes: &[u8]| {
        let mut rest = bytes.len() - 15;
        let mut block = vec![0xf0];
        while rest >= 255 {
            block.push(255);
            rest -= 255;
        }
        block.push(rest as u8);
        block.extend(bytes);
        [&(block.len() as u32).to_le_bytes()[..], &block].concat()
    };
    let magic = 0x184c_2102u32.to_le_bytes();
    let (a, b) = elf.split_at(5000);
    let stream = [&magic[..], &literals(a), &magic, &literals(b)].concat();
    let image = bzimage(&sized(&stream, kernel_size()));
    load(64, &BootSource::new(&image)).unwrap();
}

#[test]
fn sizes_that_do_not_match_are_refused() {
    for (name, payload) in payloads().into_iter().skip(1) {
        let (stream, _) = payload.split_last_chunk::<4>().unwrap();
        for size in [0, 1, kernel_size() - 1, kernel_size() + 1] {
            let image = bzimage(&sized(stream, size));
            assert_eq!(error(&BootSource::new(&image)), ErrorCode::ImageFormat, "{name} {size}");
        }
        let image = bzimage(&sized(stream, u32::MAX));
        assert_eq!(error(&BootSource::new(&image)), ErrorCode::ImageTooLarge, "{name}");
    }
}

#[test]
fn streams_that_are_cut_off_or_empty_are_refused() {
    for (name, payload) in payloads().into_iter().skip(1) {
        let (stream, _) = payload.split_last_chunk::<4>().unwrap();
        for keep in [stream.len() / 2, 20, 12, 6] {
            let image = bzimage(&sized(&stream[..keep], kernel_size()));
            assert_eq!(error(&BootSource::new(&image)), ErrorCode::ImageFormat, "{name} {keep}");
        }
    }
}

#[test]
fn a_dictionary_larger_than_any_kernels_is_refused() {
    let image = bzimage(&sized(include_bytes!("data/greedy.xz"), kernel_size()));
    assert_eq!(error(&BootSource::new(&image)), ErrorCode::ImageFormat);
}

#[test]
fn other_compressions_are_named() {
    for (magic, name) in
        [(&b"BZh9"[..], "bzip2"), (b"\x5d\0\0\x80", "lzma"), (b"\x89LZO", "lzo"), (b"????", "unknown")]
    {
        let memory = squib_core::GuestMemory::new(1 << 20).unwrap();
        let error = boot::load(&memory, &BootSource::new(&bzimage(&sized(magic, 1)))).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ImageFormat);
        assert!(error.message().contains(name) && error.message().contains("zstd"), "{error}");
    }
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let good = bzimage(&Elf::pvh().build());
    let with = |at: usize, field: &[u8]| {
        let mut image = good.clone();
        image[at..at + field.len()].copy_from_slice(field);
        error(&BootSource::new(&image))
    };
    assert_eq!(with(0x206, &0x0207u16.to_le_bytes()), ErrorCode::ImageFormat, "too old");
    assert_eq!(with(0x211, &[0]), ErrorCode::ImageFormat, "a zImage");
    assert_eq!(with(0x248, &u32::MAX.to_le_bytes()), ErrorCode::ImageFormat, "payload behind the end");
    assert_eq!(with(0x24c, &u32::MAX.to_le_bytes()), ErrorCode::ImageFormat, "payload too long");
    assert_eq!(with(0x24c, &0u32.to_le_bytes()), ErrorCode::ImageFormat, "no payload");
    assert_eq!(with(0x1f1, &[255]), ErrorCode::ImageFormat, "set-up code behind the end");
    for len in [0x202, 0x206, 0x210, 0x230, 0x24f, 0x250, 0x440] {
        assert_eq!(error(&BootSource::new(&good[..len])), ErrorCode::ImageFormat, "{len:#x} bytes");
    }
}

#[test]
fn a_kernel_larger_than_memory_is_not_unpacked() {
    let image = bzimage(&sized(ZSTD, 2 << 20));
    assert_eq!(load(1, &BootSource::new(&image)).map(|_| ()), Err(ErrorCode::ImageTooLarge));
}
