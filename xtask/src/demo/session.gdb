echo \n--- Where each virtual CPU is. The names come from the guest's own memory.\n
info threads
backtrace 5
echo \n--- A software breakpoint on the kernel function that opens files\n
break do_sys_openat2
continue
backtrace 5
delete
echo \n--- A hardware breakpoint on the one that starts processes\n
hbreak kernel_clone
continue
backtrace 5
delete
echo \n--- A breakpoint with a condition, which is decided inside the server: flags of openat\n
break do_sys_openat2 if $rdi == (unsigned int)-100
continue
print/d (int)$rdi
delete
echo \n--- A watchpoint on the kernel variable jiffies_64\n
watch *(unsigned long *)&jiffies_64
continue
backtrace 3
delete
echo \n--- 1000 single steps\n
stepi 1000
echo \n--- Ctrl-C stops a running guest\n
python
import threading, gdb
threading.Timer(2, lambda: gdb.post_event(lambda: gdb.execute('interrupt'))).start()
end
continue
info threads
echo \n--- Detach: nothing is left behind in the guest\n
detach
