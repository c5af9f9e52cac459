//! Where tests find Debian's kernels.

use std::path::{Path, PathBuf};

/// The kernel whose file name begins so, in the folder `SQUIB_TEST_KERNELS`, else squib's cache folder; `None`, and a
/// word about it, where there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn find(prefix: &str) -> Option<(PathBuf, Vec<u8>)> {
    let folder = std::env::var_os("SQUIB_TEST_KERNELS").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))?.join("squib"))
    })?;
    let path = std::fs::read_dir(&folder).ok().and_then(|entries| {
        entries
            .filter_map(|e| Some(e.ok()?.path()))
            .find(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(prefix)))
    });
    let Some(path) = path else {
        eprintln!(
            "SKIPPED: no {prefix}* in {}; set SQUIB_TEST_KERNELS to a folder with Debian kernels",
            folder.display()
        );
        return None;
    };
    let bytes = std::fs::read(&path).expect("a kernel that is there can be read");
    Some((path, bytes))
}
