#!/bin/busybox sh
# First process of an emulated machine: modules, devices, network, then the agent.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=dumb
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /sbin /usr/bin /usr/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /dev/shm
while read -r module; do
    insmod "/modules/$module.ko" || echo "trapline-machine: module $module does not load"
done < /modules/order
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || echo "trapline-machine: no network"

# The host announces its serial ports to the driver one message at a time.
tries=500
while read -r port; do
    until grep -qx "$port" /sys/class/virtio-ports/*/name 2>/dev/null; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "trapline-machine: no port $port"; break; }
        usleep 10000
    done
    device=$(grep -lx "$port" /sys/class/virtio-ports/*/name)
    device=${device%/name}
    ln -s "/dev/${device##*/}" "/dev/virtio-ports/$port"
done < /trapline/ports

# When the agent ends, so does this script, and a kernel without its first process reboots at once
# (panic=-1), which ends QEMU (-no-reboot).
/trapline/agent
echo "trapline-machine: the agent ended with status $?"
