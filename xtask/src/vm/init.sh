#!/bin/busybox sh
# First process of the machine: builds the root file system and hands over to it.
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin

die() {
    echo "init: $*"
    poweroff -f
}

mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    insmod "$module" || die "cannot load $module"
done

plan9() {
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2" ||
        die "cannot mount $1 on $2"
}

# The machine never sees changes made outside while it runs: cached without asking again.
plan9 root /lower ro,cache=loose
mount -t tmpfs -o mode=755,size=80% upper /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /new ||
    die "cannot mount the overlay"

mount -t tmpfs -o mode=755 run /new/run
mkdir /new/run/vm
plan9 run /new/run/vm rw,cache=none
mkdir -p /new/lib/modules
plan9 modules /new/lib/modules ro,cache=loose
for directory in proc sys dev; do
    mkdir -p "/new/$directory"
    mount --move "/$directory" "/new/$directory"
done
exec switch_root /new /bin/sh /run/vm/start
