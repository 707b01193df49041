//! An emulated Arm computer on which an image is started where the firmware would start it: at EL2.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Environment, MachineError};

/// The interrupt controller of a board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gic {
    /// `GICv2`, memory-mapped, for up to eight processors.
    V2,
    /// `GICv3`, by system registers.
    #[default]
    V3,
}

/// The exception level at which a board starts its image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartLevel {
    /// The operating system's. The processors have no EL2.
    El1,
    /// The hypervisor's.
    #[default]
    El2,
}

/// An emulated Arm computer to be: QEMU's `virt` with two serial ports, no disk and no network.
///
/// The first serial port is QEMU's standard input and output. The second is the Unix socket
/// [`Board::DEBUG_SOCKET`], on which QEMU takes one client at a time; a client that goes is not noticed by
/// what runs on the board, as on a real cable.
#[derive(Clone, Debug)]
pub struct Board {
    /// What to start, in the form of an arm64 Linux Image.
    pub image: PathBuf,
    /// An initial RAM disk to hand over.
    pub initrd: Option<PathBuf>,
    /// The command line to hand over.
    pub command_line: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The interrupt controller.
    pub gic: Gic,
    /// The processor, as QEMU names it.
    pub processor: String,
    /// Where the image starts.
    pub level: StartLevel,
    /// Whether the first serial port is QEMU's standard input and output, and not the Unix socket
    /// [`Board::CONSOLE_SOCKET`].
    pub has_console: bool,
    /// Whether there is a second serial port.
    pub has_debug_link: bool,
    /// Changes the device tree that QEMU makes.
    pub change_tree: Option<fn(&mut Vec<u8>)>,
    /// Whether its clocks go by instructions, a nanosecond for each, and not by time. Processors then take turns.
    pub counts_instructions: bool,
    /// More arguments for QEMU.
    pub more: Vec<String>,
}

impl Board {
    /// The newest processor that QEMU has. It signs pointers by an algorithm of QEMU's own: the architecture's takes
    /// QEMU longer than all else.
    pub const PROCESSOR: &str = "max,pauth-impdef=on";
    /// The name of the debug link's socket in a board's directory.
    pub const DEBUG_SOCKET: &str = "debug";
    /// The name of the first serial port's socket in a board's directory, where it is no console.
    pub const CONSOLE_SOCKET: &str = "console";
    /// The name of the socket of QEMU's monitor (QMP) in a board's directory.
    pub const MONITOR: &str = "monitor";

    /// A board with one processor, 512 MiB of memory and `GICv3` that starts an image at EL2.
    #[must_use]
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            initrd: None,
            command_line: String::new(),
            cpus: 1,
            memory_mib: 512,
            gic: Gic::V3,
            processor: Self::PROCESSOR.to_owned(),
            level: StartLevel::El2,
            has_console: true,
            has_debug_link: true,
            change_tree: None,
            counts_instructions: false,
            more: Vec::new(),
        }
    }

    /// The command that runs it, with its sockets in `directory`. It ends when the board is switched off or reset.
    ///
    /// # Errors
    /// [`MachineError::NotSetUp`] when there is no QEMU for it; [`MachineError::File`] when its device tree cannot
    /// be had.
    pub fn command(
        &self,
        environment: &Environment,
        directory: &Path,
    ) -> Result<Command, MachineError> {
        let socket = |name: &str| {
            let path = directory.join(name);
            format!("path={},server=on,wait=off", path.display())
        };
        let mut command = self.computer(environment, "")?;
        let console = if self.has_console {
            "stdio,id=console,signal=off".to_owned()
        } else {
            format!("socket,id=console,{}", socket(Self::CONSOLE_SOCKET))
        };
        command.args(["-chardev", &console, "-serial", "chardev:console"]);
        if self.has_debug_link {
            command
                .arg("-chardev")
                .arg(format!("socket,id=debug,{}", socket(Self::DEBUG_SOCKET)))
                .args(["-serial", "chardev:debug"]);
        }
        command
            .arg("-chardev")
            .arg(format!("socket,id=monitor,{}", socket(Self::MONITOR)))
            .args(["-mon", "chardev=monitor,mode=control"])
            .arg("-kernel")
            .arg(&self.image);
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        if !self.command_line.is_empty() {
            command.args(["-append", &self.command_line]);
        }
        if let Some(change) = self.change_tree {
            let tree = directory.join("tree");
            self.write_tree(environment, &tree, change)?;
            command.arg("-dtb").arg(tree);
        }
        Ok(command)
    }

    /// The computer without its devices. `more` is for its option `-machine`.
    fn computer(&self, environment: &Environment, more: &str) -> Result<Command, MachineError> {
        let gic = match self.gic {
            Gic::V2 => 2,
            Gic::V3 => 3,
        };
        let has_el2 = match self.level {
            StartLevel::El1 => "off",
            StartLevel::El2 => "on",
        };
        let threads = if self.counts_instructions {
            "tcg,thread=single"
        } else {
            "tcg,thread=multi"
        };
        let mut command = Command::new(environment.qemu_arm64()?);
        command
            .args("-nodefaults -no-user-config -display none -no-reboot".split(' '))
            .args(["-accel", threads, "-cpu", &self.processor])
            .arg("-machine")
            .arg(format!(
                "virt,virtualization={has_el2},gic-version={gic}{more}"
            ))
            .args(["-smp", &self.cpus.to_string()])
            .args(["-m", &format!("{}M", self.memory_mib)]);
        if self.counts_instructions {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        command.args(&self.more);
        Ok(command)
    }

    /// Has QEMU write its device tree to `path`, and changes that.
    fn write_tree(
        &self,
        environment: &Environment,
        path: &Path,
        change: fn(&mut Vec<u8>),
    ) -> Result<(), MachineError> {
        let mut command = self.computer(environment, &format!(",dumpdtb={}", path.display()))?;
        command.args("-serial null -serial null".split(' '));
        let failed = |source| MachineError::File {
            path: path.to_owned(),
            source,
        };
        command.output().map_err(failed)?;
        let mut tree = std::fs::read(path).map_err(failed)?;
        trim(&mut tree);
        change(&mut tree);
        std::fs::write(path, tree).map_err(failed)
    }
}

/// Takes the room at the end off a device tree: QEMU gives trees twice the room that they come with, and no kernel
/// takes one of more than 2 MiB. What lies last are the strings (Devicetree Specification, "Header").
fn trim(tree: &mut Vec<u8>) {
    let word = |at: usize| {
        let bytes = tree.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    };
    let Some(end) = word(12).zip(word(32)).map(|(start, len)| start + len) else {
        return;
    };
    tree.truncate(end);
    let len = u32::try_from(tree.len()).unwrap_or(u32::MAX);
    if let Some(total) = tree.get_mut(4..8) {
        total.copy_from_slice(&len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boards_command_has_its_parts() {
        let mut environment = Environment::default();
        environment.set_qemu_arm64("/qemu".into());
        let mut board = Board::new("/image");
        board.gic = Gic::V2;
        board.level = StartLevel::El1;
        board.command_line = "one two".to_owned();
        board.more = vec!["-more".to_owned()];
        let command = board.command(&environment, Path::new("/d")).unwrap();
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_str().unwrap())
            .collect();
        for expected in [
            "virt,virtualization=off,gic-version=2",
            "socket,id=debug,path=/d/debug,server=on,wait=off",
            "/image",
            "one two",
            "-more",
        ] {
            assert!(arguments.contains(&expected), "{arguments:?}");
        }
        assert!(!arguments.contains(&"-initrd"));
        assert!(!arguments.contains(&"-icount"));
    }

    #[test]
    fn a_board_that_counts_instructions_has_one_thread() {
        let mut environment = Environment::default();
        environment.set_qemu_arm64("/qemu".into());
        let mut board = Board::new("/image");
        board.counts_instructions = true;
        let command = board.command(&environment, Path::new("/d")).unwrap();
        for expected in ["tcg,thread=single", "shift=0,sleep=off"] {
            assert!(command.get_args().any(|argument| argument == expected));
        }
    }

    #[test]
    fn a_board_without_qemu_says_so() {
        let board = Board::new("/image");
        let error = board.command(&Environment::default(), Path::new("/d"));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("TRAPLINE_QEMU_ARM64")
        );
    }
}
