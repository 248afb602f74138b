//! What follows where two environments differ.

use outboard_core::Environment;
use outboard_machine::memory::size;

/// The oldest driver that runs a CUDA of a major version, with all its minor ones (NVIDIA's "CUDA Compatibility", table
/// "Minor Version Compatibility", 2026-11).
const DRIVERS: [(u64, u64); 3] = [(11, 450), (12, 525), (13, 580)];

/// Less shared memory than this is used up by a few batches.
const SHM: u64 = 1 << 30;
/// Less disk than this is used up by a data set and some checkpoints.
const DISK: u64 = 5 << 30;
/// Fewer open files than this are used up by data loaders.
const FILES: u64 = 4096;

/// Capabilities that programs miss, and their bits (Linux, `capability.h`).
const CAPABILITIES: [(&str, u32); 6] = [
    ("IPC_LOCK (pinned memory)", 14),
    ("SYS_PTRACE (debuggers)", 19),
    ("SYS_ADMIN (mounts)", 21),
    ("SYS_NICE (priorities, NUMA)", 23),
    ("SYS_RESOURCE (limits)", 24),
    ("PERFMON (perf)", 38),
];

/// What follows where a fact is `here` on this machine and `there` where tasks run, `all` being all facts of that place.
pub(super) fn consequence(name: &str, here: Option<&str>, there: Option<&str>, all: &Environment) -> Option<String> {
    let group = name.split('.').next().unwrap_or_default();
    match (group, here, there) {
        ("env", ..) => variable(&name["env.".len()..], here, there, all),
        ("gpu", ..) => gpu(name, here, there, all),
        ("library", Some(here), Some(there)) => library(name, here, there),
        ("security", ..) => security(name, here.unwrap_or_default(), there.unwrap_or_default()),
        ("limit", Some(here), Some(there)) => limit(name, here, there),
        (_, here, Some(there)) => machine(name, here.unwrap_or_default(), there, all),
        _ => None,
    }
}

fn machine(name: &str, here: &str, there: &str, all: &Environment) -> Option<String> {
    let is_less = number(there) < number(here);
    let lost = |feature: &str| has(here, feature) && !has(there, feature);
    Some(match name {
        "cpu.arch" => "another architecture: libraries and wheels of one don't run on the other".into(),
        "cpu.cores" if is_less => "fewer cores: slower, and data loaders with more processes than that wait for each other".into(),
        "cpu.features" if lost("avx2") => {
            "no AVX2: several times slower, and libraries that were built for it die of an illegal instruction".into()
        }
        "cpu.features" if lost("avx512f") => "no AVX-512: slower, and another numerics class, with other last digits".into(),
        "cpu.features" => "kernels are chosen by them: the last digits may differ".into(),
        "memory.limit" => format!(
            "a container with less than the machine's {}: the kernel kills what takes more than {}",
            all.get("memory.total").map_or("memory".into(), |total| size(number(total))),
            size(number(there))
        ),
        "memory.total" if is_less => "less memory: what fits here may be killed there".into(),
        "disk.free" if number(there) < DISK && is_less => "little disk: blobs and checkpoints may not fit".into(),
        "device./dev/urandom" if there != "gives bytes" => {
            "what draws random numbers fails, as in \"random_device could not be read\" (docs/random-device.md)".into()
        }
        "device./dev/shm" if number(there) < SHM => {
            "little shared memory: data loaders with processes of their own die of a bus error; start the container with a \
             larger --shm-size, or --ipc=host"
                .into()
        }
        "program.version" => "bring both to one version: the older one may not know what the newer one asks for".into(),
        "program.numerics" => "the same curve within the protocol's gates, but not the same bytes".into(),
        "program.threads" => {
            let cores = all.get("cpu.cores").map_or(0, number);
            let is_few = number(there) > 0 && number(there) < cores;
            return is_few.then(|| format!("tasks compute on {there} of {cores} cores"));
        }
        "system.locale" if !is_utf8(there) => {
            "no UTF-8: files are read and written as ASCII where a program names no encoding".into()
        }
        "system.timezone" => "local times differ: in logs, in names of files, in features made of hours".into(),
        _ => return None,
    })
}

fn gpu(name: &str, here: Option<&str>, there: Option<&str>, all: &Environment) -> Option<String> {
    let (here, there) = match (here, there) {
        (Some(_), None) if name.ends_with(".driver") => return Some("no driver of NVIDIA's is there".into()),
        (Some(_), None) if name.ends_with(".memory") => return None,
        (Some(_), None) if name == "gpu.0" => return Some("no GPU is visible there: tasks run on the CPU".into()),
        (Some(_), None) => return Some("fewer GPUs".into()),
        (here, there) => (here.unwrap_or_default(), there?),
    };
    if name == "gpu.driver" {
        let cuda = version(all.get("library.cuda")?);
        let (major, least) = DRIVERS.into_iter().find(|(major, _)| cuda.first() == Some(major))?;
        let is_old = version(there).first().is_some_and(|driver| *driver < least);
        return is_old
            .then(|| format!("too old for CUDA {major}, which PyTorch there is made for: it needs {least} or newer"));
    }
    match name.ends_with(".memory") {
        true if number(there) < number(here) => {
            Some("less of the GPU's memory: take a smaller batch_size there".into())
        }
        true => None,
        false if !here.is_empty() => Some("another GPU: another speed, and other last digits".into()),
        false => None,
    }
}

fn library(name: &str, here: &str, there: &str) -> Option<String> {
    let (of_here, of_there) = (version(here), version(there));
    let differs_in = |parts: usize| of_here.get(..parts) != of_there.get(..parts);
    let needs = |what: &str, file: &str| {
        format!("older there: what was built here may want {what}, and says \"version `{what}' not found\" of {file}")
    };
    Some(match name {
        "library.torch" | "library.libtorch" if differs_in(2) => {
            "another release: the last digits differ, and what one has saved or exported may not load in the other"
                .into()
        }
        "library.torch" | "library.libtorch" => "another build of one release: the last digits may differ".into(),
        "library.numpy" if differs_in(1) => {
            "another major version: extensions built for one fail to load, and pickles of one may not open".into()
        }
        "library.python" if differs_in(2) => {
            "pickles, wheels and compiled modules of one may not work in the other".into()
        }
        "library.cuda" if differs_in(1) => "extensions built for one CUDA don't load under the other".into(),
        "library.glibc" if of_there < of_here => needs(&format!("GLIBC_{here}"), "libc.so.6"),
        "library.libstdcxx" if symbols(there) < symbols(here) => needs(here, "libstdc++.so.6"),
        _ => return None,
    })
}

fn limit(name: &str, here: &str, there: &str) -> Option<String> {
    // What is unlimited is more than any number.
    let most = |value: &str| value.parse().unwrap_or(u64::MAX);
    if most(there) >= most(here) {
        return None;
    }
    Some(match name {
        "limit.nofile" if most(there) < FILES => {
            "\"Too many open files\" comes sooner: many files, many data loaders".into()
        }
        "limit.nproc" => "threads and processes may fail to start".into(),
        "limit.memlock" => "pinned memory, and with it NCCL and RDMA, may fail".into(),
        "limit.stack" => "deep recursion ends sooner, with a segmentation fault".into(),
        _ => return None,
    })
}

fn security(name: &str, here: &str, there: &str) -> Option<String> {
    Some(match name {
        "security.seccomp" if there == "filter" || there == "strict" => {
            "system calls are filtered: ptrace, perf and io_uring mostly fail".into()
        }
        "security.no_new_privs" if there == "yes" => "sudo and set-uid programs gain nothing".into(),
        "security.capabilities" => {
            let bits = |hex: &str| u64::from_str_radix(hex, 16).ok();
            let lost = bits(here)? & !bits(there)?;
            let lost: Vec<_> =
                CAPABILITIES.iter().filter(|(_, bit)| lost >> bit & 1 == 1).map(|(name, _)| *name).collect();
            return (!lost.is_empty()).then(|| format!("not allowed there: {}", lost.join(", ")));
        }
        "security.profile" if !there.is_empty() && there != "unconfined" => {
            "the profile may forbid what works here".into()
        }
        "security.user" => match (here.split(':').next(), there.split(':').next()) {
            (here, there) if here == there => return None,
            (Some("0"), _) => "not root there: what belongs to root, a volume say, can't be written to".into(),
            (_, Some("0")) => "root there: files that it writes to shared folders belong to root".into(),
            _ => "another user: files of one may not be readable by the other".into(),
        },
        _ => return None,
    })
}

fn variable(name: &str, here: Option<&str>, there: Option<&str>, all: &Environment) -> Option<String> {
    let set = there.filter(|value| !value.is_empty());
    Some(match name {
        "LD_PRELOAD" if set.is_some() => {
            "that library comes before all others: its functions take the place of those of the same name".into()
        }
        "LD_LIBRARY_PATH" => "libraries are looked for in other places: another copy may be loaded".into(),
        "OMP_NUM_THREADS" | "MKL_NUM_THREADS" | "OPENBLAS_NUM_THREADS" => {
            let (threads, cores) = (number(set?), all.get("cpu.cores").map_or(0, number));
            return (threads > 0 && threads < cores)
                .then(|| format!("libraries compute on {threads} of {cores} cores, and are slow"));
        }
        "CUDA_VISIBLE_DEVICES" | "NVIDIA_VISIBLE_DEVICES" => {
            let hides = matches!(there, Some("" | "-1" | "none" | "void" | "NoDevFiles"));
            return hides.then(|| "it hides the GPUs from programs".into());
        }
        "PYTHONPATH" => "Python finds other modules first".into(),
        "TZ" => "local times differ: in logs, in names of files, in features made of hours".into(),
        proxy if proxy.to_uppercase().ends_with("_PROXY") => match (here, set) {
            (_, Some(_)) => "what is fetched there goes by way of that".into(),
            (Some(_), None) => "what your proxy leads to can't be fetched there".into(),
            _ => return None,
        },
        _ => return None,
    })
}

/// The first numbers of a version: 2, 13, 0 of `2.13.0+cu130`.
fn version(text: &str) -> Vec<u64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    text[..end].split('.').map_while(|part| part.parse().ok()).collect()
}

/// The last number of `GLIBCXX_3.4.30`.
fn symbols(text: &str) -> u64 {
    text.rsplit('.').next().map_or(0, number)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

fn has(features: &str, one: &str) -> bool {
    features.split(' ').any(|feature| feature == one)
}

fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_lowercase();
    locale.ends_with("utf-8") || locale.ends_with("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: [(&str, &str); 3] = [("cpu.cores", "8"), ("library.cuda", "12.8"), ("memory.total", "17179869184")];

    fn said(name: &str, here: Option<&str>, there: Option<&str>) -> String {
        let mut all = Environment::default();
        THERE.iter().for_each(|(name, value)| all.state(*name, value));
        consequence(name, here, there, &all).unwrap_or_default()
    }

    #[test]
    fn what_is_worse_there_has_a_consequence() {
        for (name, here, there, words) in [
            ("library.torch", "2.13.0+cu130", "2.8.0", "may not load in the other"),
            ("library.torch", "2.13.0+cu130", "2.13.0+cpu", "another build of one release"),
            ("library.numpy", "1.26.4", "2.3.5", "another major version"),
            ("library.python", "3.12.1", "3.10.2", "wheels"),
            ("library.cuda", "13.0", "12.8", "don't load"),
            ("library.glibc", "2.39", "2.9", "older there: what was built here may want GLIBC_2.39"),
            ("library.libstdcxx", "GLIBCXX_3.4.30", "GLIBCXX_3.4.9", "may want GLIBCXX_3.4.30"),
            ("cpu.features", "avx2 fma avx512f", "avx2 fma", "no AVX-512: slower, and another numerics class"),
            ("cpu.features", "avx2 fma", "avx", "no AVX2"),
            ("cpu.cores", "16", "8", "fewer cores"),
            ("memory.limit", "", "8589934592", "the machine's 16.0 GiB: the kernel kills what takes more than 8.0 GiB"),
            ("disk.free", "99999999999", "1000", "little disk"),
            ("device./dev/urandom", "gives bytes", "is a directory, not a character device", "random_device"),
            ("device./dev/shm", "8589934592", "67108864", "die of a bus error"),
            ("device./dev/shm", "8589934592", "is missing", "die of a bus error"),
            ("limit.nofile", "unlimited", "1024", "Too many open files"),
            ("limit.nproc", "unlimited", "100", "threads and processes"),
            ("security.seccomp", "off", "filter", "ptrace, perf and io_uring"),
            ("security.no_new_privs", "no", "yes", "sudo"),
            ("security.capabilities", "000001ffffffffff", "00000000a80425fb", "SYS_PTRACE (debuggers), SYS_ADMIN"),
            ("security.user", "0:0", "10001:10001", "not root there"),
            ("system.locale", "en_US.UTF-8", "C", "no UTF-8"),
            ("system.timezone", "Europe/Berlin", "Etc/UTC", "local times differ"),
            ("program.threads", "16", "1", "tasks compute on 1 of 8 cores"),
            ("program.numerics", "a", "b", "not the same bytes"),
            ("gpu.0", "NVIDIA L4", "NVIDIA A10G", "another GPU"),
            ("gpu.0.memory", "2000", "1000", "smaller batch_size"),
            ("gpu.driver", "580.1", "470.57.02", "too old for CUDA 12, which PyTorch there is made for: it needs 525"),
            ("env.LD_PRELOAD", "", "/lib/libjemalloc.so", "comes before all others"),
            ("env.OMP_NUM_THREADS", "", "1", "libraries compute on 1 of 8 cores"),
            ("env.CUDA_VISIBLE_DEVICES", "0", "-1", "hides the GPUs"),
            ("env.https_proxy", "", "http://proxy:3128", "by way of that"),
        ] {
            let here = Some(here).filter(|here| !here.is_empty());
            assert!(said(name, here, Some(there)).contains(words), "{name}: {}", said(name, here, Some(there)));
        }
        assert_eq!(said("gpu.0", Some("NVIDIA L4"), None), "no GPU is visible there: tasks run on the CPU");
        assert_eq!(said("env.HTTP_PROXY", Some("http://p"), None), "what your proxy leads to can't be fetched there");
    }

    #[test]
    fn what_is_better_there_has_none() {
        for (name, here, there) in [
            ("library.glibc", "2.36", "2.39"),
            ("library.libstdcxx", "GLIBCXX_3.4.9", "GLIBCXX_3.4.30"),
            ("cpu.cores", "4", "8"),
            ("cpu.model", "a", "b"),
            ("memory.total", "1", "17179869184"),
            ("disk.free", "1", "2"),
            ("device./dev/shm", "67108864", "8589934592"),
            ("limit.nofile", "1024", "unlimited"),
            ("security.seccomp", "filter", "off"),
            ("security.capabilities", "00000000a80425fb", "000001ffffffffff"),
            ("system.locale", "C", "C.UTF-8"),
            ("program.threads", "2", "8"),
            ("gpu.driver", "470", "550.54.15"),
            ("gpu.0.memory", "1", "2"),
            ("env.OMP_NUM_THREADS", "1", "8"),
            ("env.PATH", "/bin", "/usr/bin"),
        ] {
            assert_eq!(said(name, Some(here), Some(there)), "", "{name}");
        }
    }
}
