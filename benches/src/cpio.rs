//! The initial RAM disk of the boot bench, in the "newc" format (Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst).

/// What the guest prints when userspace runs.
pub(crate) const MARKER: &str = "squib-bench: userspace";

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// An archive with `busybox` and an `init` that prints [`MARKER`] and powers off.
pub(crate) fn initrd(busybox: &[u8]) -> Vec<u8> {
    let init = format!("#!/bin/busybox sh\necho {MARKER}\nexec /bin/busybox poweroff -f\n");
    let mut archive = Vec::new();
    for (name, mode, data) in [
        ("dev", DIRECTORY, &[][..]),
        ("dev/console", CONSOLE, &[]),
        ("bin", DIRECTORY, &[]),
        ("bin/busybox", EXECUTABLE, busybox),
        ("init", EXECUTABLE, init.as_bytes()),
        ("TRAILER!!!", 0, &[]),
    ] {
        entry(&mut archive, name, mode, data);
    }
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    // The console is character device 5:1.
    let (major, minor) = if mode == CONSOLE { (5, 1) } else { (0, 0) };
    let inode = archive.len() as u32 + 1;
    let fields = [inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, major, minor, name.len() as u32 + 1, 0];
    archive.extend_from_slice(b"070701");
    archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(data);
    pad(archive);
}

/// Header with name, and data, each end at a multiple of four.
fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
