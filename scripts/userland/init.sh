#!/bin/busybox.static sh
# The guest's first process: the programs, their output on the console and not on a terminal, and off.
export PATH=/usr/bin:/bin
b=/bin/busybox.static
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mount -t tmpfs tmp /tmp
$b ln -s /proc/self/fd /dev/fd
/environment.sh /bin/bash /programs.sh | $b cat
$b poweroff -f
