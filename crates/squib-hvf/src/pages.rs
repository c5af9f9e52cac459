//! The framework maps memory in the host's pages, which on Apple silicon are larger than squib's.

use squib_core::{Error, ErrorCode, GuestMemory, Result};

/// Bytes in a page of Apple silicon's.
const HOST_PAGE: u64 = 16 << 10;

/// Refuses memory of which a region begins or ends within a page of the host's.
pub(crate) fn check_pages(memory: &GuestMemory) -> Result<()> {
    let within = memory
        .regions()
        .iter()
        .find(|region| !(region.guest_addr() | region.len()).is_multiple_of(HOST_PAGE));
    let Some(region) = within else { return Ok(()) };
    Err(Error::new(
        ErrorCode::MemorySize,
        format!(
            "memory region {:#x}+{:#x}: on Apple silicon both have to be multiples of {HOST_PAGE} bytes",
            region.guest_addr(),
            region.len()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_whole_pages_of_the_hosts() {
        let check = |start, len| check_pages(&GuestMemory::with_regions(&[(start, len)]).unwrap());
        check(0, HOST_PAGE).unwrap();
        check(0x4000_0000, 64 << 10).unwrap();
        for (start, len) in [(0, 4096), (4096, HOST_PAGE), (0, HOST_PAGE + 4096)] {
            assert_eq!(check(start, len).unwrap_err().code(), ErrorCode::MemorySize, "{start:#x}+{len:#x}");
        }
    }
}
