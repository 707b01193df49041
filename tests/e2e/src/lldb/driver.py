"""Runs inside LLDB and carries out requests: a JSON object a line, over a Unix socket.

A request is {"verb": NAME, ...}; the answer {"ok": RESULT} or {"error": TEXT}. Each verb is a method
of Driver. Resuming verbs return at once; wait_stop waits for the stop.
"""

import json
import os
import socket
import time

import lldb

STOPPED = (lldb.eStateStopped, lldb.eStateCrashed, lldb.eStateSuspended)
ENDED = (lldb.eStateExited, lldb.eStateDetached, lldb.eStateUnloaded, lldb.eStateInvalid)


class Refused(Exception):
    pass


def check(error, what):
    if error.Fail():
        raise Refused("%s: %s" % (what, error.GetCString()))


class Driver:
    def __init__(self):
        # Not the program's own debugger: a thread of that handles events too, and LLDB is not
        # consistent to two who look at the same stop.
        self.debugger = lldb.SBDebugger.Create(False)
        self.debugger.SetAsync(True)
        self.listener = lldb.SBListener("trapline-e2e")
        self.target = None
        self.slide = 0
        self.process = None

    # Sessions

    def symbols(self, image, slide):
        self.slide = slide
        self.target = self.debugger.CreateTarget(image)
        if not self.target.IsValid():
            raise Refused("no target of " + image)

    def connect(self, path, limit):
        if self.target is None:
            self.target = self.debugger.CreateTarget("")
        self.debugger.SetSelectedTarget(self.target)
        error = lldb.SBError()
        url = "unix-connect://" + path
        self.process = self.target.ConnectRemote(self.listener, url, "gdb-remote", error)
        check(error, "connect")
        stop = self.wait_stop(limit)
        if self.slide:
            check(self.target.SetModuleLoadAddress(self.target.GetModuleAtIndex(0), self.slide), "slide")
        return stop

    def detach(self):
        check(self.process.Detach(), "detach")

    def command(self, command):
        result = lldb.SBCommandReturnObject()
        self.debugger.GetCommandInterpreter().HandleCommand(command, result)
        if not result.Succeeded():
            raise Refused((result.GetError() or "failed").strip())
        return (result.GetOutput() or "") + (result.GetError() or "")

    # Run control

    def resume(self):
        check(self.process.Continue(), "continue")

    def interrupt(self):
        self.process.SendAsyncInterrupt()

    def wait_stop(self, limit):
        end = time.monotonic() + limit
        while True:
            left = end - time.monotonic()
            event = lldb.SBEvent()
            if left <= 0 or not self.listener.WaitForEvent(max(1, int(left)), event):
                raise Refused("no stop in %g s; the state is %s" % (
                    limit, lldb.SBDebugger.StateAsCString(self.process.GetState())))
            if not lldb.SBProcess.EventIsProcessEvent(event):
                continue
            if event.GetType() != lldb.SBProcess.eBroadcastBitStateChanged:
                continue
            state = lldb.SBProcess.GetStateFromEvent(event)
            if state in ENDED:
                return self.ended(state)
            if state in STOPPED and not lldb.SBProcess.GetRestartedFromEvent(event):
                return self.stop()

    def ended(self, state):
        reason = {"kind": "ended", "name": lldb.SBDebugger.StateAsCString(state)}
        if state == lldb.eStateExited:
            description = self.process.GetExitDescription()
            if description:
                reason["name"] += ": " + description
            else:
                reason = {"kind": "exited", "code": self.process.GetExitStatus()}
        return {"reason": reason, "thread": 0, "pc": 0, "details": ""}

    def stop(self):
        reasonless = (lldb.eStopReasonNone, lldb.eStopReasonInvalid)
        for thread in self.process:
            if thread.GetStopReason() not in reasonless:
                self.process.SetSelectedThread(thread)
                break
        thread = self.process.GetSelectedThread()
        frame = thread.GetFrameAtIndex(0)
        return {
            "reason": self.reason(thread),
            "thread": thread.GetThreadID(),
            "pc": frame.GetPC(),
            "function": function(frame),
            "details": thread.GetStopDescription(1000),
        }

    def reason(self, thread):
        kind = thread.GetStopReason()
        data = [thread.GetStopReasonDataAtIndex(i) for i in range(thread.GetStopReasonDataCount())]
        if kind == lldb.eStopReasonBreakpoint:
            # A one-shot or internal breakpoint ends a step over a call.
            return {"kind": "break", "number": data[0] if data else 0}
        if kind == lldb.eStopReasonWatchpoint:
            return {"kind": "watch", "number": data[0]}
        if kind in (lldb.eStopReasonTrace, lldb.eStopReasonPlanComplete):
            return {"kind": "step"}
        if kind == lldb.eStopReasonSignal:
            signals = self.process.GetUnixSignals()
            return {"kind": "signal", "name": signals.GetSignalAsCString(data[0])}
        if kind in (lldb.eStopReasonNone, lldb.eStopReasonInvalid):
            return {"kind": "none"}
        return {"kind": "signal", "name": thread.GetStopDescription(200)}

    def step(self):
        error = lldb.SBError()
        self.thread().StepInstruction(False, error)
        check(error, "step")

    def step_many(self, count, limit):
        stop = None
        for _ in range(count):
            self.step()
            stop = self.wait_stop(limit)
            if stop["reason"]["kind"] != "step":
                break
        return stop

    def start_next(self):
        error = lldb.SBError()
        self.thread().StepOver(lldb.eOnlyThisThread, error)
        check(error, "next")

    # Breakpoints and watchpoints

    def break_address(self, address):
        return self.made(self.target.BreakpointCreateByAddress(address))

    def break_function(self, name):
        return self.made(self.target.BreakpointCreateByName(name))

    def hbreak(self, arguments):
        before = self.target.GetNumBreakpoints()
        self.command("breakpoint set --hardware " + arguments)
        if self.target.GetNumBreakpoints() == before:
            raise Refused("no breakpoint was made")
        return self.made(self.target.GetBreakpointAtIndex(before))

    def made(self, breakpoint):
        if not breakpoint.IsValid() or breakpoint.GetNumLocations() == 0:
            raise Refused("no location for the breakpoint")
        return breakpoint.GetID()

    def condition(self, number, expression):
        self.target.FindBreakpointByID(number).SetCondition(expression)

    def delete_break(self, number):
        if not self.target.BreakpointDelete(number):
            raise Refused("no breakpoint %d" % number)

    def watch(self, address, size, read, write):
        error = lldb.SBError()
        watchpoint = self.target.WatchAddress(address, size, read, write, error)
        check(error, "watch")
        return watchpoint.GetID()

    def delete_watch(self, number):
        if not self.target.DeleteWatchpoint(number):
            raise Refused("no watchpoint %d" % number)

    # State

    def thread(self):
        return self.process.GetSelectedThread()

    def select(self, thread):
        if not self.process.SetSelectedThreadByID(thread):
            raise Refused("no thread %d" % thread)

    def threads(self):
        return [{
            "number": thread.GetThreadID(),
            "pc": thread.GetFrameAtIndex(0).GetPC(),
            "function": function(thread.GetFrameAtIndex(0)),
            "details": thread.GetName() or "",
        } for thread in self.process]

    def backtrace(self, limit):
        thread = self.thread()
        frames = [thread.GetFrameAtIndex(i) for i in range(min(limit, thread.GetNumFrames()))]
        return [{"pc": frame.GetPC(), "function": function(frame)} for frame in frames]

    def instruction_after(self, address):
        start = lldb.SBAddress(address, self.target)
        instructions = self.target.ReadInstructions(start, 2)
        return instructions.GetInstructionAtIndex(1).GetAddress().GetLoadAddress(self.target)

    def find_register(self, name):
        value = self.thread().GetFrameAtIndex(0).FindRegister(name)
        if not value.IsValid():
            raise Refused("no register " + name)
        return value

    def register(self, name):
        error = lldb.SBError()
        value = self.find_register(name).GetValueAsUnsigned(error, 0)
        check(error, name)
        return value

    def set_register(self, name, value):
        error = lldb.SBError()
        self.find_register(name).SetValueFromCString("%#x" % value, error)
        check(error, name)

    def read(self, address, length):
        error = lldb.SBError()
        content = self.process.ReadMemory(address, length, error)
        if not content:
            check(error, "read")
            raise Refused("no memory at %#x" % address)
        return content.hex()

    def write(self, address, digits):
        error = lldb.SBError()
        content = bytes.fromhex(digits)
        written = self.process.WriteMemory(address, content, error)
        check(error, "write")
        if written != len(content):
            raise Refused("only %d bytes were written" % written)


def function(frame):
    return frame.GetFunctionName()


def serve():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["TRAPLINE_E2E_DRIVER"])
    stream = connection.makefile("rw")
    driver = Driver()
    for line in stream:
        request = json.loads(line)
        try:
            answer = {"ok": getattr(driver, request.pop("verb"))(**request)}
        except Refused as refusal:
            answer = {"error": str(refusal)}
        except Exception as error:
            answer = {"error": repr(error)}
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


def __lldb_init_module(_debugger, _):
    serve()
