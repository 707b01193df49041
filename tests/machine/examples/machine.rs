//! Boots an emulated machine with the given programs in `/`, runs a command in it and prints what it says.
//!
//! ```text
//! cargo run -p trapline-test-machine --example machine -- [--arm64] 'COMMAND' [PROGRAM]…
//! ```

use core::{error::Error, time::Duration};
use std::{env, path::Path, process::ExitCode, time::Instant};

use trapline_test_machine::{Architecture, Environment, Machine, MachineOptions};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = env::args().skip(1).peekable();
    let architecture = match arguments.next_if(|argument| argument == "--arm64") {
        Some(_) => Architecture::Arm64,
        None => Architecture::X86_64,
    };
    let command = arguments
        .next()
        .ok_or("usage: machine [--arm64] COMMAND [PROGRAM]...")?;
    let mut options = MachineOptions::of(architecture);
    for program in arguments {
        let name = Path::new(&program)
            .file_name()
            .ok_or("a program has no file name")?;
        options = options.file(&format!("/{}", name.display()), &program);
    }
    let start = Instant::now();
    let machine = Machine::boot(&Environment::load(), &options)?;
    eprintln!("booted in {:?}", start.elapsed());
    let output = machine.run(&command, Duration::from_secs(600))?;
    print!("{}", output.text());
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Ok(ExitCode::from(u8::try_from(output.status)?))
}
