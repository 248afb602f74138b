//! Removes what nothing names any more.

use std::{collections::BTreeSet, fs, time::Duration};

use outboard_core::{Digest, Result, error::IoContext};

use super::{Client, blocking};
use crate::{record::Record, registry};

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs.
    pub blobs: u64,
    /// Their size together.
    pub bytes: u64,
    /// Objects of the bucket, where there is one: records of tasks, and blobs.
    pub stored: usize,
}

/// Younger blobs stay: a job that is being prepared stores its data before its record.
const GRACE: Duration = Duration::from_secs(3600);

/// Younger objects of a bucket stay: no task of any client lives longer than RunPod's seven days.
const STORED_GRACE: Duration = Duration::from_secs(8 * 86_400);

impl Client {
    /// Removes blobs that no job's record names, what commands that were killed left behind, and what is old in the
    /// bucket.
    ///
    /// # Errors
    /// `CorruptPayload` where a job's record can't be read: then it isn't known what it names, and nothing is removed.
    pub async fn gc(&self) -> Result<Removed> {
        let client = self.clone();
        let removed = blocking(move || client.collect(GRACE)).await?;
        let Some(bucket) = registry::bucket(&self.config)? else { return Ok(removed) };
        let tasks = self.ledger().await?.open_attempts().await?;
        let keep: BTreeSet<Digest> = tasks.iter().map(|attempt| Digest::of(attempt.task_key.as_bytes())).collect();
        let expired = bucket.expire(STORED_GRACE, |digest| keep.contains(digest)).await?;
        Ok(Removed { stored: expired.tasks + expired.blobs, ..removed })
    }

    fn collect(&self, grace: Duration) -> Result<Removed> {
        let mut named: BTreeSet<Digest> = BTreeSet::new();
        for id in self.job_ids()? {
            let record = Record::load(&self.jobs(), &id).map_err(|error| {
                let folder = self.jobs().join(&id);
                error
                    .at("job", &id)
                    .hint(format!("remove {} if the job isn't needed, then try again", folder.display()))
            })?;
            named.extend([record.data, record.checkpoint.digest]);
            named.extend(record.validation);
        }
        let mut removed = Removed::default();
        for (digest, bytes, age) in self.store.list()? {
            if !named.contains(&digest) && age >= grace {
                self.store.remove(&digest)?;
                removed.blobs += 1;
                removed.bytes += bytes;
            }
        }
        self.store.sweep(grace)?;
        self.collect_scratch(grace)?;
        Ok(removed)
    }

    /// Ids of the jobs that have a record. A process that was killed before it wrote one left an empty folder.
    fn job_ids(&self) -> Result<Vec<String>> {
        let jobs = self.jobs();
        if !jobs.is_dir() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&jobs).doing("list", &jobs)?;
        Ok(entries
            .flatten()
            .filter(|entry| entry.path().join("record.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }

    fn collect_scratch(&self, grace: Duration) -> Result<()> {
        let scratch = self.config.home.join("scratch");
        for entry in fs::read_dir(&scratch).into_iter().flatten().flatten() {
            let age = entry.metadata().ok().and_then(|m| m.modified().ok()).and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age >= grace) {
                fs::remove_dir_all(entry.path()).doing("remove", &entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Config, config::Sources, read_job};

    #[tokio::test]
    async fn removes_what_nothing_names_and_leaves_the_rest() {
        let home = tempfile::tempdir().unwrap();
        let environment = vec![("OUTBOARD_HOME".to_string(), home.path().to_str().unwrap().to_string())];
        let config =
            Config::load(&Sources { directory: home.path().into(), environment, overrides: Vec::new() }).unwrap();
        let client = Client::new(config).unwrap();
        let mut job = read_job(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits.toml")).unwrap();
        job.output = Some(home.path().join("out"));
        let id = client.train(job).await.unwrap().job;
        let orphan = client.store.write(b"nobody's").unwrap();

        assert_eq!(client.gc().await.unwrap(), Removed::default(), "too young");
        assert_eq!(client.collect(Duration::ZERO).unwrap(), Removed { blobs: 1, bytes: 8, stored: 0 });
        assert!(client.store.read(&orphan).is_err());
        // The job still gives its result, and its model is written again.
        fs::remove_file(home.path().join("out/model.safetensors")).unwrap();
        client.resume(&id).await.unwrap().drive(std::future::pending(), |_| {}).await.unwrap();
        assert!(home.path().join("out/model.safetensors").exists());

        fs::write(client.jobs().join(&id).join("record.json"), "{").unwrap();
        let error = client.collect(Duration::ZERO).unwrap_err();
        assert!(error.report().contains(&format!("job: {id}\n")), "{}", error.report());
        assert!(client.store.list().unwrap().len() >= 3, "something was removed");

        fs::remove_dir_all(client.jobs().join(&id)).unwrap();
        assert_eq!(client.collect(Duration::ZERO).unwrap().blobs, 3);
    }
}
