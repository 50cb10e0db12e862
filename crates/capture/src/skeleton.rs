//! What `build.rs` generated from `bpf/`.

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unsafe_code,
    missing_docs,
    elided_lifetimes_in_paths,
    single_use_lifetimes
)]
pub(crate) mod nginx {
    include!(concat!(env!("OUT_DIR"), "/nginx.skel.rs"));
}

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unsafe_code,
    missing_docs,
    elided_lifetimes_in_paths,
    single_use_lifetimes
)]
pub(crate) mod process {
    include!(concat!(env!("OUT_DIR"), "/process.skel.rs"));
}
