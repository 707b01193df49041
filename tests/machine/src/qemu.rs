//! The QEMU process behind a machine.

use core::time::Duration;
use std::{
    fs::File,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use crate::{
    Architecture, MachineError, MachineOptions,
    deadline::{tail, wait_until},
};

/// How much of the console an error message repeats, in bytes.
const SHOWN_BYTES: usize = 4096;

/// A running QEMU and what its machine's serial console has said.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    console: Arc<Console>,
}

#[derive(Debug, Default)]
struct Console {
    state: Mutex<ConsoleState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ConsoleState {
    text: String,
    ended: bool,
}

impl Qemu {
    /// Starts QEMU with its monitor and serial ports as Unix sockets in `directory`.
    pub(crate) fn start(
        program: &Path,
        kernel: &Path,
        directory: &Path,
        options: &MachineOptions,
    ) -> Result<Self, MachineError> {
        let failed = |error: std::io::Error| MachineError::Program {
            program: program.display().to_string(),
            reason: error.to_string(),
        };
        let errors = directory.join("qemu.log");
        let log = File::create(&errors).map_err(MachineError::file(&errors))?;
        let mut child = Command::new(program)
            .args(arguments(kernel, directory, options))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let console = Arc::new(Console::default());
        if let Some(output) = child.stdout.take() {
            let console = Arc::clone(&console);
            thread::spawn(move || console.collect(output));
        }
        Ok(Self { child, console })
    }

    /// Waits until the console has said `text`.
    pub(crate) fn wait_for_console(&self, text: &str, limit: Duration) -> Result<(), MachineError> {
        let state = self
            .console
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (state, seen) = wait_until(&self.console.changed, state, limit, |state| {
            state
                .text
                .contains(text)
                .then_some(true)
                .or_else(|| state.ended.then_some(false))
        });
        let shown = || tail(&state.text, SHOWN_BYTES).to_owned();
        match seen {
            Some(true) => Ok(()),
            Some(false) => Err(MachineError::Ended {
                reason: format!("its console did not say {text:?}"),
                console: shown(),
            }),
            None => Err(MachineError::TimedOut {
                what: format!("{text:?} on the machine's console"),
                limit,
                seen: shown(),
            }),
        }
    }

    pub(crate) fn console_log(&self) -> String {
        self.console
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .text
            .clone()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Console {
    fn collect(&self, mut output: impl Read) {
        let mut buffer = [0; 4096];
        loop {
            let count = output.read(&mut buffer).unwrap_or(0);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let piece = buffer.get(..count).unwrap_or_default();
            state.text.push_str(&String::from_utf8_lossy(piece));
            state.ended = count == 0;
            drop(state);
            self.changed.notify_all();
            if count == 0 {
                return;
            }
        }
    }
}

/// QEMU's arguments: TCG, whose `max` processor has SVM or EL2, and nothing that reaches outside this computer
/// (`restrict=on` lets in what is forwarded and lets nothing out).
fn arguments(kernel: &Path, directory: &Path, options: &MachineOptions) -> Vec<String> {
    let file = |name: &str| directory.join(name).display().to_string();
    // Signatures of pointers by the architecture's own algorithm take QEMU longer than all else.
    let (processor, console) = match options.architecture {
        Architecture::X86_64 => ("-cpu max", "console=ttyS0 tsc=reliable"),
        Architecture::Arm64 => (
            "-machine virt,virtualization=on,gic-version=3 -cpu max,pauth-impdef=on",
            "console=ttyAMA0",
        ),
    };
    let mut arguments: Vec<String> = [
        "-nodefaults -no-user-config -display none -no-reboot",
        "-accel tcg,thread=multi",
        processor,
        "-chardev stdio,id=console,signal=off -serial chardev:console",
        "-netdev user,id=net,restrict=on -device virtio-net-pci,netdev=net,romfile=",
        "-device virtio-serial-pci,max_ports=16 -device virtio-rng-pci",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    .map(str::to_owned)
    .collect();
    arguments.extend(["-smp".to_owned(), options.cpus.to_string()]);
    arguments.extend(["-m".to_owned(), format!("{}M", options.memory_mib)]);
    arguments.extend(["-kernel".to_owned(), kernel.display().to_string()]);
    arguments.extend(["-initrd".to_owned(), file("initramfs")]);
    let command_line = format!("{console} panic=-1 net.ifnames=0");
    arguments.extend(["-append".to_owned(), command_line]);
    arguments.extend([
        "-qmp".to_owned(),
        format!("unix:{},server=on,wait=off", file("monitor")),
    ]);
    for (index, port) in options.serial_ports.iter().enumerate() {
        let path = file(&format!("port-{port}"));
        let socket = format!("socket,id=port{index},path={path},server=on,wait=off");
        let device = format!("virtserialport,chardev=port{index},name={port}");
        arguments.extend(["-chardev".to_owned(), socket, "-device".to_owned(), device]);
    }
    arguments
}
