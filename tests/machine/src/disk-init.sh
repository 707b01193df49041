#!/bin/busybox sh
# First process of a guest whose root file system is on its first disk, writable or not.
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
echo "trapline-disk: up from $(grep ' / ext4 ' /proc/mounts)"

count=0
while :; do
    count=$((count + 1))
    # From the disk and not from the page cache, each turn.
    echo 3 > /proc/sys/vm/drop_caches
    echo "trapline-disk: turn $count, $(sha256sum /data)"
    # A file on the root file system, and a sector of the second disk.
    { echo "turn $count" > /count && sync; } 2>/dev/null || echo "trapline-disk: / cannot be written"
    if [ -b /dev/vdb ]; then
        printf '%-512s' "written in turn $count" | dd of=/dev/vdb bs=512 seek=1 conv=fsync 2>/dev/null ||
            echo "trapline-disk: vdb cannot be written"
    fi
done
