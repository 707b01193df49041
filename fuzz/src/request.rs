use trapline_rsp::client::StopReply;
use trapline_rsp::request::{Expressions, Request};

/// Reads `data` as a request and as a stop reply, and walks all that is read lazily.
pub fn request(data: &[u8]) {
    stop_reply(data);
    let Ok(request) = Request::parse(data) else {
        return;
    };
    match request {
        // At most one item for each separator.
        Request::Resume(actions) => {
            let count = actions.iter().count();
            assert!(count >= 1 && count <= separators(data), "no action is lost");
        }
        Request::Supported(features) => assert!(features.iter().count() <= separators(data) + 1),
        Request::PassSignals(list) | Request::ProgramSignals(list) => {
            assert!(list.iter().count() <= separators(data) + 1);
        }
        Request::InsertBreakpoint(breakpoint) | Request::RemoveBreakpoint(breakpoint) => {
            expressions(breakpoint.conditions, data);
            if let Some(commands) = breakpoint.commands {
                expressions(commands.list, data);
            }
        }
        Request::WriteMemory { data: bytes, .. } => assert!(bytes.len_bytes() * 2 < data.len()),
        Request::WriteMemoryBinary { data: bytes, .. } => assert!(data.ends_with(bytes)),
        Request::Monitor(text) => assert_eq!(text.to_vec().len(), text.len_bytes()),
        Request::WriteRegister { value, .. } => assert!(!value.is_empty()),
        _ => {}
    }
}

fn separators(data: &[u8]) -> usize {
    data.iter().filter(|&&byte| byte == b';').count()
}

fn expressions(list: Expressions<'_>, data: &[u8]) {
    let digits: usize = list.iter().map(|one| one.digits().len()).sum();
    assert!(digits < data.len());
    assert_eq!(list.is_empty(), list.iter().next().is_none());
}

fn stop_reply(data: &[u8]) {
    let Ok(reply) = StopReply::parse(data) else {
        return;
    };
    let _ = reply.thread();
    if let StopReply::Stopped { pairs, .. } = reply {
        assert!(pairs.iter().count() <= data.len());
        assert!(pairs.registers().count() <= pairs.iter().count());
    }
}
