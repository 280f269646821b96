//! A container with a systemd of its own, on top of this host's files: needs root, systemd-nspawn and no network.
#![allow(dead_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long systemd may take to boot, and to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the units may take to stop for a reboot.
const SHUTDOWN: Duration = Duration::from_secs(120);
/// Mounts happen in a mount namespace that ends with the container, so that nothing of them can be left behind. The
/// lowest layer is this host's root; what the container writes goes to memory.
const BOOT: &str = r#"
    layers=$1 name=$2 target=$3 binds=$4
    mount -t tmpfs container "$layers"
    mkdir "$layers/upper" "$layers/work" "$layers/root"
    mount -t overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" container "$layers/root"
    # A host's policy-rc.d keeps packages from starting their units.
    rm -f "$layers/root/usr/sbin/policy-rc.d"
    # What this host has enabled is none of the tests' business.
    rm -rf "$layers/root/etc/systemd/system/"*.wants
    while :; do
        code=0
        systemd-nspawn --quiet --directory="$layers/root" --machine="$name" --register=no --keep-unit \
            --link-journal=no --console=pipe --private-network $binds --boot -- --unit="$target" || code=$?
        # What it answers when a reboot is asked for.
        [ "$code" -eq 133 ] || exit "$code"
    done
"#;

/// A running systemd. Dropping it ends it and removes its processes, its cgroups and its files.
pub(crate) struct Container {
    name: String,
    unshare: Child,
    leader: Option<String>,
    cgroups: Cgroups,
    directory: TempDir,
}

/// What containers are called, before the process that booted them and a number.
const NAME: &str = "instance-agent-test-";
/// Where systemd-nspawn leaves a directory when it is killed.
const PROPAGATE: &str = "/run/systemd/nspawn/propagate";
static BOOTED: AtomicU32 = AtomicU32::new(0);

impl Container {
    /// Boots a systemd that has started nothing but what every systemd starts. `visible`: files of the host that shall
    /// be there although the container has its own /tmp. The thread that boots the container must outlive it.
    pub(crate) fn boot(visible: &[&Path]) -> Self {
        Self::boot_to("basic.target", visible)
    }

    /// Boots as far as this target; what is enabled inside later is started by a reboot.
    pub(crate) fn boot_to(target: &str, visible: &[&Path]) -> Self {
        check_requirements();
        // Of fixed width, so that no name is a part of another.
        let name = format!("{NAME}{}-{:04}", std::process::id(), BOOTED.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cgroups = Cgroups::make(&name);
        let unshare = spawn([&name, target], directory.path(), &cgroups.0, visible);
        let mut container = Self { name, unshare, leader: None, cgroups, directory };
        container.wait_until_booted();
        container
    }

    /// Asks for a reboot as `systemctl reboot` does it, which asks others and may lose them before they answer.
    pub(crate) fn begin_reboot(&self) {
        let reboot = ["start", "--no-block", "--job-mode=replace-irreversibly", "reboot.target"];
        let asked = self.command("systemctl").args(reboot).status().expect("running systemctl");
        assert!(asked.success(), "systemctl {reboot:?}: {asked}");
    }

    /// Returns when the reboot has begun to start units. What was written stays.
    pub(crate) fn until_rebooted(&mut self) {
        let former = Path::new("/proc").join(self.leader.take().expect("boot() waits for the leader"));
        let end = Instant::now() + SHUTDOWN;
        while former.exists() {
            assert!(Instant::now() < end, "the container does not shut down: {}", self.console());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.wait_until_booted();
    }

    /// A command inside, with the environment of this process.
    pub(crate) fn command(&self, program: &str) -> Command {
        let leader = self.leader.as_deref().expect("boot() waits for the leader");
        let mut command = Command::new("nsenter");
        command.args(["--target", leader, "--all", "--", program]);
        command
    }

    /// Where the container's file is, seen from here.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        let leader = self.leader.as_deref().expect("boot() waits for the leader");
        PathBuf::from(format!("/proc/{leader}/root{inside}"))
    }

    fn wait_until_booted(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.is_booted() {
            let over = self.unshare.try_wait().expect("waiting for systemd-nspawn");
            assert!(over.is_none() && Instant::now() < end, "the container did not boot: {}", self.console());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// systemd listens for systemctl on this socket before it starts the first unit.
    fn is_booted(&mut self) -> bool {
        self.leader = self.leader.take().or_else(|| self.find_leader());
        self.leader.is_some() && self.path("/run/systemd/private").exists()
    }

    fn find_leader(&self) -> Option<String> {
        self.process("init.scope")
    }

    /// The first process of this cgroup of the container's, by its number outside.
    pub(crate) fn process(&self, cgroup: &str) -> Option<String> {
        let file = Path::new("payload").join(cgroup).join("cgroup.procs");
        let processes = self
            .cgroups
            .0
            .iter()
            .find_map(|own| fs::read_to_string(own.join(&file)).ok().filter(|text| !text.is_empty()))?;
        processes.lines().next().map(str::to_owned)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.directory.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::remove_dir(Path::new(PROPAGATE).join(&self.name));
        self.cgroups.remove();
        // What was killed is gone a moment later.
        let left = || leftovers(&self.name, &self.directory.path().to_string_lossy());
        let end = Instant::now() + PATIENCE;
        while !left().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = left();
        assert!(left.is_empty() || std::thread::panicking(), "the container left {left:#?}");
    }
}

/// Processes, mounts, cgroups and files that still name a container or its directory.
fn leftovers(name: &str, directory: &str) -> Vec<String> {
    let processes = entries(Path::new("/proc")).into_iter().filter(|process| {
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        let cgroup = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let is_alive = !command.is_empty();
        is_alive && (command.contains(name) || command.contains(directory) || cgroup.contains(name))
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let mounts =
        mounts.lines().filter(|line| line.contains(name) || line.contains(directory)).map(str::to_owned);
    let parents = [Cgroups::roots(), vec![PROPAGATE.into()]].concat();
    let files = parents.iter().map(|parent| parent.join(name)).filter(|path| path.exists());
    processes.chain(files).map(|path| path.display().to_string()).chain(mounts).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn check_requirements() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test boots a container: run `make test`, or run it as root"
    );
    for program in ["systemd-nspawn", "nsenter", "unshare", "setpriv"] {
        let found =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            found.is_ok(),
            "this test boots a container and needs {program} (Debian: systemd-container, util-linux)"
        );
    }
}

fn spawn([name, target]: [&str; 2], directory: &Path, cgroups: &[PathBuf], visible: &[&Path]) -> Child {
    let layers = directory.join("layers");
    fs::create_dir(&layers).expect("a directory for the layers");
    let console = fs::File::create(directory.join("console")).expect("a file for the console");
    let join: Vec<_> =
        cgroups.iter().map(|cgroup| format!("echo $$ > {}/cgroup.procs;", cgroup.display())).collect();
    let binds: Vec<_> = visible.iter().map(|path| format!("--bind-ro={}", path.display())).collect();
    // When the thread of the test is gone the kernel kills unshare, then its child, and with that the whole PID namespace:
    // nothing stays, however the test ends.
    let enter = format!(
        "{} exec unshare --mount --propagation private --pid --mount-proc --fork --kill-child sh -euc \"$0\" sh \"$@\"",
        join.join(" ")
    );
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "sh", "-euc", &enter, BOOT])
        .arg(&layers)
        .args([name, target, &binds.join(" ")])
        .stdin(Stdio::null())
        .stdout(console.try_clone().expect("a second handle"))
        .stderr(console)
        .spawn()
        .expect("starting systemd-nspawn")
}

/// systemd wants a cgroup of its own in each hierarchy that it uses: one, or two in the hybrid layout.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn roots() -> Vec<PathBuf> {
        let hybrid = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let mut roots: Vec<PathBuf> = hybrid.into_iter().filter(|root| root.is_dir()).collect();
        if roots.is_empty() {
            roots.push("/sys/fs/cgroup".into());
        }
        roots
    }

    fn make(name: &str) -> Self {
        remove_forgotten(Path::new(PROPAGATE));
        let mut made = Self(Vec::new());
        for root in &Self::roots() {
            remove_forgotten(root);
            let cgroup = root.join(name);
            fs::create_dir(&cgroup)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", cgroup.display()));
            made.0.push(cgroup);
        }
        made
    }

    fn remove(&self) {
        // Processes leave a cgroup a moment after they were killed.
        let end = Instant::now() + PATIENCE;
        while self.0.iter().any(|cgroup| remove_tree(cgroup).is_err()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.remove();
    }
}

/// What tests left that were killed before they could remove it: directories, all empty.
fn remove_forgotten(root: &Path) {
    for path in entries(root) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let process = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = remove_tree(&path);
        }
    }
}

/// The files of a cgroup cannot be removed, and go with its directory. What is gone already is no error.
fn remove_tree(cgroup: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(cgroup) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
