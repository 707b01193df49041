//! `trapline symbols`: the guest kernel's symbols as a file.

mod image;

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use object::{Object as _, ObjectSymbol as _};
use trapline_server::ListenAddress;

use crate::client::{Client, ClientError, gdb_target, lldb_command, parse_address};
use crate::shell::only_server;

/// Options of `trapline symbols`.
#[derive(Args, Debug)]
pub(crate) struct SymbolsArguments {
    /// Where the server listens: unix:PATH, tcp:HOST:PORT, or just a path [default: your server, if
    /// there is one]
    #[arg(value_name = "ADDRESS", value_parser = parse_address)]
    address: Option<ListenAddress>,
    /// Take the symbols from the file of the kernel that runs, an arm64 Linux Image, for a server at the end of a
    /// slow serial line: one in a hypervisor
    #[arg(long, value_name = "IMAGE")]
    kernel: Option<PathBuf>,
    /// Where to write the symbols, as an ELF file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Writes the file and says how to use it.
///
/// # Errors
/// A text for the user.
pub(crate) fn main(arguments: &SymbolsArguments) -> anyhow::Result<ExitCode> {
    let address = match &arguments.address {
        Some(address) => address.clone(),
        None => only_server(&crate::runtime_folder())?,
    };
    let mut client = Client::connect(&address, |_| {})?;
    let content = match &arguments.kernel {
        Some(kernel) => {
            let file = fs::read(kernel)
                .with_context(|| format!("{}: cannot read it", kernel.display()))?;
            image::read(&mut client, &file).with_context(|| kernel.display().to_string())?
        }
        None => read(&mut client)?,
    };
    let count = symbol_count(&content)?;
    let system = system(&mut client)?;
    write(&arguments.output, &content)
        .with_context(|| format!("{}: cannot write it", arguments.output.display()))?;
    let file = arguments.output.display();
    println!(
        "{file}: {count} symbols of {system}, where they are since this boot\n  \
         gdb {file} -ex 'target remote {}'\n  lldb {file} -o '{}'",
        gdb_target(&address),
        lldb_command(&address)
    );
    Ok(ExitCode::SUCCESS)
}

fn read(client: &mut Client) -> anyhow::Result<Vec<u8>> {
    let path = match client.exec_file() {
        Ok(path) => path,
        Err(ClientError::Refused { text }) => bail!(
            "there are no symbols: {text}; Linux shows them once it has begun to boot, if it was \
             built with CONFIG_KALLSYMS ('trapline shell -c symbols' says more)"
        ),
        Err(error) => return Err(error.into()),
    };
    Ok(client.read_file(&path)?)
}

/// Returns how many symbols there are, and so makes sure that the file is whole.
fn symbol_count(content: &[u8]) -> anyhow::Result<usize> {
    let file = object::File::parse(content).context("what the server sent is no ELF file")?;
    let named = file
        .symbols()
        .filter(|symbol| symbol.name_bytes().is_ok_and(|name| !name.is_empty()));
    Ok(named.count())
}

/// Returns what runs in the guest, in the server's words.
fn system(client: &mut Client) -> Result<String, ClientError> {
    let answer = client.command("symbols")?;
    let mut lines = answer.text.lines();
    let system = lines.find_map(|line| line.strip_prefix("system "));
    Ok(system.map_or("the guest's kernel", str::trim).to_owned())
}

/// Writes a file as a whole or not at all: a debugger may have the old one open.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let is_special = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    if is_special {
        return fs::write(path, content);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}
