//! Types and services of `proto/`, compiled without a `protoc`.

use std::error::Error;

const PROTOS: [&str; 2] = ["proto/demand.proto", "proto/externalscaler.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
