#!/bin/sh
# The programs on the host, in the folder of the guest's files: `unshare --map-root-user --mount sh host.sh FOLDER`.
set -e
cd "$1"
mount --rbind /dev dev
mount --rbind /proc proc
mount -t tmpfs tmp tmp
exec chroot . /environment.sh /bin/bash /programs.sh
