//! Links the bare-metal image by its own script.

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    println!("cargo::rerun-if-changed=src/machine/entry.S");
    println!("cargo::rerun-if-changed=src/machine/vectors.S");
    let is_bare = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if is_bare {
        let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for argument in [
            format!("-T{directory}/link.ld"),
            "-pie".into(),
            "--no-dynamic-linker".into(),
            "-znotext".into(),
            "--build-id=none".into(),
            "--no-undefined".into(),
        ] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
