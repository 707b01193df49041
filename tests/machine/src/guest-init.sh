#!/bin/busybox sh
# First process of the debugged guest: a little visible work for ever.
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module.ko" || echo "trapline-guest: module $module does not load"
done < /modules/order
[ -b /dev/vda ] && echo "trapline-guest: disk vda has $(cat /sys/block/vda/size) sectors"
echo "trapline-guest: up with $(nproc) processors"

# trapline.guest=root leaves for the root file system on the first disk, and its own first process.
case " $(cat /proc/cmdline) " in
    *" trapline.guest=root "*)
        mkdir -p /disk
        mount -t ext4 /dev/vda /disk || exec sleep 1000000
        exec switch_root /disk /init
        ;;
esac

# trapline.guest=poweroff, reboot or crash on the command line ends the guest in that way.
case " $(cat /proc/cmdline) " in
    *" trapline.guest=poweroff "*) poweroff -f ;;
    *" trapline.guest=reboot "*) reboot -f ;;
    *" trapline.guest=crash "*) echo c > /proc/sysrq-trigger ;;
esac

# A program of the test's own runs beside.
[ -x /trapline/program ] && /trapline/program &

count=0
while :; do
    count=$((count + 1))
    # Each turn opens files, forks and execs, so that breakpoints on those paths are hit.
    echo "trapline-guest: heartbeat $count, up $(cut -d ' ' -f 1 /proc/uptime) s"
    sleep 1
done
