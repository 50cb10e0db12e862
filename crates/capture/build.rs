//! Compiles the kernel programs and generates their Rust side.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
};

use libbpf_cargo::SkeletonBuilder;

const PROBES: [&str; 9] =
    ["nginx", "process", "network", "connection", "attempt", "socket", "hold", "yardstick", "balancer"];

/// What is in pinned maps, by the files that declare it.
const LAYOUTS: [(&str, &str); 2] =
    [("NETWORK_LAYOUT", "bpf/network.h"), ("CONNECTION_LAYOUT", "bpf/connection.h")];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let (target, include) = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => ("x86", ["/usr/include/x86_64-linux-gnu", "/usr/x86_64-linux-gnu/include"]),
        "aarch64" => ("arm64", ["/usr/include/aarch64-linux-gnu", "/usr/aarch64-linux-gnu/include"]),
        other => {
            return Err(format!("no kernel programs for {other}: x86_64 and aarch64 are supported").into());
        }
    };
    // The kernel's headers by architecture: the machine's own, else what Debian has for compiling for another.
    let include =
        include.into_iter().find(|dir| Path::new(dir).join("asm/types.h").exists()).unwrap_or(include[0]);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang-16".to_owned());
    for (name, file) in LAYOUTS {
        println!("cargo::rustc-env={name}={}", fnv(&std::fs::read(file)?));
    }
    for probe in PROBES {
        let target = format!("-D__TARGET_ARCH_{target}");
        SkeletonBuilder::new()
            .source(format!("bpf/{probe}.bpf.c"))
            .clang(&clang)
            .clang_args([&target, &format!("-I{include}"), "-mcpu=v3", "-Wall", "-Werror"])
            .build_and_generate(out.join(format!("{probe}.skel.rs")))
            .map_err(|error| {
                format!("bpf/{probe}.bpf.c: {error:?}\n{clang} is needed: `make setup` installs it; CLANG names another")
            })?;
    }
    Ok(())
}

/// FNV-1a, 64 bits: the same for everybody who builds the same file.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
