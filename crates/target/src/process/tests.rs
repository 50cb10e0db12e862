use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::*;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Runs a copy of a program under a name that no gateway on this machine has.
fn run(dir: &Path, program: &str, name: &str, title: &str, arguments: &[&str]) -> Running {
    let copy = dir.join(name);
    if !copy.exists() {
        fs::copy(program, &copy).unwrap();
    }
    Running(Command::new(copy).arg0(title).args(arguments).stdin(Stdio::null()).spawn().unwrap())
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn names(name: &str) -> Vec<String> {
    vec!["nothing-else".to_owned(), name.to_owned()]
}

fn root() -> ProcRoot {
    ProcRoot::new("/proc")
}

#[test]
fn this_process_is_found_by_its_name_and_its_program() {
    let pid = std::process::id();
    let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
    let exe = std::env::current_exe().unwrap();
    // The kernel keeps 15 bytes of a name; the program's is whole.
    assert!(stat.comm.len() <= 15);
    for name in [stat.comm.as_str(), exe.file_name().unwrap().to_str().unwrap()] {
        let found = root().gateway_at(pid, &names(name)).expect(name);
        assert_eq!(
            (found.pid, found.parent, found.began),
            (pid, std::os::unix::process::parent_id(), stat.starttime)
        );
        assert!(!found.is_worker);
        assert!(root().gateways(&names(name)).contains(&found));
    }
    assert_eq!(root().gateway_at(pid, &names("gatewatch-none")), None);
    assert_eq!(root().gateway_at(pid, &[]), None);
    assert_eq!(root().gateway_at(u32::MAX, &names(&stat.comm)), None);
    assert_eq!(root().exe(pid), Path::new("/proc").join(pid.to_string()).join("exe"));
}

#[test]
fn titles_tell_master_and_worker() {
    let dir = tempfile::tempdir().unwrap();
    let check = |title: &str, expected: bool| {
        let running = run(dir.path(), "/bin/sleep", "gwtest-gate", title, &["60"]);
        // Until it runs the copy, it is still a fork of this process.
        let found = wait_for(title, || {
            root()
                .gateway_at(running.0.id(), &names("gwtest-gate"))
                .filter(|found| found.title.starts_with(title.trim()))
        });
        assert_eq!(found.is_worker, expected, "{title:?}");
        assert_eq!(found.title, format!("{title} 60"), "as it titles itself");
        assert_eq!(found.parent, std::process::id());
        assert_eq!(root().master_of(&found, &names("gwtest-gate")), found, "its parent is no gateway");
        let rules = [
            NameRule { matches: "no such".to_owned(), name: "wrong".to_owned() },
            NameRule { matches: "60".to_owned(), name: "mine".to_owned() },
            NameRule { matches: title.to_owned(), name: "late".to_owned() },
        ];
        assert_eq!(root().instance_name(&found, &rules), "mine", "the first rule that fits");
        let product = if title.contains("kong") { "kong" } else { "nginx" };
        assert_eq!(root().instance_name(&found, &rules[..1]), format!("{product}:pid-{}", found.pid));
    };
    check("nginx: worker process", true);
    check("nginx: cache manager process", true);
    check("nginx: worker process is shutting down", true);
    check("nginx: master process /usr/sbin/nginx -p /usr/local/kong", false);
    check("/usr/sbin/nginx", false);
}

#[test]
fn the_master_is_the_parent_of_a_worker() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy("/bin/sleep", dir.path().join("gwtest-child")).unwrap();
    let script = format!("(exec -a 'nginx: worker process' {}/gwtest-child 60) & wait", dir.path().display());
    let master = run(dir.path(), "/bin/bash", "gwtest-bash", "nginx: master process x", &["-c", &script]);
    let names = ["gwtest-bash".to_owned(), "gwtest-child".to_owned()];
    let worker = wait_for("the worker", || {
        root().gateways(&names).into_iter().find(|found| found.parent == master.0.id() && found.is_worker)
    });
    let found = root().master_of(&worker, &names);
    assert_eq!((found.pid, found.is_worker), (master.0.id(), false));
    assert_eq!(root().master_of(&found, &names), found, "a master is its own");
    assert_eq!(root().master_of(&worker, &names[1..]), worker, "a parent that is no gateway is no master");
    // The worker outlives a master that is killed.
    let worker_pid = worker.pid.to_string();
    drop(master);
    crate::testing::run("kill", &[&worker_pid]);
}

#[test]
fn an_instance_is_named_by_its_lowest_port() {
    // Listening here, so that the ports are this process's.
    let sockets: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let sockets6 = std::net::TcpListener::bind("[::1]:0").ok();
    let ports = sockets.iter().chain(&sockets6).map(|socket| socket.local_addr().unwrap().port());
    let lowest = ports.min().unwrap();
    let exe = std::env::current_exe().unwrap();
    let name = exe.file_name().unwrap().to_str().unwrap();
    let found = root().gateway_at(std::process::id(), &names(name)).unwrap();
    assert_eq!(root().instance_name(&found, &[]), format!("nginx:{lowest}"));
}

#[test]
fn a_process_is_alive_by_its_number_and_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = run(dir.path(), "/bin/sleep", "gwtest-alive", "x", &["60"]);
    let pid = running.0.id();
    let found = wait_for("it", || root().gateway_at(pid, &names("gwtest-alive")));
    assert!(root().is_alive(pid, found.began));
    assert!(!root().is_alive(pid, found.began + 1), "another process got the number");
    assert!(!root().is_alive(pid, 0));
    assert!(!root().is_alive(u32::MAX, found.began));
    running.0.kill().unwrap();
    // Not waited for: a zombie is not alive, and no gateway either.
    wait_for("its end", || (!root().is_alive(pid, found.began)).then_some(()));
    assert!(Path::new("/proc").join(pid.to_string()).exists());
    assert_eq!(root().gateway_at(pid, &names("gwtest-alive")), None);
}

#[test]
fn a_program_that_was_replaced_is_found_by_its_old_name() {
    let dir = tempfile::tempdir().unwrap();
    // Longer than a process's name can be, so that only the program's file tells.
    let name = "gwtest-a-long-name";
    let running = run(dir.path(), "/bin/sleep", name, "x", &["60"]);
    wait_for("it", || root().gateway_at(running.0.id(), &names(name)));
    fs::remove_file(dir.path().join(name)).unwrap();
    assert!(root().gateway_at(running.0.id(), &names(name)).is_some());
}

#[test]
fn seccomp_is_as_the_kernel_says() {
    let pid = std::process::id();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    assert_eq!(root().has_seccomp_filter(pid), mode.map(|mode| mode == "2"));
    assert_eq!(root().has_seccomp_filter(u32::MAX), None);
}

#[test]
fn programs_mapped_are_those_of_maps() {
    let pid = std::process::id();
    let mapped = root().mapped_programs(pid);
    let exe = fs::read_link("/proc/self/exe").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let first = maps.lines().find(|line| line.ends_with(exe.to_str().unwrap())).unwrap();
    let base = u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap();
    assert_eq!(mapped.get(&exe), Some(&base));
    assert!(mapped.keys().any(|path| path.to_string_lossy().contains("libc.so")), "{mapped:?}");
    assert!(mapped.keys().all(|path| path.is_absolute()));
    assert!(root().mapped_programs(u32::MAX).is_empty());
}

#[test]
fn a_procfs_that_is_none_has_no_gateways() {
    let dir = tempfile::tempdir().unwrap();
    let root = ProcRoot::new(dir.path());
    assert_eq!(root.path(), dir.path());
    assert!(root.gateways(&names("nginx")).is_empty());
    assert_eq!(root.gateway_at(1, &names("nginx")), None);
    assert_eq!(root.pid_namespace(), 0xefff_fffc, "the first namespace, for want of a better answer");
    assert!(ProcRoot::new(dir.path().join("gone")).gateways(&names("nginx")).is_empty());
    let own = fs::metadata("/proc/self/ns/pid").unwrap().st_ino();
    assert_eq!(u64::from(super::ProcRoot::new("/proc").pid_namespace()), own);
}
