//! What `build.rs` generated from `bpf/`.

macro_rules! skeleton {
    ($name:ident) => {
        #[allow(
            clippy::all,
            clippy::pedantic,
            clippy::restriction,
            unsafe_code,
            missing_docs,
            elided_lifetimes_in_paths,
            single_use_lifetimes
        )]
        pub(crate) mod $name {
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".skel.rs"));
        }
    };
}

skeleton!(nginx);
skeleton!(process);
skeleton!(network);
skeleton!(connection);
skeleton!(attempt);
skeleton!(hold);
skeleton!(socket);
skeleton!(yardstick);
skeleton!(balancer);
