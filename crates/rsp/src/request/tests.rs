#![expect(
    clippy::too_many_lines,
    reason = "flat tables of packets and what they mean"
)]

use super::{
    Action, ActionKind, AfterDetach, AttachWay, BreakpointType, Feature, FeatureValue, FileRequest,
    ParseError, Request, Search, SymbolAnswer, ThreadUse, Toggle, Transfer, TransferObject,
};
use crate::hex::HexBytes;
use crate::thread_id::{ProcessId, ThreadId, ThreadSpec};
use alloc::vec::Vec;

fn parse(payload: &[u8]) -> Request<'_> {
    let request = Request::parse(payload);
    request.unwrap_or_else(|error| panic!("{}: {error}", payload.escape_ascii()))
}

fn check(cases: &[(&[u8], Request<'_>)]) {
    for (payload, expected) in cases {
        assert_eq!(parse(payload), *expected, "{}", payload.escape_ascii());
    }
}

fn check_errors(cases: &[(&[u8], ParseError)]) {
    for (payload, error) in cases {
        assert_eq!(
            Request::parse(payload),
            Err(*error),
            "{}",
            payload.escape_ascii()
        );
    }
}

fn check_unknown(cases: &[&[u8]]) {
    for payload in cases {
        assert_eq!(
            parse(payload),
            Request::Unknown,
            "{}",
            payload.escape_ascii()
        );
    }
}

fn thread(number: u32) -> ThreadSpec {
    ThreadSpec::thread(ThreadId::new(number))
}

fn hex(digits: &[u8]) -> HexBytes<'_> {
    HexBytes::parse(digits).unwrap()
}

const fn mismatch(declared_bytes: u64, actual_bytes: u64) -> ParseError {
    ParseError::LengthMismatch {
        declared_bytes,
        actual_bytes,
    }
}

#[test]
fn session_packets() {
    let detach = |process, after| Request::Detach { process, after };
    check(&[
        (b"?", Request::StopReason),
        (b"k", Request::Kill),
        (b"vKill;1", Request::KillProcess(ProcessId::new(1))),
        (b"D", detach(None, AfterDetach::Run)),
        (
            b"D;1f",
            detach(Some(ProcessId::new(0x1f)), AfterDetach::Run),
        ),
        (b"D1", detach(None, AfterDetach::StayStopped)),
        (
            b"D1;2",
            detach(Some(ProcessId::new(2)), AfterDetach::StayStopped),
        ),
        (
            b"Hg0",
            Request::SetThread {
                usage: ThreadUse::Other,
                thread: thread(0),
            },
        ),
        (
            b"Hc2",
            Request::SetThread {
                usage: ThreadUse::Resume,
                thread: thread(2),
            },
        ),
        (
            b"Tp1.2",
            Request::ThreadAlive(ThreadSpec::parse(b"p1.2").unwrap()),
        ),
        (
            b"vAttach;a",
            Request::Attach(AttachWay::Process(ProcessId::new(10))),
        ),
        (
            b"vAttachName;6869",
            Request::Attach(AttachWay::Name(hex(b"6869"))),
        ),
        (
            b"vAttachWait;6869",
            Request::Attach(AttachWay::Wait(hex(b"6869"))),
        ),
        (
            b"vAttachOrWait;6869",
            Request::Attach(AttachWay::OrWait(hex(b"6869"))),
        ),
        (
            b"qSupportsDetachAndStayStopped:",
            Request::DetachStoppedSupported,
        ),
        (b"vStopped", Request::NextStopped),
        (b"vCtrlC", Request::Interrupt),
    ]);
    let all = ThreadSpec::thread(ThreadId::All);
    check(&[(
        b"Hc-1",
        Request::SetThread {
            usage: ThreadUse::Resume,
            thread: all,
        },
    )]);
    check_errors(&[
        (b"?x", ParseError::TrailingBytes),
        (b"kill", ParseError::TrailingBytes),
        (b"vKill;", ParseError::BadThreadId),
        (b"D;", ParseError::BadThreadId),
        (b"D2", ParseError::TrailingBytes),
        (b"H", ParseError::MissingField),
        (b"Hg", ParseError::BadThreadId),
        (b"Hgxyz", ParseError::BadThreadId),
        (b"Hg100000000", ParseError::BadThreadId),
        (b"T", ParseError::BadThreadId),
        (b"T-", ParseError::BadThreadId),
        (b"vAttach;x", ParseError::BadThreadId),
        (b"vAttachName;6", ParseError::OddDigits),
    ]);
}

#[test]
fn register_packets() {
    let none = None;
    let some = Some(thread(2));
    let save = |thread| Request::SaveRegisters { thread };
    let restore = |id, thread| Request::RestoreRegisters { id, thread };
    check(&[
        (b"g", Request::ReadRegisters { thread: none }),
        (b"g;thread:0002;", Request::ReadRegisters { thread: some }),
        (b"g;", Request::ReadRegisters { thread: none }),
        (
            b"G0011",
            Request::WriteRegisters {
                data: hex(b"0011"),
                thread: none,
            },
        ),
        (
            b"G0011;thread:2;",
            Request::WriteRegisters {
                data: hex(b"0011"),
                thread: some,
            },
        ),
        (
            b"p1f",
            Request::ReadRegister {
                number: 0x1f,
                thread: none,
            },
        ),
        (
            b"p1f;thread:2",
            Request::ReadRegister {
                number: 0x1f,
                thread: some,
            },
        ),
        (
            b"P1=00ff",
            Request::WriteRegister {
                number: 1,
                value: hex(b"00ff"),
                thread: none,
            },
        ),
        (
            b"P1=ff;thread:2;",
            Request::WriteRegister {
                number: 1,
                value: hex(b"ff"),
                thread: some,
            },
        ),
        (b"QSaveRegisterState", save(none)),
        (b"QSaveRegisterState;thread:2;", save(some)),
        (b"QRestoreRegisterState:10", restore(10, none)),
        (b"QRestoreRegisterState:3;thread:2;", restore(3, some)),
    ]);
    check_errors(&[
        (b"g0", ParseError::TrailingBytes),
        (b"g;thread:;", ParseError::BadThreadId),
        (b"g;fred:1;", ParseError::TrailingBytes),
        (b"g;thread:1;x", ParseError::BadThreadId),
        (b"G0", ParseError::OddDigits),
        (b"Gxx", ParseError::NotHex),
        (b"p", ParseError::MissingField),
        (b"p100000000", ParseError::NumberTooLarge),
        (b"P1", ParseError::MissingField),
        (b"P=00", ParseError::MissingField),
        (b"P1=", ParseError::MissingField),
        (b"P1=0", ParseError::OddDigits),
        (b"QRestoreRegisterState:", ParseError::MissingField),
        (b"QRestoreRegisterState:a", ParseError::BadValue),
        (
            b"QRestoreRegisterState:4294967296",
            ParseError::NumberTooLarge,
        ),
    ]);
}

#[test]
fn memory_packets() {
    let search = Search {
        address: 0x1000,
        len_bytes: 0x20,
        pattern: b";:,\0",
    };
    check(&[
        (
            b"m1000,40",
            Request::ReadMemory {
                address: 0x1000,
                len_bytes: 0x40,
            },
        ),
        (
            b"mffffffff81000000,ffffffffffffffff",
            Request::ReadMemory {
                address: 0xffff_ffff_8100_0000,
                len_bytes: u64::MAX,
            },
        ),
        (
            b"x0,0",
            Request::ReadMemoryBinary {
                address: 0,
                len_bytes: 0,
            },
        ),
        (
            b"M10,2:abCD",
            Request::WriteMemory {
                address: 0x10,
                data: hex(b"abCD"),
            },
        ),
        (
            b"M10,0:",
            Request::WriteMemory {
                address: 0x10,
                data: hex(b""),
            },
        ),
        (
            b"X10,3:,:\0",
            Request::WriteMemoryBinary {
                address: 0x10,
                data: b",:\0",
            },
        ),
        (
            b"X0,0:",
            Request::WriteMemoryBinary {
                address: 0,
                data: b"",
            },
        ),
        (
            b"qCRC:1000,20",
            Request::Crc {
                address: 0x1000,
                len_bytes: 0x20,
            },
        ),
        (
            b"qSearch:memory:1000;20;;:,\0",
            Request::SearchMemory(search),
        ),
        (
            b"_M1000,rwx",
            Request::AllocateMemory {
                len_bytes: 0x1000,
                permissions: "rwx",
            },
        ),
        (b"_m1000", Request::DeallocateMemory(0x1000)),
        (b"qMemoryRegionInfo:7f", Request::MemoryRegion(0x7f)),
        (b"qMemoryRegionInfo", Request::MemoryRegionSupported),
    ]);
    check_errors(&[
        (b"m", ParseError::MissingField),
        (b"m1000", ParseError::MissingField),
        (b"m1000,", ParseError::MissingField),
        (b"m,1", ParseError::MissingField),
        (b"m1g,1", ParseError::NotHex),
        (b"m1,1,1", ParseError::NotHex),
        (b"m10000000000000000,1", ParseError::NumberTooLarge),
        (b"x1", ParseError::MissingField),
        (b"M10,2", ParseError::MissingField),
        (b"M10,4:abcd", mismatch(4, 2)),
        (b"M10,1:abcd", mismatch(1, 2)),
        (b"M10,2:abc", ParseError::OddDigits),
        (b"M10,1:zz", ParseError::NotHex),
        (b"M0,8000000000000000:", mismatch(1 << 63, 0)),
        (b"X10,2:abc", mismatch(2, 3)),
        (b"X10,ffffffffffffffff:a", mismatch(u64::MAX, 1)),
        (b"X10:a", ParseError::MissingField),
        (b"qCRC:1000", ParseError::MissingField),
        (b"qSearch:memory:1000;20", ParseError::MissingField),
        (b"qSearch:memory:1000;20;", ParseError::MissingField),
        (b"_M10", ParseError::MissingField),
        (b"_M10,q", ParseError::BadValue),
        (b"_m", ParseError::MissingField),
        (b"qMemoryRegionInfo:", ParseError::MissingField),
    ]);
    check_unknown(&[b"_", b"_x", b"qSearch:disk:1;2;3"]);
}

#[test]
fn old_resume_packets() {
    let go = |signal, address| Request::Continue { signal, address };
    let step = |signal, address| Request::Step { signal, address };
    check(&[
        (b"c", go(None, None)),
        (b"c1000", go(None, Some(0x1000))),
        (b"C05", go(Some(5), None)),
        (b"C05;1000", go(Some(5), Some(0x1000))),
        (b"s", step(None, None)),
        (b"s1000", step(None, Some(0x1000))),
        (b"S05", step(Some(5), None)),
        (b"S05;1000", step(Some(5), Some(0x1000))),
    ]);
    check_errors(&[
        (b"cx", ParseError::NotHex),
        (b"C", ParseError::MissingField),
        (b"C100", ParseError::NumberTooLarge),
        (b"C05;", ParseError::MissingField),
        (b"s ", ParseError::NotHex),
        (b"S;1000", ParseError::MissingField),
    ]);
}

#[test]
fn resume_actions() {
    assert_eq!(parse(b"vCont?"), Request::ResumeActions);
    let Request::Resume(actions) = parse(b"vCont;s:p1.1;r10,1f:2;C0b:3;S05;t;c:-1;c") else {
        panic!("no vCont");
    };
    let actions: Vec<_> = actions
        .iter()
        .map(|Action { kind, thread }| (kind, thread))
        .collect();
    let all = Some(ThreadSpec::thread(ThreadId::All));
    let expected = [
        (ActionKind::Step, Some(ThreadSpec::parse(b"p1.1").unwrap())),
        (
            ActionKind::RangeStep {
                start: 0x10,
                end: 0x1f,
            },
            Some(thread(2)),
        ),
        (ActionKind::ContinueWithSignal(0x0b), Some(thread(3))),
        (ActionKind::StepWithSignal(5), None),
        (ActionKind::Stop, None),
        (ActionKind::Continue, all),
        (ActionKind::Continue, None),
    ];
    assert_eq!(actions, expected);
    assert_eq!(parse(b"vCont;c;"), parse(b"vCont;c"));
    check_errors(&[
        (b"vCont", ParseError::MissingField),
        (b"vCont;", ParseError::MissingField),
        (b"vCont:c", ParseError::MissingField),
        (b"vCont;;c", ParseError::MissingField),
        (b"vCont;x", ParseError::BadValue),
        (b"vCont;cc", ParseError::TrailingBytes),
        (b"vCont;C", ParseError::MissingField),
        (b"vCont;s:", ParseError::BadThreadId),
        (b"vCont;s:1:2", ParseError::BadThreadId),
        (b"vCont;r10:1", ParseError::MissingField),
        (b"vCont;r10,:1", ParseError::MissingField),
    ]);
    check_unknown(&[
        b"vCont?x",
        b"vContx",
        b"vCtrlC;",
        b"vMustReplyEmpty",
        b"v",
        b"vRun;6869",
    ]);
}

fn bytecode(list: super::Expressions<'_>) -> Vec<Vec<u8>> {
    list.iter().map(HexBytes::to_vec).collect()
}

#[test]
fn breakpoint_packets() {
    let types = [
        (b"Z0,1000,1", BreakpointType::Software),
        (b"Z1,1000,1", BreakpointType::Hardware),
        (b"Z2,1000,1", BreakpointType::WriteWatch),
        (b"Z3,1000,1", BreakpointType::ReadWatch),
        (b"Z4,1000,1", BreakpointType::AccessWatch),
    ];
    for (payload, ty) in types {
        let Request::InsertBreakpoint(breakpoint) = parse(payload) else {
            panic!()
        };
        assert_eq!(
            (breakpoint.ty, breakpoint.address, breakpoint.kind),
            (ty, 0x1000, 1)
        );
        assert!(breakpoint.conditions.is_empty() && breakpoint.commands.is_none());
        let mut removal = payload.to_vec();
        removal[0] = b'z';
        assert_eq!(parse(&removal), Request::RemoveBreakpoint(breakpoint));
    }
    check_unknown(&[b"Z5,1000,1", b"z9,1000,1"]);
    check_errors(&[
        (b"Z", ParseError::MissingField),
        (b"Z0", ParseError::MissingField),
        (b"Z0,1000", ParseError::MissingField),
        (b"Z0,1000,", ParseError::MissingField),
        (b"Z0,x,1", ParseError::NotHex),
        (b"Zx,1000,1", ParseError::NotHex),
        (b"Z0,1000,1,1", ParseError::NotHex),
    ]);
}

#[test]
fn breakpoint_conditions_and_commands() {
    // GDB writes a list without separators, the manual's syntax allows for them.
    for payload in [
        b"Z0,10,1;X3,220027X2,2a27".as_slice(),
        b"Z0,10,1;X3,220027;X2,2a27;",
    ] {
        let Request::InsertBreakpoint(breakpoint) = parse(payload) else {
            panic!()
        };
        assert_eq!(
            bytecode(breakpoint.conditions),
            [vec(&[0x22, 0, 0x27]), vec(&[0x2a, 0x27])]
        );
        assert!(breakpoint.commands.is_none());
    }
    let payload = b"Z0,10,1;X1,27;cmds:1,X2,3427X1,27";
    let Request::InsertBreakpoint(breakpoint) = parse(payload) else {
        panic!()
    };
    assert_eq!(bytecode(breakpoint.conditions), [vec(&[0x27])]);
    let commands = breakpoint.commands.unwrap();
    assert!(commands.persist);
    assert_eq!(bytecode(commands.list), [vec(&[0x34, 0x27]), vec(&[0x27])]);
    let Request::InsertBreakpoint(breakpoint) = parse(b"Z0,10,1;cmds:0,X1,27") else {
        panic!()
    };
    assert!(breakpoint.conditions.is_empty() && !breakpoint.commands.unwrap().persist);
    check_errors(&[
        (b"Z0,10,1;Y1,27", ParseError::BadValue),
        (b"Z0,10,1;X1", ParseError::MissingField),
        (b"Z0,10,1;X2,27", mismatch(2, 1)),
        (b"Z0,10,1;X1,2x", ParseError::NotHex),
        (b"Z0,10,1;X1,2727", ParseError::BadValue),
        (b"Z0,10,1;Xffffffffffffffff,27", mismatch(u64::MAX, 1)),
        (b"Z0,10,1;cmds:2,X1,27", ParseError::BadValue),
        (b"Z0,10,1;cmds:X1,27", ParseError::NotHex),
        (b"Z0,10,1;m", ParseError::BadValue),
        (b"Z0,10,1;X1,27cmds", ParseError::BadValue),
    ]);
}

#[test]
fn lists_as_gdb_13_sends_them_are_read() {
    // `break *0x1000 if $rax == 5 && *(int*)0x2000 == 3`
    let condition =
        b"Z0,1000,1;X25,260000164022051320000e21002223200019162022031320001d2100222201210024220027";
    let Request::InsertBreakpoint(breakpoint) = parse(condition) else {
        panic!()
    };
    let lengths: Vec<_> = bytecode(breakpoint.conditions)
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!(lengths, [0x25]);
    // `dprintf *0x1234,"hi\n"` with `dprintf-style agent`
    let command = b"Z0,1234,1;cmds:1,Xe,220022003400000568695c6e0027";
    let Request::InsertBreakpoint(breakpoint) = parse(command) else {
        panic!()
    };
    let commands = breakpoint.commands.unwrap();
    assert!(breakpoint.conditions.is_empty() && commands.persist);
    assert_eq!(
        bytecode(commands.list),
        [vec(b"\"\0\"\x004\0\0\x05hi\\n\0'")]
    );
}

fn vec(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

#[test]
fn features_are_read_from_the_first_one_on() {
    let Request::Supported(features) =
        parse(b"qSupported:swbreak+;hwbreak-;qRelocInsn?;xmlRegisters=i386,arm;vContSupported+")
    else {
        panic!("no qSupported");
    };
    let found: Vec<_> = features
        .iter()
        .map(|Feature { name, value }| (name, value))
        .collect();
    let expected = [
        ("swbreak", FeatureValue::Supported),
        ("hwbreak", FeatureValue::Unsupported),
        ("qRelocInsn", FeatureValue::Query),
        ("xmlRegisters", FeatureValue::Value("i386,arm")),
        ("vContSupported", FeatureValue::Supported),
    ];
    assert_eq!(found, expected);
    assert!(features.supports("swbreak"));
    assert!(!features.supports("hwbreak") && !features.supports("swbrea"));
}

#[test]
fn odd_features_are_left_out() {
    for payload in [
        b"qSupported".as_slice(),
        b"qSupported:",
        b"qSupported:;;",
        b"qSupported:a;+",
    ] {
        let Request::Supported(features) = parse(payload) else {
            panic!()
        };
        assert_eq!(features.iter().count(), 0, "{payload:?}");
    }
    check_errors(&[(b"qSupported:\xff+", ParseError::NotText)]);
    check_unknown(&[b"qSupported;a+", b"qSupportedX"]);
}

#[test]
fn transfers() {
    let read = |object, annex, offset_bytes, len_bytes| {
        Request::Transfer(Transfer::Read {
            object,
            annex,
            offset_bytes,
            len_bytes,
        })
    };
    check(&[
        (
            b"qXfer:features:read:target.xml:0,ffb",
            read(TransferObject::Features, "target.xml", 0, 0xffb),
        ),
        (
            b"qXfer:threads:read::10,ff",
            read(TransferObject::Threads, "", 0x10, 0xff),
        ),
        (
            b"qXfer:exec-file:read:1:0,f",
            read(TransferObject::ExecFile, "1", 0, 15),
        ),
        (
            b"qXfer:memory-map:read::0,f",
            read(TransferObject::MemoryMap, "", 0, 15),
        ),
        (
            b"qXfer:libraries:read::0,f",
            read(TransferObject::Libraries, "", 0, 15),
        ),
        (
            b"qXfer:libraries-svr4:read::0,f",
            read(TransferObject::LibrariesSvr4, "", 0, 15),
        ),
        (
            b"qXfer:auxv:read::0,f",
            read(TransferObject::Auxv, "", 0, 15),
        ),
        (
            b"qXfer:siginfo:read::0,f",
            read(TransferObject::Siginfo, "", 0, 15),
        ),
        (
            b"qXfer:btrace:read:all:0,f",
            read(TransferObject::Other("btrace"), "all", 0, 15),
        ),
        // Sums that wrap in 32 and in 64 bits are the session's to clamp.
        (
            b"qXfer:threads:read::1,ffffffffffffffff",
            read(TransferObject::Threads, "", 1, u64::MAX),
        ),
        (
            b"qXfer:siginfo:write:a:2::;\x03",
            Request::Transfer(Transfer::Write {
                object: TransferObject::Siginfo,
                annex: "a",
                offset_bytes: 2,
                data: b":;\x03",
            }),
        ),
    ]);
    check_errors(&[
        (b"qXfer:features", ParseError::MissingField),
        (b"qXfer:features:read:target.xml", ParseError::MissingField),
        (
            b"qXfer:features:read:target.xml:0",
            ParseError::MissingField,
        ),
        (b"qXfer:features:read:target.xml:0,x", ParseError::NotHex),
        (b"qXfer:features:read:\xff:0,1", ParseError::NotText),
        (b"qXfer:siginfo:write::0", ParseError::MissingField),
    ]);
    check_unknown(&[b"qXfer", b"qXfer:features:erase:x:0,1"]);
}

#[test]
fn file_packets() {
    let name = hex(b"2f");
    let cases: [(&[u8], FileRequest<'_>); 10] = [
        (b"vFile:setfs:0", FileRequest::SetFileSystem { pid: 0 }),
        (
            b"vFile:open:2f,602,1b6",
            FileRequest::Open {
                name,
                flags: 0x602,
                mode: 0x1b6,
            },
        ),
        (b"vFile:close:5", FileRequest::Close { fd: 5 }),
        (
            b"vFile:pread:5,fff,10",
            FileRequest::Read {
                fd: 5,
                len_bytes: 0xfff,
                offset_bytes: 16,
            },
        ),
        (
            b"vFile:pwrite:5,1,,\0",
            FileRequest::Write {
                fd: 5,
                offset_bytes: 1,
                data: b",\0",
            },
        ),
        (b"vFile:fstat:5", FileRequest::Fstat { fd: 5 }),
        (b"vFile:stat:2f", FileRequest::Stat { name }),
        (b"vFile:lstat:2f", FileRequest::Lstat { name }),
        (b"vFile:readlink:2f", FileRequest::ReadLink { name }),
        (b"vFile:unlink:2f", FileRequest::Unlink { name }),
    ];
    for (payload, file) in cases {
        assert_eq!(parse(payload), Request::File(file));
    }
    check_errors(&[
        (b"vFile:open", ParseError::MissingField),
        (b"vFile:open:2f,0", ParseError::MissingField),
        (b"vFile:open:2,0,0", ParseError::OddDigits),
        (b"vFile:close:", ParseError::MissingField),
        (b"vFile:close:-1", ParseError::NotHex),
        (b"vFile:pread:5,1", ParseError::MissingField),
        (b"vFile:pwrite:5,1", ParseError::MissingField),
    ]);
    check_unknown(&[b"vFile", b"vFile:size:2f", b"vFile;close:1"]);
}

#[test]
fn queries() {
    let symbol = |value, name| Request::Symbol(SymbolAnswer::Lookup { value, name });
    check(&[
        (b"qRcmd,68656c70", Request::Monitor(hex(b"68656c70"))),
        (b"qRcmd,", Request::Monitor(hex(b""))),
        (b"qC", Request::CurrentThread),
        (b"qfThreadInfo", Request::FirstThreads),
        (b"qsThreadInfo", Request::NextThreads),
        (b"qThreadExtraInfo,2", Request::ThreadExtraInfo(thread(2))),
        (b"qAttached", Request::Attached(None)),
        (b"qAttached:1", Request::Attached(Some(ProcessId::new(1)))),
        (b"qOffsets", Request::Offsets),
        (b"qSymbol::", Request::Symbol(SymbolAnswer::Offer)),
        (b"qSymbol:ff:6869", symbol(Some(0xff), hex(b"6869"))),
        (b"qSymbol::6869", symbol(None, hex(b"6869"))),
        (b"QStartNoAckMode", Request::StartNoAckMode),
        (b"QThreadEvents:1", Request::SetThreadEvents(Toggle::On)),
        (b"QNonStop:0", Request::SetNonStop(Toggle::Off)),
        (
            b"Qqemu.PhyMemMode:1",
            Request::SetPhysicalMemoryMode(Toggle::On),
        ),
        (b"qqemu.PhyMemMode", Request::PhysicalMemoryMode),
    ]);
    check_errors(&[
        (b"qRcmd,6", ParseError::OddDigits),
        (b"qThreadExtraInfo,", ParseError::BadThreadId),
        (b"qThreadExtraInfo,ffffffffff", ParseError::BadThreadId),
        (b"qAttached:", ParseError::MissingField),
        (b"qSymbol:1:", ParseError::MissingField),
        (b"qSymbol:", ParseError::MissingField),
        (b"QThreadEvents:2", ParseError::BadValue),
        (b"QNonStop:", ParseError::MissingField),
        (b"Qqemu.PhyMemMode:x", ParseError::NotHex),
    ]);
}

#[test]
fn signal_lists() {
    let Request::PassSignals(signals) = parse(b"QPassSignals:e;10;14;") else {
        panic!()
    };
    assert_eq!(signals.iter().collect::<Vec<_>>(), [0xe, 0x10, 0x14]);
    let Request::ProgramSignals(signals) = parse(b"QProgramSignals:") else {
        panic!()
    };
    assert_eq!(signals.iter().count(), 0);
    check_errors(&[
        (b"QPassSignals:e;;1", ParseError::MissingField),
        (b"QPassSignals:x", ParseError::NotHex),
    ]);
}

#[test]
fn lldb_packets() {
    check(&[
        (b"qHostInfo", Request::HostInfo),
        (b"qProcessInfo", Request::ProcessInfo),
        (b"qProcessInfoPID:12", Request::ProcessInfoOf(12)),
        (b"qRegisterInfo1f", Request::RegisterInfo(0x1f)),
        (b"jThreadsInfo", Request::ThreadsInfo),
        (b"qThreadStopInfo2", Request::ThreadStopInfo(thread(2))),
        (b"QThreadSuffixSupported", Request::EnableThreadSuffix),
        (
            b"QListThreadsInStopReply",
            Request::EnableThreadsInStopReply,
        ),
        (b"QEnableErrorStrings", Request::EnableErrorStrings),
        (b"qWatchpointSupportInfo:", Request::WatchpointSupport),
        (b"qWatchpointSupportInfo", Request::WatchpointSupport),
        (b"qShlibInfoAddr", Request::ShlibInfoAddress),
        (b"qVAttachOrWaitSupported", Request::AttachOrWaitSupported),
        (b"qStructuredDataPlugins", Request::StructuredDataPlugins),
        (
            b"jGetLoadedDynamicLibrariesInfos:{\"a\":1}",
            Request::LoadedLibraries("{\"a\":1}"),
        ),
        (b"qGetWorkingDir", Request::WorkingDirectory),
        (b"qEcho:7", Request::Echo(b"qEcho:7")),
        (b"qGDBServerVersion", Request::ServerVersion),
    ]);
    check_errors(&[
        (b"qProcessInfoPID:x", ParseError::BadValue),
        (b"qRegisterInfo", ParseError::MissingField),
        (b"qRegisterInfoX", ParseError::NotHex),
        (b"qThreadStopInfo", ParseError::BadThreadId),
        (b"qWatchpointSupportInfo:1", ParseError::TrailingBytes),
    ]);
}

#[test]
fn names_match_whole_or_not_at_all() {
    check_unknown(&[
        b"",
        b"!",
        b"A0",
        b"R00",
        b"b",
        b"q",
        b"Q",
        b"j",
        b"\xff",
        b"qCx",
        b"qC:1",
        b"qCRC",
        b"qcrc:1,2",
        b"qRcmd",
        b"qRcmd:68",
        b"qHostInfo:",
        b"qHostInformation",
        b"qfThreadInfo,1",
        b"qOffsetsX",
        b"QStartNoAckModeX",
        b"qTStatus",
        b"qTfV",
        b"QCatchSyscalls:0",
        b"jThreads",
        b"jThreadExtendedInfo:{}",
        b"QSetDisableASLR:1",
        b"qGDBServerVersion:",
        b"vKill",
        b"Hm0",
        b"qEcho",
        b"QThreadEvents",
        b"qSymbol",
        b"vAttach",
    ]);
}

/// One of each packet, so that truncations and mutations reach every parser.
const SAMPLES: &[&[u8]] = &[
    b"vCont;s:p1.1;r10,1f:2;C0b:3",
    b"Z0,10,1;X1,27;cmds:1,X2,3427X1,27",
    b"qXfer:features:read:target.xml:0,ffb",
    b"qXfer:siginfo:write:a:2:data",
    b"qSearch:memory:1000;20;pattern",
    b"vFile:open:2f,602,1b6",
    b"vFile:pwrite:5,1,data",
    b"qSupported:swbreak+;xmlRegisters=i386",
    b"QRestoreRegisterState:3;thread:2;",
    b"M10,2:abcd",
    b"X10,3:abc",
    b"P1=ff;thread:2;",
    b"C05;1000",
];

#[test]
fn every_truncation_is_read_without_a_fault_and_length_checked() {
    for sample in SAMPLES {
        assert!(Request::parse(sample).is_ok());
        for len in 0..sample.len() {
            let request = Request::parse(&sample[..len]);
            // Data may not get shorter unnoticed.
            if matches!(sample[0], b'M' | b'X') {
                assert!(request.is_err() || request == Ok(Request::Unknown));
            }
        }
    }
}

#[test]
fn every_single_byte_change_is_read_without_a_fault() {
    for sample in SAMPLES {
        let mut changed = sample.to_vec();
        for at in 0..changed.len() {
            let original = changed[at];
            for byte in 0..=255 {
                changed[at] = byte;
                let _ = Request::parse(&changed);
            }
            changed[at] = original;
        }
    }
}
