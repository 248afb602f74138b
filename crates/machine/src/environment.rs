//! All that differs between machines and matters to a run. The names are those of `docs/protocol.md`, section 11; the
//! worker for PyTorch tells the same facts, in `environment.py`.

use std::{env, fs, path::Path, thread::available_parallelism};

use outboard_core::Environment;

use crate::{devices, disk, libraries, memory, variables};

/// Features of a CPU that kernels are chosen by, as `/proc/cpuinfo` names them.
pub const FEATURES: [&str; 14] = [
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
];

/// Lines of `/proc/self/limits`, and how the limits are called.
const LIMITS: [(&str, &str); 4] = [
    ("Max open files", "nofile"),
    ("Max processes", "nproc"),
    ("Max locked memory", "memlock"),
    ("Max stack size", "stack"),
];

/// The facts about this machine, as this process sees it.
#[must_use]
pub fn environment() -> Environment {
    let variables: Vec<_> =
        env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned())).collect();
    let mut found = read(Path::new("/"), &env::temp_dir(), &variables);
    if let Ok(cores) = available_parallelism() {
        // Affinity and the group's quota count.
        found.state("cpu.cores", cores);
    }
    found
}

/// The facts that lie in files under `root`, and in these variables.
fn read(root: &Path, scratch: &Path, variables: &[(String, String)]) -> Environment {
    let mut found = Environment::default();
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    found.state("cpu.arch", env::consts::ARCH);
    let cpu = text("proc/cpuinfo");
    if let Some(model) = field(&cpu, "model name") {
        found.state("cpu.model", model);
    }
    if let Some(flags) = field(&cpu, "flags").or_else(|| field(&cpu, "Features")) {
        let has = |feature: &&str| flags.split(' ').any(|flag| flag == *feature);
        found.state("cpu.features", FEATURES.into_iter().filter(has).collect::<Vec<_>>().join(" "));
    }
    gpus(&mut found, root);
    let total = memory::total(root);
    if let Some(total) = total {
        found.state("memory.total", total);
    }
    if let Some(limit) = memory::limit(root, memory::group(root).as_deref()).filter(|limit| Some(*limit) != total) {
        found.state("memory.limit", limit);
    }
    if let Some(room) = disk::room(scratch) {
        found.state("disk.free", room.free);
    }
    found.state("device./dev/urandom", devices::fault(&root.join("dev/urandom")).unwrap_or("gives bytes".into()));
    match disk::room(&root.join("dev/shm")) {
        Some(room) => found.state("device./dev/shm", room.total),
        None => found.state("device./dev/shm", "is missing"),
    }
    let limits = text("proc/self/limits");
    for (line, name) in LIMITS {
        if let Some(soft) = limits.lines().find_map(|l| l.strip_prefix(line)?.split_whitespace().next()) {
            found.state(format!("limit.{name}"), soft);
        }
    }
    security(&mut found, &text("proc/self/status"), &text("proc/self/attr/current"));
    system(&mut found, root, variables);
    if let Some(version) = libraries::glibc(root) {
        found.state("library.glibc", version);
    }
    if let Some((newest, path)) = libraries::libstdcxx(root) {
        found.state("library.libstdcxx", newest);
        found.state("library.libstdcxx.path", path.display());
    }
    for (name, value) in variables::told(variables) {
        found.state(format!("env.{name}"), value);
    }
    found
}

/// What follows `name` and a colon on the first line that begins so.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':')).map(str::trim)
}

/// NVIDIA's, as the driver tells them.
fn gpus(found: &mut Environment, root: &Path) {
    let driver = fs::read_to_string(root.join("proc/driver/nvidia/version")).unwrap_or_default();
    let is_version = |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if let Some(version) = driver.lines().next().unwrap_or_default().split_whitespace().find(is_version) {
        found.state("gpu.driver", version);
    }
    let folders = fs::read_dir(root.join("proc/driver/nvidia/gpus")).into_iter().flatten().flatten();
    let mut folders: Vec<_> = folders.map(|entry| entry.path()).collect();
    folders.sort();
    let models = folders.iter().filter_map(|folder| {
        let about = fs::read_to_string(folder.join("information")).ok()?;
        field(&about, "Model").map(str::to_string)
    });
    models.enumerate().for_each(|(i, model)| found.state(format!("gpu.{i}"), model));
}

fn security(found: &mut Environment, status: &str, profile: &str) {
    let named = |value: &str, names: &[&'static str]| value.parse().ok().and_then(|at: usize| names.get(at).copied());
    if let Some(mode) = field(status, "Seccomp").and_then(|mode| named(mode, &["off", "strict", "filter"])) {
        found.state("security.seccomp", mode);
    }
    if let Some(is_set) = field(status, "NoNewPrivs").and_then(|is_set| named(is_set, &["no", "yes"])) {
        found.state("security.no_new_privs", is_set);
    }
    if let Some(bits) = field(status, "CapEff") {
        found.state("security.capabilities", bits);
    }
    let ids = ["Uid", "Gid"].map(|name| field(status, name).and_then(|ids| ids.split_whitespace().next()));
    if let [Some(user), Some(group)] = ids {
        found.state("security.user", format!("{user}:{group}"));
    }
    let profile = profile.trim_matches(['\0', '\n']);
    if !profile.is_empty() {
        found.state("security.profile", profile);
    }
}

fn system(found: &mut Environment, root: &Path, variables: &[(String, String)]) {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    let release = text("etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    found.state("system.os", name.map_or(env::consts::OS, |name| name.trim_matches('"')));
    if let Some(kernel) = text("proc/sys/kernel/osrelease") {
        found.state("system.kernel", kernel);
    }
    let podman = text("run/.containerenv").map(|about| {
        let image = about.lines().find_map(|line| line.strip_prefix("image="));
        image.map_or("podman".to_string(), |image| format!("podman, {}", image.trim_matches('"')))
    });
    let docker = root.join(".dockerenv").exists().then(|| "docker".to_string());
    if let Some(container) = podman.or(docker) {
        found.state("system.container", container);
    }
    let zone = fs::read_link(root.join("etc/localtime")).ok();
    if let Some((_, zone)) = zone.as_ref().and_then(|path| path.to_str()?.split_once("zoneinfo/")) {
        found.state("system.timezone", zone);
    }
    let set = |name: &&str| variables.iter().find(|(known, value)| known == name && !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set);
    found.state("system.locale", locale.map_or("C", |(_, value)| value.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    const LIMITS_FILE: &str = "Limit  Soft  Hard  Units\nMax open files  1024  1048576  files\n\
                               Max processes  unlimited unlimited processes\n";
    const STATUS_FILE: &str = "Name:\tx\nUid:\t10001\t1\t1\t1\nGid:\t7\t7\t7\t7\nCapEff:\t00000000a80425fb\n\
                               NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    #[cfg(unix)]
    fn a_container_is_described_by_its_files() {
        let root = tree(&[
            (
                "proc/cpuinfo",
                "processor\t: 0\nmodel name\t: AMD EPYC 7543\nflags\t\t: fpu sse4_2 avx avx2 fma x2apic\n",
            ),
            ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module  550.54.15  Release\n"),
            ("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA A10G\nIRQ: 1\n"),
            ("proc/driver/nvidia/gpus/0000:02:00.0/information", "Model: \t\t NVIDIA L4\n"),
            ("proc/meminfo", "MemTotal:       67108864 kB\n"),
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.events", "oom_kill 0\n"),
            ("sys/fs/cgroup/a/memory.max", "17179869184\n"),
            ("proc/self/limits", LIMITS_FILE),
            ("proc/self/status", STATUS_FILE),
            ("proc/self/attr/current", "docker-default (enforce)\n\0"),
            ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\n"),
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            (".dockerenv", ""),
            ("dev/urandom", ""),
        ]);
        let variables = [("LANG", "C.UTF-8"), ("OMP_NUM_THREADS", "1"), ("RUNPOD_API_KEY", "rpa_0123456789")];
        let variables = variables.map(|(name, value)| (name.to_string(), value.to_string()));
        let mut found = read(root.path(), root.path(), &variables);
        assert!(found.get("disk.free").is_some_and(|free| free.parse::<u64>().is_ok()));
        found.state("disk.free", "1");
        let facts: Vec<_> = found.iter().collect();
        assert_eq!(
            facts,
            [
                ("cpu.arch", env::consts::ARCH),
                ("cpu.features", "sse4_2 avx avx2 fma"),
                ("cpu.model", "AMD EPYC 7543"),
                ("device./dev/shm", "is missing"),
                ("device./dev/urandom", "is a regular file, not a character device"),
                ("disk.free", "1"),
                ("env.LANG", "C.UTF-8"),
                ("env.OMP_NUM_THREADS", "1"),
                ("gpu.0", "NVIDIA A10G"),
                ("gpu.1", "NVIDIA L4"),
                ("gpu.driver", "550.54.15"),
                ("limit.nofile", "1024"),
                ("limit.nproc", "unlimited"),
                ("memory.limit", "17179869184"),
                ("memory.total", "68719476736"),
                ("security.capabilities", "00000000a80425fb"),
                ("security.no_new_privs", "yes"),
                ("security.profile", "docker-default (enforce)"),
                ("security.seccomp", "filter"),
                ("security.user", "10001:7"),
                ("system.container", "docker"),
                ("system.kernel", "6.1.0"),
                ("system.locale", "C.UTF-8"),
                ("system.os", "Ubuntu 24.04.1 LTS"),
            ]
        );
    }

    #[test]
    #[cfg(unix)]
    fn where_nothing_is_told_little_is_known() {
        let root = tree(&[("run/.containerenv", "engine=\"podman\"\nimage=\"docker.io/me/worker:1\"\n")]);
        let found = read(root.path(), root.path(), &[]);
        assert_eq!(found.get("system.container"), Some("podman, docker.io/me/worker:1"));
        assert_eq!((found.get("system.locale"), found.get("memory.total")), (Some("C"), None));
        assert_eq!(found.get("device./dev/urandom"), Some("is missing"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_is_described() {
        let found = environment();
        for name in ["cpu.cores", "memory.total", "limit.nofile", "security.user", "system.kernel", "env.PATH"] {
            assert!(found.get(name).is_some_and(|value| !value.is_empty()), "{name}: {found:?}");
        }
        assert_eq!(found.get("device./dev/urandom"), Some("gives bytes"));
    }
}
