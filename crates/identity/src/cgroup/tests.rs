use super::*;

const ID: &str = "4b5f1a0e1d8a3c0e9f7b6a5d4c3b2a19080706050403020100ffeeddccbbaa99";
const OTHER: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
const FLAT: &str = "0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0";
const STATIC: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";

/// What the letters in a path stand for: `C` container, `D` another, `U` UID, `F` the same with `_`, `S` a static pod's.
fn path(shape: &str) -> String {
    [("{C}", ID), ("{D}", OTHER), ("{U}", UID), ("{F}", FLAT), ("{S}", STATIC)]
        .iter()
        .fold(shape.to_owned(), |path, (letter, value)| path.replace(letter, value))
}

#[test]
fn every_shape_of_path_names_its_pod_and_container() {
    let shapes = [
        // Kubelet with the cgroupfs driver, v1 and v2: containerd, dockershim, CRI-O.
        ("/kubepods/besteffort/pod{U}/{C}", true, true),
        ("/kubepods/burstable/pod{U}/{C}", true, true),
        ("/kubepods/pod{U}/{C}", true, true),
        ("/kubepods/pod{U}/crio-{C}", true, true),
        ("/kubepods/besteffort/pod{S}/{C}", true, true),
        // With systemd's.
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{F}.slice/cri-containerd-{C}.scope",
            true,
            true,
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{F}.slice/docker-{C}.scope",
            true,
            true,
        ),
        ("/kubepods.slice/kubepods-pod{F}.slice/crio-{C}.scope", true, true),
        ("/kubepods.slice/kubepods-pod{F}.slice/crio-{C}.scope/container", true, true),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{S}.slice/cri-containerd-{C}.scope",
            true,
            true,
        ),
        // Below the container's own: an init system, a delegated group.
        ("/kubepods.slice/kubepods-pod{F}.slice/cri-containerd-{C}.scope/init.scope", true, true),
        ("/kubepods/pod{U}/{C}/system.slice/nginx.service", true, true),
        // Docker inside of a pod: the API knows the outer one.
        ("/kubepods/pod{U}/{C}/docker/{D}", true, true),
        // The kubelet thinks systemd, containerd does not.
        ("/system.slice/containerd.service/kubepods-besteffort-pod{F}.slice:cri-containerd:{C}", true, true),
        ("/kubepods-burstable-pod{F}.slice:cri-containerd:{C}", true, true),
        // kind, k3d: a cluster in a container.
        ("/docker/{D}/kubelet/kubepods/besteffort/pod{U}/{C}", true, true),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{F}.slice/cri-containerd-{C}.scope",
            true,
            true,
        ),
        (
            "/system.slice/docker-{D}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{F}.slice/cri-containerd-{C}.scope",
            true,
            true,
        ),
        // A cluster in a pod of a cluster.
        ("/kubepods/pod00000000-0000-0000-0000-000000000001/{D}/kubelet/kubepods/pod{U}/{C}", true, true),
        // Seen from within a namespace of control groups.
        ("/../../pod{U}/{C}", true, true),
        ("/../cri-containerd-{C}.scope", false, true),
        // The pod's own group: its sandbox's processes on some runtimes.
        ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{F}.slice", true, false),
        // The runtime's own process beside the container is none of it.
        ("/kubepods.slice/kubepods-pod{F}.slice/crio-conmon-{C}.scope", true, false),
        ("/machine.slice/libpod-conmon-{C}.scope", false, false),
        // No Kubernetes.
        ("/docker/{C}", false, true),
        ("/docker/{D}/docker/{C}", false, true),
        ("/system.slice/docker-{C}.scope", false, true),
        ("/machine.slice/libpod-{C}.scope/container", false, true),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{C}.scope", false, true),
        ("/ecs/4e1f8c9a7b6d/{C}", false, true),
        ("/default/{C}", false, true),
        ("/system.slice/containerd.service", false, false),
        ("/system.slice/kubelet.service", false, false),
        ("/user.slice/user-0.slice/session-1.scope", false, false),
        ("/", false, false),
        ("", false, false),
    ];
    let (uid, flat, of_static) = (Uid::parse(UID), Uid::parse(FLAT), Uid::parse(STATIC));
    assert!(uid.is_some() && uid == flat && of_static.is_some());
    for (shape, pod, container) in shapes {
        let origin = Origin::of_path(&path(shape));
        let wanted = if shape.contains("{S}") { of_static } else { uid };
        assert_eq!(origin.pod, wanted.filter(|_| pod), "{shape}");
        assert_eq!(origin.container, ContainerId::parse(ID).filter(|_| container), "{shape}");
        assert_eq!(container_of(&path(shape)), origin.container, "{shape}");
        assert_eq!(origin.is_host(), !pod && !container, "{shape}");
    }
}

#[test]
fn a_process_is_in_the_first_hierarchy_that_names_a_container() {
    let v2 = path("0::/kubepods.slice/kubepods-pod{F}.slice/cri-containerd-{C}.scope\n");
    let v1 = path(
        "12:rdma:/\n11:cpuset:/kubepods/besteffort/pod{U}\n10:memory:/kubepods/besteffort/pod{U}/{C}\n\
         1:name=systemd:/kubepods/besteffort/pod{U}/{D}\n0::/system.slice/containerd.service\n",
    );
    let colon = path("10:memory:/system.slice/containerd.service/kubepods-pod{F}.slice:cri-containerd:{C}\n");
    for text in [v2, v1, colon] {
        let origin = Origin::of_process(&text);
        assert_eq!(origin.pod, Uid::parse(UID), "{text}");
        assert_eq!(origin.container, ContainerId::parse(ID), "{text}");
    }
    let only_pod = Origin::of_process(&path("3:cpu:/\n2:memory:/kubepods/pod{U}\n"));
    assert_eq!((only_pod.pod, only_pod.container), (Uid::parse(UID), None));
    assert!(Origin::of_process("0::/init.scope\n").is_host());
}

#[test]
fn what_is_no_id_is_none() {
    for text in ["", "containerd://", "abc", &ID[1..], &format!("{ID}0"), &ID.replace('4', "g"), "é"] {
        assert_eq!(ContainerId::parse(text), None, "{text}");
    }
    for text in ["", "0f1e2d3c-4b5a-6978-8796", &UID[1..], &format!("{UID}0"), "bernetes", "é"] {
        assert_eq!(Uid::parse(text), None, "{text}");
    }
    assert_eq!(ContainerId::parse(&format!("containerd://{ID}")), ContainerId::parse(ID));
    assert_eq!(ContainerId::parse(ID).unwrap().to_string(), ID);
    assert_eq!(Uid::parse(FLAT).unwrap().to_string(), UID);
}

proptest::proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "\\PC{0,200}", shape in "[/:{CDUFS}a-z.-]{0,80}") {
        let _any = (Origin::of_path(&text), Origin::of_process(&text), Origin::of_path(&path(&shape)));
    }
}
