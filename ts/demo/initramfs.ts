/** The demo's userland: busybox and a script. */
import { characterDevice, cpio, executable, folder } from './cpio.js';
import { GREETER_AT } from './greeter.js';

/** On the kernel's command line: run the script and power off, instead of a shell. */
export const SCRIPT_MODE = 'squib.script';

/** What the guest prints when the script begins, which the timeline looks for. */
export const USERLAND_MARK = 'squib: userland is up';

const ADDRESS = `0x${GREETER_AT.address.toString(16)}`;

/** The `greet` command: writes a name to the device byte by byte, and reads the answer eight letters at a time. */
const GREET = `#!/bin/sh
for code in $(printf '%s\\n' "\${1:-busybox}" | od -An -v -tu1); do
  devmem ${ADDRESS} 8 "$code"
done
offset=0
while [ $offset -lt ${GREETER_AT.length} ]; do
  word=$(devmem $((${ADDRESS} + offset)) 64)
  [ "$word" = 0x0000000000000000 ] && break
  printf "$(echo "$word" | sed 's/^0x//; s/00//g; s/../\\\\x&/g')"
  offset=$((offset + 8))
done
echo
`;

const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /root /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM="\${TERM:-linux}"
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
echo '${USERLAND_MARK}'
uname -srm
grep -m1 'model name' /proc/cpuinfo
free -m | head -n 2
echo 'The TypeScript device at ${ADDRESS} says:'
greet "busybox $(busybox | head -n 1 | cut -d ' ' -f 2)"
if grep -q ${SCRIPT_MODE} /proc/cmdline; then
  poweroff -f
fi
stty -F /dev/ttyS0 rows "\${LINES:-24}" cols "\${COLUMNS:-80}"
echo
echo 'A shell of busybox. Try: greet YOUR-NAME, dmesg, top, poweroff -f'
cd
setsid cttyhack sh
poweroff -f
`;

/** The initial RAM disk with this busybox. */
export function initramfs(busybox: Uint8Array): Uint8Array {
  return cpio([
    folder('bin'),
    folder('dev'),
    characterDevice('dev/console', 5, 1),
    executable('bin/busybox', busybox),
    executable('bin/greet', GREET),
    executable('init', INIT),
  ]);
}
