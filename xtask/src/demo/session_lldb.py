"""The scripted session of ./x demo --lldb, inside LLDB. Each part says what it shows, types the command
that shows it, and checks what came of it; the first thing that is not as it should be ends the demo."""

import os
import threading

import lldb

# LLDB takes some ten milliseconds for each step that it is told of by itself.
STEPS_AT_ONCE = 25
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


def quietly(debugger, command):
    result = lldb.SBCommandReturnObject()
    debugger.GetCommandInterpreter().HandleCommand(command, result)
    if not result.Succeeded():
        fail(command + ": " + (result.GetError() or "no reason given"))
    return result.GetOutput() or ""


def show(debugger, command):
    print("(lldb) " + command, flush=True)
    output = quietly(debugger, command)
    print(output, end="", flush=True)
    return output


def expect(condition, text):
    if not condition:
        fail(text)


def stopped_thread(process):
    with_reason = [t for t in process if t.GetStopReason() not in (lldb.eStopReasonNone, lldb.eStopReasonInvalid)]
    return with_reason[0] if with_reason else process.GetSelectedThread()


def where(process):
    return stopped_thread(process).GetFrameAtIndex(0).GetFunctionName() or "?"


def __lldb_init_module(debugger, _):
    debugger.SetAsync(False)
    target = debugger.GetSelectedTarget()
    process = target.GetProcess()
    type_in = lambda command: show(debugger, command)

    title("Where each virtual CPU is. The names come from a file that 'trapline symbols' has made of "
          + ("the kernel's." if HOST == "el2" else "the guest's memory."))
    type_in("thread list")
    type_in("bt")

    title("A software breakpoint on the kernel function that opens files, and who called it.")
    type_in("breakpoint set --name do_sys_openat2")
    type_in("continue")
    expect(where(process) == "do_sys_openat2", "stopped in " + where(process))
    expect(SYSTEM_CALL in type_in("thread backtrace --count 4 %d" % stopped_thread(process).GetIndexID()), "the backtrace should reach the system call")
    type_in("breakpoint delete --force")

    title("A hardware breakpoint on the one that starts processes, with a condition.")
    type_in("breakpoint set --hardware --name kernel_clone --condition '$%s != 0'" % ARGUMENT)
    type_in("continue")
    expect(where(process) == "kernel_clone", "stopped in " + where(process))
    type_in("thread backtrace --count 4 %d" % stopped_thread(process).GetIndexID())
    type_in("breakpoint delete --force")

    if ARM:
        title("A watchpoint on a timer's next event: who changes it, from what to what? (Debian's arm64 kernel keeps no "
              "names of variables, so it is found by the argument of a timer's handler.)")
        type_in("breakpoint set --one-shot true --name hrtimer_interrupt")
        type_in("continue")
        timer = stopped_thread(process).GetFrameAtIndex(0).FindRegister("x0").GetValueAsUnsigned()
        address = timer + NEXT_EVENT & 0xFFFFFFFFFFFFFFFF
    else:
        title("A watchpoint on a kernel variable: who changes it, from what to what?")
        symbol = target.FindSymbols("jiffies_64").GetContextAtIndex(0).GetSymbol()
        address = symbol.GetStartAddress().GetLoadAddress(target)
    type_in("watchpoint set expression -w write -s 8 -- %#x" % address)
    type_in("continue")
    expect(stopped_thread(process).GetStopReason() == lldb.eStopReasonWatchpoint, "the change was not seen")
    type_in("thread backtrace --count 4 %d" % stopped_thread(process).GetIndexID())
    type_in("watchpoint delete --force")

    if HOLDS_INTERRUPTS:
        title("%d single steps from the start of a system call. Interrupts wait: none of the steps lands in "
              "a handler." % STEPS)
    else:
        title("%d single steps from the start of a system call. KVM on arm64 cannot hold interrupts off." % STEPS)
    type_in("breakpoint set --one-shot true --name do_sys_openat2")
    type_in("continue")
    thread = stopped_thread(process)
    functions = []
    for _ in range(STEPS // STEPS_AT_ONCE):
        quietly(debugger, "thread step-inst --count %d %d" % (STEPS_AT_ONCE, thread.GetIndexID()))
        name = thread.GetFrameAtIndex(0).GetFunctionName() or "?"
        if not functions or functions[-1] != name:
            functions.append(name)
    strays = [name for name in functions if name.startswith(INTERRUPT_ENTRIES)]
    expect(not strays or not HOLDS_INTERRUPTS, "steps landed in " + ", ".join(strays))
    print("They went through %d functions: %s, ..." % (len(set(functions)), ", ".join(functions[:8])))

    title("An interrupt stops a guest that runs.")
    threading.Timer(1, process.SendAsyncInterrupt).start()
    type_in("continue")
    type_in("thread list")

    title("The server's own commands, the same in GDB, LLDB and 'trapline shell'.")
    type_in("process plugin packet monitor vcpus")

    title("Detach: the guest runs on, and nothing is left behind in it.")
    type_in("detach")
    # Leaving by LLDB's own way would wait for input.
    os._exit(0)
