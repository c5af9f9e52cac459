//! Host errors as squib's.

use std::io;

use squib_core::{Error, ErrorCode};

/// The error of a failed KVM call.
pub(super) fn failed(call: &str, errno: kvm_ioctls::Error) -> Error {
    let code = match errno.errno() {
        libc::ENOMEM => ErrorCode::OutOfMemory,
        _ => ErrorCode::Hypervisor,
    };
    Error::with_source(code, format!("{call} failed"), io::Error::from_raw_os_error(errno.errno()))
}

/// The error of a failed KVM call that refuses its argument with `EINVAL`.
pub(super) fn refused(call: &str, errno: kvm_ioctls::Error) -> Error {
    match errno.errno() {
        libc::EINVAL => Error::new(
            ErrorCode::InvalidArgument,
            format!("no processor can be in this state, says {call}; nothing was changed"),
        ),
        _ => failed(call, errno),
    }
}

/// The error of a `/dev/kvm` that does not open, and what to do about it.
pub(super) fn unusable(path: &str, errno: kvm_ioctls::Error) -> Error {
    let advice = match errno.errno() {
        libc::ENOENT => {
            "there is none: load the module kvm_intel or kvm_amd, switch virtualisation on in the firmware (an aarch64 \
             kernel has to be started at EL2), or in a container pass the device in (--device /dev/kvm)"
        }
        libc::EACCES | libc::EPERM => {
            "this user may not open it: join the group kvm (sudo usermod -aG kvm $USER) and log in again"
        }
        libc::ENODEV | libc::ENXIO => {
            "there is no driver behind it: load the module kvm_intel or kvm_amd, and switch virtualisation on \
             in the firmware"
        }
        libc::EBUSY => "another hypervisor holds the processor's virtualisation: stop it",
        _ => "see the cause",
    };
    Error::with_source(
        ErrorCode::BackendUnusable,
        format!("{path} does not open: {advice}"),
        io::Error::from_raw_os_error(errno.errno()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(number: i32) -> kvm_ioctls::Error {
        kvm_ioctls::Error::new(number)
    }

    #[test]
    fn each_way_not_to_open_has_its_advice() {
        let text = |number| unusable("/dev/kvm", errno(number)).to_string();
        assert!(text(libc::EACCES).contains("group kvm"));
        assert!(text(libc::ENOENT).contains("--device /dev/kvm"));
        assert!(text(libc::ENODEV).contains("kvm_intel"));
        assert!(text(libc::EBUSY).contains("another hypervisor"));
        let cause = io::Error::from_raw_os_error(libc::EMFILE).to_string();
        assert!(text(libc::EMFILE).contains(&cause));
        assert_eq!(unusable("/dev/kvm", errno(libc::EIO)).code(), ErrorCode::BackendUnusable);
    }

    #[test]
    fn the_code_follows_the_cause() {
        assert_eq!(failed("KVM_X", errno(libc::ENOMEM)).code(), ErrorCode::OutOfMemory);
        assert_eq!(failed("KVM_X", errno(libc::EBADF)).code(), ErrorCode::Hypervisor);
        assert_eq!(refused("KVM_X", errno(libc::EINVAL)).code(), ErrorCode::InvalidArgument);
        assert_eq!(refused("KVM_X", errno(libc::EIO)).code(), ErrorCode::Hypervisor);
    }
}
