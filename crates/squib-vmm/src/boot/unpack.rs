//! Unpacking of a bzImage's payload, which saves the guest hundreds of millions of instructions.
//!
//! A payload is a compressed ELF file. Its last four bytes are the size of that file, little-endian: gzip ends
//! so by itself, and the kernel's build appends them to the other formats (scripts/Makefile.lib, `size_append`).
//! Checksums are not verified: what matters is that every failure is found before guest code runs, and a
//! package manager has verified the file.

use std::borrow::Cow;
use std::io::Read;

use lzma_rust2::XzReader;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use ruzstd::decoding::FrameDecoder;
use squib_core::{Error, ErrorCode, Result};

use super::bytes::{u16_at, u32_at};
use super::format_error;

/// Memory that an xz stream may ask for, in KiB: the kernel's build uses dictionaries of up to 128 MiB.
const XZ_MEMORY_KIB: u32 = 160 << 10;

/// Marks the start of a legacy LZ4 frame, and separates frames that follow each other.
const LZ4_LEGACY_MAGIC: u32 = 0x184c_2102;

/// The ELF file in `payload`. It may have `limit` bytes, the guest's RAM: a larger one could not be loaded.
pub(super) fn unpack(payload: &[u8], limit: u64) -> Result<Cow<'_, [u8]>> {
    if payload.starts_with(b"\x7fELF") {
        return Ok(Cow::Borrowed(payload));
    }
    let unpacker = unpacker(payload)?;
    let (body, size) =
        payload.split_last_chunk().ok_or_else(|| format_error("the kernel's payload is cut off"))?;
    let size = u32::from_le_bytes(*size);
    if u64::from(size) > limit {
        return Err(Error::new(
            ErrorCode::ImageTooLarge,
            format!(
                "the kernel unpacks to {} MiB, but the guest has {} MiB of memory: give it more",
                size >> 20,
                limit >> 20
            ),
        ));
    }
    let mut out = vec![0; size as usize];
    let written = unpacker(body, &mut out)?;
    if written != out.len() {
        return Err(format_error(format!(
            "the kernel unpacked to {written} bytes instead of the {size} it promises"
        )));
    }
    Ok(Cow::Owned(out))
}

/// Unpacks a body into a buffer and returns how much it wrote; a body that needs more room is an error.
type Unpacker = fn(&[u8], &mut [u8]) -> Result<usize>;

fn unpacker(payload: &[u8]) -> Result<Unpacker> {
    const UNSUPPORTED: [(&[u8], &str); 3] = [(b"BZh", "bzip2"), (b"\x5d\0\0", "lzma"), (b"\x89LZO", "lzo")];
    let starts = |magic: &[u8]| payload.starts_with(magic);
    if starts(&LZ4_LEGACY_MAGIC.to_le_bytes()) {
        Ok(lz4_legacy)
    } else if starts(b"\x28\xb5\x2f\xfd") {
        Ok(zstd)
    } else if starts(b"\xfd7zXZ\0") {
        Ok(xz)
    } else if starts(b"\x1f\x8b") {
        Ok(gzip)
    } else {
        let name =
            UNSUPPORTED.iter().find(|(magic, _)| starts(magic)).map_or("an unknown format", |(_, name)| name);
        Err(format_error(format!(
            "the kernel is packed with {name}; squib unpacks lz4, zstd, xz and gzip, and takes the vmlinux ELF file"
        )))
    }
}

fn broken(format: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::with_source(ErrorCode::ImageFormat, format!("the kernel's {format} data is broken"), cause)
}

/// Blocks after a magic number, each with its packed size before it (LZ4 frame format, "Legacy frame").
fn lz4_legacy(body: &[u8], out: &mut [u8]) -> Result<usize> {
    let mut rest = body;
    let mut written = 0;
    while !rest.is_empty() {
        let size = u32_at(rest, 0).ok_or_else(|| format_error("the kernel's lz4 data is cut off"))?;
        rest = &rest[4..];
        if size == LZ4_LEGACY_MAGIC {
            continue;
        }
        let block = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size));
        let (block, after) = block.ok_or_else(|| format_error("the kernel's lz4 data is cut off"))?;
        written +=
            lz4_flex::block::decompress_into(block, &mut out[written..]).map_err(|e| broken("lz4", e))?;
        rest = after;
    }
    Ok(written)
}

fn zstd(body: &[u8], out: &mut [u8]) -> Result<usize> {
    FrameDecoder::new().decode_all(body, out).map_err(|e| broken("zstd", e))
}

fn xz(body: &[u8], out: &mut [u8]) -> Result<usize> {
    read_all(XzReader::new_mem_limit(body, false, XZ_MEMORY_KIB), out).map_err(|e| broken("xz", e))
}

/// Reads until `out` is full or the stream ends, and one byte further to see that it does end.
fn read_all(mut reader: impl Read, out: &mut [u8]) -> std::io::Result<usize> {
    let mut written = 0;
    while written < out.len() {
        match reader.read(&mut out[written..])? {
            0 => return Ok(written),
            n => written += n,
        }
    }
    match reader.read(&mut [0])? {
        0 => Ok(written),
        _ => Err(std::io::Error::other("it holds more than it promises")),
    }
}

/// Deflate after gzip's header (RFC 1952, 2.3).
fn gzip(body: &[u8], out: &mut [u8]) -> Result<usize> {
    let packed =
        gzip_contents(body).ok_or_else(|| format_error("the kernel's gzip header is cut off or unknown"))?;
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    match decompress(&mut DecompressorOxide::new(), packed, out, 0, flags) {
        (TINFLStatus::Done, _, written) => Ok(written),
        (status, _, _) => Err(broken("gzip", format!("{status:?}"))),
    }
}

fn gzip_contents(body: &[u8]) -> Option<&[u8]> {
    const DEFLATE: u8 = 8;
    const HEADER_CRC: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    let (header, mut rest) = body.split_first_chunk::<10>()?;
    let flags = header[3];
    if header[2] != DEFLATE {
        return None;
    }
    if flags & EXTRA != 0 {
        rest = rest.get(2 + usize::from(u16_at(rest, 0)?)..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|b| *b == 0)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & HEADER_CRC != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}
