//! The setup header of a bzImage (Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").

use squib_core::Result;

use super::bytes::{u16_at, u32_at};
use super::{command_line, format_error};

// Fields of the header, at the same offsets in a bzImage and in `boot_params`.
const SETUP_SECTS: usize = 0x1f1;
pub(super) const BOOT_FLAG: usize = 0x1fe;
const JUMP: usize = 0x200;
pub(super) const HEADER: usize = 0x202;
pub(super) const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
pub(super) const TYPE_OF_LOADER: usize = 0x210;
pub(super) const LOADFLAGS: usize = 0x211;
pub(super) const RAMDISK_IMAGE: usize = 0x218;
pub(super) const RAMDISK_SIZE: usize = 0x21c;
pub(super) const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
pub(super) const CMDLINE_SIZE: usize = 0x238;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The header's place ends where `boot_params` goes on with other fields.
const HEADER_END: usize = 0x290;

pub(super) const BOOT_FLAG_VALUE: u16 = 0xaa55;
pub(super) const HEADER_VALUE: [u8; 4] = *b"HdrS";
/// Protocol 2.15, the newest there is.
pub(super) const NEWEST_VERSION: u16 = 0x020f;
/// The oldest protocol that says where the payload is, 2.08.
const OLDEST_VERSION: u16 = 0x0208;
/// In `loadflags`: the kernel is a bzImage, not a zImage.
pub(super) const LOADED_HIGH: u8 = 1 << 0;

const SECTOR: usize = 512;
/// Sectors of set-up code when the header says 0.
const DEFAULT_SETUP_SECTS: usize = 4;

/// A setup header whose fields are all there.
pub(super) struct SetupHeader {
    /// The bytes from `setup_sects` to the end of the header.
    bytes: Vec<u8>,
    setup_sects: usize,
    kernel_version: u16,
    initrd_addr_max: u32,
    command_line_size: u32,
    payload_offset: u32,
    payload_length: u32,
}

impl SetupHeader {
    /// Whether `image` has the header's marks.
    pub(super) fn is_present(image: &[u8]) -> bool {
        u16_at(image, BOOT_FLAG) == Some(BOOT_FLAG_VALUE)
            && image.get(HEADER..).is_some_and(|rest| rest.starts_with(&HEADER_VALUE))
    }

    /// Reads the header.
    pub(super) fn parse(image: &[u8]) -> Result<Self> {
        let cut = || format_error(format!("the bzImage of {} bytes ends in its header", image.len()));
        let version = u16_at(image, VERSION).ok_or_else(cut)?;
        let loadflags = *image.get(LOADFLAGS).ok_or_else(cut)?;
        if version < OLDEST_VERSION || loadflags & LOADED_HIGH == 0 {
            return Err(format_error(format!(
                "the kernel image is of boot protocol {}.{:02}; Linux 2.6.24 with 2.08 is the oldest that can be unpacked",
                version >> 8,
                version & 0xff
            )));
        }
        // The jump over the header says where the header ends.
        let end = (HEADER + usize::from(*image.get(JUMP + 1).ok_or_else(cut)?)).min(HEADER_END);
        let setup_sects = match usize::from(*image.get(SETUP_SECTS).ok_or_else(cut)?) {
            0 => DEFAULT_SETUP_SECTS,
            n => n,
        };
        Ok(Self {
            bytes: image.get(SETUP_SECTS..end).ok_or_else(cut)?.to_vec(),
            setup_sects,
            kernel_version: u16_at(image, KERNEL_VERSION).ok_or_else(cut)?,
            initrd_addr_max: u32_at(image, INITRD_ADDR_MAX).ok_or_else(cut)?,
            command_line_size: u32_at(image, CMDLINE_SIZE).ok_or_else(cut)?,
            payload_offset: u32_at(image, PAYLOAD_OFFSET).ok_or_else(cut)?,
            payload_length: u32_at(image, PAYLOAD_LENGTH).ok_or_else(cut)?,
        })
    }

    /// The packed kernel in `image`, from which this header was read.
    pub(super) fn payload<'a>(&self, image: &'a [u8]) -> Result<&'a [u8]> {
        let protected_mode = (self.setup_sects + 1) * SECTOR;
        image
            .get(protected_mode..)
            .and_then(|rest| rest.get(usize::try_from(self.payload_offset).ok()?..))
            .and_then(|rest| rest.get(..usize::try_from(self.payload_length).ok()?))
            .ok_or_else(|| {
                format_error(format!(
                    "the bzImage has {} bytes, but its payload is {:#x} bytes at {protected_mode:#x}+{:#x}: is it cut off?",
                    image.len(),
                    self.payload_length,
                    self.payload_offset
                ))
            })
    }

    /// The version text, if `image`, from which this header was read, has one.
    pub(super) fn kernel_version(&self, image: &[u8]) -> Option<String> {
        // Longer texts are no version; the kernel's own is at most a few hundred bytes.
        const MAX: usize = 512;
        let text = image.get(JUMP + usize::from(self.kernel_version)..)?;
        let len = text.iter().take(MAX).position(|b| *b == 0)?;
        let text = str::from_utf8(&text[..len]).ok()?;
        (self.kernel_version != 0 && !text.is_empty()).then(|| text.to_owned())
    }

    /// Highest address that a byte of the initial RAM disk may have.
    pub(super) fn initrd_addr_max(&self) -> u64 {
        self.initrd_addr_max.into()
    }

    /// Longest command line, in bytes without the NUL.
    pub(super) fn command_line_max(&self) -> usize {
        usize::try_from(self.command_line_size).unwrap_or(command_line::PAGE_MAX)
    }

    /// Copies the header into `boot_params`.
    pub(super) fn copy_to(&self, params: &mut [u8; 4096]) {
        params[SETUP_SECTS..SETUP_SECTS + self.bytes.len()].copy_from_slice(&self.bytes);
    }
}
