//! `bpf/balancer.bpf.c`: a socket load balancer that attempts are tried behind. For tests.

use std::{fs::File, mem::MaybeUninit, net::SocketAddrV4, os::fd::AsRawFd as _, path::Path};

use libbpf_rs::{
    Link, MapCore as _, MapFlags,
    skel::{OpenSkel, SkelBuilder},
};

use crate::{
    CaptureError,
    skeleton::balancer::{BalancerSkel, BalancerSkelBuilder},
    values::map_error,
    verifier,
};

/// The loaded program.
pub struct Balancer {
    skel: BalancerSkel<'static>,
    link: Option<Link>,
}

impl Balancer {
    /// Loads it.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn load() -> Result<Self, CaptureError> {
        verifier::listen();
        let load = verifier::load_error("balancer");
        // libbpf's object must stay where it is for the program's life, which is the process's.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let open = BalancerSkelBuilder::default().open(storage).map_err(load)?;
        Ok(Self { skel: open.load().map_err(load)?, link: None })
    }

    /// Attaches it to a control group and those below.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn attach(&mut self, cgroup: &Path) -> Result<(), CaptureError> {
        let open = |source| CaptureError::Os { action: "open the control group", source };
        let directory = File::open(cgroup).map_err(open)?;
        let attach = verifier::load_error("balancer");
        self.link =
            Some(self.skel.progs.balancer_connect4.attach_cgroup(directory.as_raw_fd()).map_err(attach)?);
        Ok(())
    }

    /// What a Service's address stands for; `None`: it has no endpoint, and connects fail with EPERM.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn service(&self, service: SocketAddrV4, endpoint: Option<SocketAddrV4>) -> Result<(), CaptureError> {
        let target = |address: SocketAddrV4| {
            let mut bytes = [0; 8];
            let (ip, port) = bytes.split_at_mut(4);
            ip.copy_from_slice(&address.ip().octets());
            for (to, from) in port.iter_mut().zip(address.port().to_be_bytes()) {
                *to = from;
            }
            bytes
        };
        let endpoint = endpoint.map_or([0; 8], target);
        let services = &self.skel.maps.balancer_services;
        services.update(&target(service), &endpoint, MapFlags::ANY).map_err(map_error("set a Service"))
    }
}
