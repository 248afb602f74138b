//! What differs between two environments.

use std::collections::BTreeSet;

use outboard_core::Environment;
use outboard_machine::memory::size;

use super::consequences::consequence;

/// One fact, here and there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its name.
    pub name: String,
    /// What it is on this machine, where that is known.
    pub here: Option<String>,
    /// What it is where tasks run.
    pub there: Option<String>,
    /// Whether it is a difference that matters.
    pub differs: bool,
    /// What follows from the difference, where that is known.
    pub so: Option<String>,
}

/// Facts that differ between any two machines, or from one moment to the next: only what follows from them matters.
const ALWAYS_DIFFERENT: [&str; 5] =
    ["disk.free", "library.libstdcxx.path", "program.threads", "system.kernel", "security.capabilities"];

/// All facts of both, by name.
pub(super) fn facts(here: &Environment, there: &Environment) -> Vec<Fact> {
    let names: BTreeSet<&str> = here.iter().chain(there.iter()).map(|(name, _)| name).collect();
    let fact = |name: &str| {
        let (of_here, of_there) = (here.get(name), there.get(name));
        let is_other = of_here != of_there && (of_here.is_some() && of_there.is_some() || absence_tells(name));
        let so = is_other.then(|| consequence(name, of_here, of_there, there)).flatten();
        let differs = so.is_some() || (is_other && !ALWAYS_DIFFERENT.contains(&name));
        let shown = |value: Option<&str>| value.map(|value| shown(name, value));
        Fact { name: name.into(), here: shown(of_here), there: shown(of_there), differs, so }
    };
    names.into_iter().map(fact).collect()
}

/// Whether a fact that isn't told is known not to be so; of others nothing is known.
fn absence_tells(name: &str) -> bool {
    let told = ["env.", "gpu."].iter().any(|group| name.starts_with(group));
    told || matches!(name, "memory.limit" | "security.profile" | "system.container")
}

/// A value for people.
fn shown(name: &str, value: &str) -> String {
    let is_bytes = name.starts_with("memory.")
        || name.ends_with(".memory")
        || matches!(name, "disk.free" | "device./dev/shm" | "limit.memlock" | "limit.stack");
    match value.parse() {
        Ok(bytes) if is_bytes => size(bytes),
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(facts: &[(&str, &str)]) -> Environment {
        let mut found = Environment::default();
        facts.iter().for_each(|(name, value)| found.state(*name, value));
        found
    }

    #[test]
    fn what_matters_differs_and_the_rest_is_only_told() {
        let here = of(&[
            ("cpu.model", "A"),
            ("disk.free", "1000000000000"),
            ("library.torch", "2.13.0"),
            ("limit.nofile", "1024"),
            ("memory.total", "8589934592"),
            ("system.kernel", "6.1"),
        ]);
        let there = of(&[
            ("cpu.model", "B"),
            ("disk.free", "999999999999"),
            ("env.LD_PRELOAD", "/a.so"),
            ("limit.nofile", "1024"),
            ("memory.total", "17179869184"),
            ("system.kernel", "6.8"),
        ]);
        let all = facts(&here, &there);
        let differ: Vec<_> = all.iter().filter(|fact| fact.differs).map(|fact| fact.name.as_str()).collect();
        assert_eq!(differ, ["cpu.model", "env.LD_PRELOAD", "memory.total"]);
        let memory = all.iter().find(|fact| fact.name == "memory.total").unwrap();
        assert_eq!((memory.here.as_deref(), memory.there.as_deref()), (Some("8.0 GiB"), Some("16.0 GiB")));
        assert_eq!(all.len(), 7);
        assert!(facts(&here, &here).iter().all(|fact| !fact.differs && fact.so.is_none()));
    }
}
