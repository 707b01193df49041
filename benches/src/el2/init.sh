#!/bin/busybox sh
# First process of the guest whose speed is measured: does what it reads on its console, a line each,
# between the lines "begin" and "end".
echo "trapline-bench: init"
echo "trapline-bench: $(/bench/work c 0) ns since the start"
/bin/busybox mkdir -p /proc /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
# No message of the kernel's comes between the lines.
dmesg -n 1

count_interrupts() {
    while read -r name count rest; do
        [ "$name" = intr ] && echo "$count"
    done < /proc/stat
}

# Floating-point arithmetic in an interpreter, on the second processor.
compute() {
    taskset 2 awk "BEGIN { for (i = 0; i < $1; i++) s += i * i }"
}

# A byte there and back between processes on two processors, each of which waits for the other's.
ping_pong() {
    /bench/work p "$1"
}

# Arithmetic on a processor on which another process sleeps for 50 us at a time.
compute_beside_sleeper() {
    /bench/work t "$1"
}

# Two system calls a turn, each for one byte.
make_system_calls() {
    taskset 2 dd if=/dev/zero of=/dev/null bs=1 count="$1" 2> /dev/null
}

# Both processors busy from now on.
spin() {
    for mask in 1 2; do
        taskset $mask sh -c 'while :; do :; done' &
    done
}

echo "trapline-bench: ready, $(nproc) processors, $(sed -n 's/MemTotal: *//p' /proc/meminfo)"
while read -r work amount; do
    interrupts=$(count_interrupts)
    echo "trapline-bench: begin"
    begin=$(/bench/work c 0)
    $work "$amount"
    status=$?
    end=$(/bench/work c 0)
    echo "trapline-bench: end"
    interrupts=$(($(count_interrupts) - interrupts))
    echo "trapline-bench: $((end - begin)) ns by the counter, $interrupts interrupts, status $status"
done
exec sleep 1000000
