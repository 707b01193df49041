//! The shared libraries a program needs, so that it runs in a machine that has none.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::MachineError;

/// The program interpreter and libraries that `program` loads, as absolute paths; none for a static program.
///
/// # Errors
/// [`MachineError::Program`] when `ldd` cannot be run or a library is missing.
pub fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let failed = |reason: String| MachineError::Program {
        program: format!("ldd {}", program.display()),
        reason,
    };
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        // A static program is reported by exit status 1 and this message.
        let message = String::from_utf8_lossy(&output.stderr);
        if message.contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        return Err(failed(message.trim().to_owned()));
    }
    parse(&String::from_utf8_lossy(&output.stdout)).map_err(failed)
}

/// Reads lines of the forms `name => /path (0x…)`, `/path (0x…)` and `linux-vdso.so.1 (0x…)`.
fn parse(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.contains("=> not found") {
            return Err(line.to_owned());
        }
        let location = line
            .split_once("=> ")
            .map_or(line, |(_, location)| location);
        if let Some(path) = location
            .split(" (")
            .next()
            .filter(|path| path.starts_with('/'))
        {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_line_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\
                    \tstatically linked\n";
        let paths = parse(text).unwrap();
        assert_eq!(
            paths,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn a_missing_library_is_named() {
        assert_eq!(
            parse("\tlibx.so.1 => not found\n"),
            Err("libx.so.1 => not found".to_owned())
        );
    }
}
