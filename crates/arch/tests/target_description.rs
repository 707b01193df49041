//! Target descriptions as clients get them: recorded, and read by the real GDB.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{self, Command},
};

use trapline_arch::{FeatureSet, Layout, LayoutKind};
use trapline_test_machine::{Environment, this_did_not_run};

fn layouts() -> [(&'static str, Layout); 7] {
    let all = FeatureSet::all();
    let none = FeatureSet::empty();
    [
        ("x86_64", Layout::new(LayoutKind::X86_64, all)),
        ("x86_64-plain", Layout::new(LayoutKind::X86_64, none)),
        ("i386", Layout::new(LayoutKind::I386, all)),
        ("i386-plain", Layout::new(LayoutKind::I386, none)),
        ("aarch64-plain", Layout::new(LayoutKind::Aarch64, none)),
        (
            "aarch64",
            Layout::new(LayoutKind::Aarch64, ARM.with_debug_slots(6, 4)),
        ),
        (
            "aarch64-sve",
            Layout::new(LayoutKind::Aarch64, ARM.with_sve(4)),
        ),
    ]
}

/// What an Arm processor of today has, without SVE.
const ARM: FeatureSet = FeatureSet::PAUTH
    .union(FeatureSet::MTE)
    .union(FeatureSet::TCR2)
    .union(FeatureSet::S1PIE);

/// Compares `actual` with the recorded file, or records it if `TRAPLINE_RECORD` is set.
fn assert_recorded(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(file);
    if env::var_os("TRAPLINE_RECORD").is_some() {
        fs::write(&path, actual).unwrap();
    }
    let recorded = fs::read_to_string(&path).unwrap();
    assert!(
        recorded == actual,
        "{file} differs; record it anew with TRAPLINE_RECORD=1"
    );
}

#[test]
fn target_descriptions_are_as_recorded() {
    for (name, layout) in layouts() {
        assert_recorded(&format!("{name}.xml"), &layout.target_xml());
    }
}

#[test]
fn register_information_is_as_recorded() {
    for (name, layout) in layouts() {
        let mut replies = String::new();
        for reply in (0..).map_while(|number| layout.register_info(number)) {
            replies.push_str(&reply);
            replies.push('\n');
        }
        assert_recorded(&format!("{name}.register-info"), &replies);
    }
}

/// Writes a layout's target description where GDB can read it.
fn write(name: &str, layout: &Layout) -> PathBuf {
    let pid = process::id();
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{pid}.xml"));
    fs::write(&path, layout.target_xml()).unwrap();
    path
}

/// Returns the command that starts a GDB which knows the layout's architecture. Debian's `gdb` knows
/// that of the computer alone.
fn gdb_for(kind: LayoutKind) -> PathBuf {
    match kind {
        LayoutKind::X86_64 | LayoutKind::I386 => {
            let environment = Environment::load();
            environment.gdb().unwrap_or(Path::new("gdb")).to_owned()
        }
        LayoutKind::Aarch64 => PathBuf::from("gdb-multiarch"),
    }
}

/// Runs GDB over a target description. Yields what GDB says, or `None`, which is recorded, where
/// there is no GDB.
fn gdb(kind: LayoutKind, xml: &Path, commands: &[&str]) -> Option<String> {
    let program = gdb_for(kind);
    let mut gdb = Command::new(&program);
    gdb.args(["-nx", "-batch", "-ex"])
        .arg(format!("set tdesc filename {}", xml.display()));
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = match gdb.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            this_did_not_run(&format!("there is no {}", program.display()));
            return None;
        }
        output => output.unwrap(),
    };
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.is_empty(), "{}: {errors}", xml.display());
    Some(String::from_utf8(output.stdout).unwrap())
}

/// What GDB makes of a register.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    size: usize,
    number: u32,
    g_offset: usize,
}

/// Reads GDB's table of remote registers. A row has name, GDB's number, relative number, offset,
/// size, type, remote number and offset in the `g` packet.
fn rows(table: &str) -> Vec<Row> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, _, _, _, size, _, number, g_offset] = fields.as_slice() else {
            return None;
        };
        Some(Row {
            name: (*name).to_owned(),
            size: size.parse().ok()?,
            number: number.parse().ok()?,
            g_offset: g_offset.parse().ok()?,
        })
    };
    table.lines().filter_map(row).collect()
}

#[test]
fn gdb_takes_every_register_where_the_layout_has_it() {
    for (name, layout) in layouts() {
        let commands = ["show architecture", "maint print remote-registers"];
        let Some(table) = gdb(layout.kind(), &write(name, &layout), &commands) else {
            continue;
        };
        let architecture = format!("currently \"{}\"", layout.kind().gdb_architecture());
        assert!(table.contains(&architecture), "{name}: {table}");
        let rows = rows(&table);
        assert_eq!(rows.len(), layout.len(), "{name}");
        for entry in layout.entries() {
            let expected = Row {
                name: entry.view.name.to_owned(),
                size: entry.len_bytes(),
                number: entry.number,
                g_offset: entry.offset_bytes,
            };
            let row = rows.iter().find(|row| row.name == expected.name);
            assert_eq!(row, Some(&expected), "{name}");
        }
    }
}

/// GDB makes `ymm0`, `zmm31` and `eax` itself if it has recognised the features they are made of.
#[test]
fn gdb_builds_its_pseudo_registers() {
    for (name, layout) in layouts() {
        let commands = ["maint print registers"];
        let Some(table) = gdb(layout.kind(), &write(name, &layout), &commands) else {
            continue;
        };
        let has = |register: &str| {
            table
                .lines()
                .any(|line| line.split_whitespace().next() == Some(register))
        };
        if layout.kind() == LayoutKind::Aarch64 {
            for register in ["q31", "d0", "s7", "h3", "b30", "v0", "w5"] {
                assert!(has(register), "{name}: {register}");
            }
            assert_eq!(has("z31"), name == "aarch64-sve", "{name}");
            continue;
        }
        assert!(has("ax"), "{name}");
        assert_eq!(has("ymm0"), name == "x86_64" || name == "i386", "{name}");
        assert_eq!(has("zmm31"), name == "x86_64", "{name}");
        assert_eq!(has("zmm7"), name == "x86_64" || name == "i386", "{name}");
    }
}
