"""The scripted session of ./x demo, inside GDB. Each part says what it shows, types the command that
shows it, and checks what came of it; the first thing that is not as it should be ends the demo."""

import os
import signal
import threading

import gdb

HOST = os.environ["TRAPLINE_DEMO_HOST"]
ARM = HOST != "kvm"
# The register of the first argument, and what leads to the function that opens files.
ARGUMENT = "x0" if ARM else "rdi"
SYSTEM_CALL = "__arm64_sys_openat" if ARM else "do_syscall_64"
INTERRUPT_ENTRIES = (
    ("el1h_64_irq", "el1_interrupt", "el0t_64_irq", "gic_handle_irq")
    if ARM
    else ("asm_sysvec", "sysvec", "asm_common_interrupt", "common_interrupt", "asm_exc_nmi"))
# KVM on arm64 has no means to hold interrupts off.
HOLDS_INTERRUPTS = HOST != "kvm-arm64"
STEPS = 1000 if HOLDS_INTERRUPTS else 100
# In a kernel's struct clock_event_device, where its next event stands.
NEXT_EVENT = 24


def fail(text):
    print("\ndemo: this should not be: " + text, flush=True)
    os._exit(1)


def title(text):
    print("\n--- " + text, flush=True)


def show(command):
    print("(gdb) " + command, flush=True)
    output = gdb.execute(command, to_string=True)
    print(output, end="", flush=True)
    return output


def quietly(action):
    """GDB prints where each step ends, whatever is asked of it, so its output goes nowhere."""
    gdb.flush()
    output = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        action()
    finally:
        gdb.flush()
        os.dup2(output, 1)
        os.close(output)


def where():
    return gdb.selected_frame().name() or hex(gdb.selected_frame().pc())


# What GDB prints of a stop cannot be read back; its events can.
stops = []
gdb.events.stop.connect(stops.append)


def expect(condition, text):
    if not condition:
        fail(text)


def main():
    title("Where each virtual CPU is. " + (
        "The names come from a file that 'trapline symbols' has made of the kernel's." if HOST == "el2" else
        "GDB was given no file: the names come from the guest's own memory."))
    expect(show("info threads").count("vCPU") >= 2, "two vCPUs were expected")
    show("backtrace")

    title("A software breakpoint on the kernel function that opens files, and who called it.")
    show("break do_sys_openat2")
    show("continue")
    expect(where() == "do_sys_openat2", "stopped in " + where())
    expect(SYSTEM_CALL in show("backtrace 4"), "the backtrace should reach the system call")
    show("delete")

    title("A hardware breakpoint on the one that starts processes.")
    show("hbreak kernel_clone")
    show("continue")
    expect(where() == "kernel_clone", "stopped in " + where())
    show("backtrace 4")
    show("delete")

    title("A condition: GDB hands it to the server, which decides at each hit without stopping the guest.")
    show("break do_sys_openat2 if (int) $%s == -100" % ARGUMENT)
    show("continue")
    expect(int(gdb.parse_and_eval("$" + ARGUMENT)) & 0xFFFFFFFF == 0xFFFFFF9C, "the condition does not hold")
    show("print/x $" + ARGUMENT)
    show("delete")

    if ARM:
        title("A watchpoint on a timer's next event: who changes it, from what to what? (Debian's arm64 kernel keeps no "
              "names of variables, so it is found by the argument of a timer's handler.)")
        show("tbreak hrtimer_interrupt")
        show("continue")
        show("watch *(long *) %#x" % (int(gdb.parse_and_eval("$x0")) + NEXT_EVENT & 0xFFFFFFFFFFFFFFFF))
    else:
        title("A watchpoint on a kernel variable: who changes it, from what to what?")
        show("watch *(unsigned long *) &jiffies_64")
    show("continue")
    hit = getattr(stops[-1], "breakpoint", None)
    expect(hit is not None and hit.type == gdb.BP_HARDWARE_WATCHPOINT, "the change was not seen")
    show("backtrace 4")
    show("delete")

    if HOLDS_INTERRUPTS:
        title("%d single steps from the start of a system call. Interrupts wait: none of the steps lands in "
              "a handler." % STEPS)
    else:
        title("%d single steps from the start of a system call. KVM on arm64 cannot hold interrupts off." % STEPS)
    show("tbreak do_sys_openat2")
    show("continue")
    gdb.execute("set scheduler-locking step")
    functions = []

    def step():
        for _ in range(STEPS):
            gdb.execute("stepi")
            if not functions or functions[-1] != where():
                functions.append(where())

    quietly(step)
    strays = [name for name in functions if name.startswith(INTERRUPT_ENTRIES)]
    expect(not strays or not HOLDS_INTERRUPTS, "steps landed in " + ", ".join(strays))
    gdb.execute("set scheduler-locking replay")
    print("They went through %d functions: %s, ..." % (len(set(functions)), ", ".join(functions[:8])))

    title("Ctrl-C stops a guest that runs.")
    threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    show("continue")
    expect(getattr(stops[-1], "stop_signal", None) == "SIGINT", "Ctrl-C did not stop the guest")
    show("info threads")

    title("The server's own commands, the same in GDB, LLDB and 'trapline shell'.")
    show("monitor vcpus")
    # A server in a hypervisor knows no names.
    place = gdb.parse_and_eval("(unsigned long) &do_sys_openat2")
    show("monitor translate " + ("%#x" % int(place) if HOST == "el2" else "do_sys_openat2"))

    title("Detach: the guest runs on, and nothing is left behind in it.")
    show("detach")


try:
    main()
except gdb.error as error:
    fail(str(error))
