//! Compiles the kernel programs and generates their Rust side.

use std::{env, path::PathBuf};

use libbpf_cargo::SkeletonBuilder;

const PROBES: [&str; 2] = ["nginx", "process"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target");
    let (target, include) = match arch.as_str() {
        "x86_64" => ("x86", "/usr/include/x86_64-linux-gnu"),
        "aarch64" => ("arm64", "/usr/include/aarch64-linux-gnu"),
        other => panic!("gatewatch has no kernel programs for {other}: x86_64 and aarch64 are supported"),
    };
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang-16".to_owned());
    for probe in PROBES {
        SkeletonBuilder::new()
            .source(format!("bpf/{probe}.bpf.c"))
            .clang(&clang)
            .clang_args([format!("-D__TARGET_ARCH_{target}"), format!("-I{include}"), "-mcpu=v3".into(), "-Wall".into(), "-Werror".into()])
            .build_and_generate(out.join(format!("{probe}.skel.rs")))
            .unwrap_or_else(|error| panic!("bpf/{probe}.bpf.c: {error:?}\nclang-16 is needed: `make setup` installs it, or name one in CLANG"));
    }
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
}
