//! What is missing, and the command that brings it.

use std::path::Path;

use outboard_core::error::Error;

use crate::gpu::Driver;

/// The version of CUDA that libtorch 2.13.0 of PyPI is built with: the driver must run it.
pub const CUDA: (i32, i32) = (13, 0);

/// The first driver that runs it (NVIDIA's CUDA 13.0 release notes, table 3; July 2026).
const DRIVER: &str = "580";

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What, in words.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Missing {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }

    /// In one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{}; {}", self.what, self.remedy)
    }
}

const INSTALL: &str = "outboard cuda install";

/// What of the driver won't do.
#[must_use]
pub fn of_driver(driver: &Result<Driver, String>) -> Option<Missing> {
    let (major, minor) = CUDA;
    match driver {
        Err(why) => Some(Missing::new(
            why.as_str(),
            format!(
                "install NVIDIA's driver {DRIVER} or newer (nvidia-smi shows it), or set `providers.cuda.enabled = false`"
            ),
        )),
        Ok(driver) if driver.cuda < CUDA => {
            let ((its_major, its_minor), version) = (driver.cuda, &driver.version);
            Some(Missing::new(
                format!(
                    "driver {version} is too old: it runs CUDA up to {its_major}.{its_minor}, and libtorch needs \
                     {major}.{minor}"
                ),
                format!("install NVIDIA's driver {DRIVER} or newer"),
            ))
        }
        Ok(_) => None,
    }
}

/// What of the worker's file won't do.
#[must_use]
pub fn of_file(worker: &Path) -> Option<Missing> {
    let shown = worker.display();
    match std::fs::metadata(worker) {
        Err(_) => Some(Missing::new(format!("the worker isn't built: there is no {shown}"), INSTALL)),
        Ok(facts) if !facts.is_file() => {
            Some(Missing::new(format!("{shown} is no program"), "set `providers.cuda.worker` to the worker's path"))
        }
        Ok(_) => None,
    }
}

/// What a worker lacks that doesn't start, by what it and the system's loader said before it ended: they say it in no
/// other way.
#[must_use]
pub fn of_start(error: &Error) -> Missing {
    let mut said = error.to_string();
    error.context().iter().for_each(|(_, value)| said = format!("{said}\n{value}"));
    let line = |words: &str| said.lines().find(|line| line.contains(words)).map(|line| line.trim().to_string());
    if let Some(line) = line("error while loading shared libraries") {
        let library = line.split(": ").nth(2).unwrap_or("a library").to_string();
        return Missing::new(
            format!("the worker doesn't find {library}: libtorch is not where it was when the worker was built"),
            format!("{INSTALL}, or set LD_LIBRARY_PATH to the folder of {library}"),
        );
    }
    if let Some(line) = line("symbol lookup error").or_else(|| line("undefined symbol")) {
        return Missing::new(
            format!("the worker was built against another libtorch: {line}"),
            format!("{INSTALL} --rebuild"),
        );
    }
    if let Some(line) = line("version `") {
        return Missing::new(format!("this system's libraries are older than the worker's: {line}"), INSTALL);
    }
    if line("linked without libtorch_cuda.so").is_some() {
        return Missing::new(
            "the worker was linked without libtorch_cuda.so, so libtorch sees no GPU",
            format!("{INSTALL} --rebuild"),
        );
    }
    if let Some(line) = line("driver version is insufficient").or_else(|| line("Found no NVIDIA driver")) {
        return Missing::new(line, format!("install NVIDIA's driver {DRIVER} or newer"));
    }
    let remedy = error.advice().map_or_else(|| "outboard doctor --provider cuda".into(), str::to_string);
    Missing::new(said.lines().next().unwrap_or_default(), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_core::ErrorKind;

    #[test]
    fn a_driver_must_run_the_cuda_of_libtorch() {
        let driver = |cuda| Ok(Driver { version: "550.54".into(), cuda });
        assert_eq!(of_driver(&driver((13, 0))), None);
        assert_eq!(of_driver(&driver((13, 2))), None);
        let missing = of_driver(&driver((12, 4))).unwrap().sentence();
        assert_eq!(
            missing,
            "driver 550.54 is too old: it runs CUDA up to 12.4, and libtorch needs 13.0; install NVIDIA's driver 580 or newer"
        );
        let missing = of_driver(&Err("there is no NVIDIA driver here".into())).unwrap();
        assert_eq!(missing.what, "there is no NVIDIA driver here");
    }

    #[test]
    fn a_worker_that_does_not_start_says_what_it_lacks() {
        let said = |log: &str| {
            let error = Error::new(ErrorKind::WorkerUnhealthy, "the task process died (exit status: 127)");
            of_start(&error.at("last log lines", log)).sentence()
        };
        assert_eq!(
            said("w: error while loading shared libraries: libtorch.so: cannot open shared object file: No such file"),
            "the worker doesn't find libtorch.so: libtorch is not where it was when the worker was built; outboard cuda \
             install, or set LD_LIBRARY_PATH to the folder of libtorch.so"
        );
        assert_eq!(
            said("w: symbol lookup error: w: undefined symbol: _ZN2at4_ops"),
            "the worker was built against another libtorch: w: symbol lookup error: w: undefined symbol: _ZN2at4_ops; \
             outboard cuda install --rebuild"
        );
        assert_eq!(
            said("error: this worker was linked without libtorch_cuda.so, so libtorch sees no GPU"),
            "the worker was linked without libtorch_cuda.so, so libtorch sees no GPU; outboard cuda install --rebuild"
        );
        assert_eq!(said("x"), "the task process died (exit status: 127); outboard doctor --provider cuda");
    }
}
