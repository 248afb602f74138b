//! Codes of errors. A kind of error has one; where more is known, the error has one that says more.

super::codes! {

CONFIG = "OB-CONFIG": "The configuration is wrong";
means "A key of `outboard.toml`, of an `OUTBOARD_*` variable or of `--set` is unknown, missing or has a value that it can't have. \
    Nothing was started.";
see "The error names the file and line, the variable or the flag, and the key. `outboard config show` lists every key with its \
    value and what set it.";
fix "Write what the error suggests. `docs/configuration.md` explains every key; a file or a variable that you don't need can go, since \
    every key has a default.";

USAGE = "OB-USAGE": "The command line is wrong";
means "A flag or an argument is unknown, missing, or doesn't go with another.";
see "The error names it, and often the nearest right one.";
fix "Run the command with `--help`: it lists what there is, with defaults.";

REQUEST = "OB-REQUEST": "What was asked for can't be done as it was asked";
means "An argument, a file or a combination of both is wrong, and would be wrong on every provider. Nothing was started.";
see "The error says what, where, and what would be right.";
fix "Do what its last lines suggest.";

JOB = "OB-JOB": "The job file is wrong";
means "A key of the job file is unknown, missing or has a value that it can't have; or its model, its data and its training don't go \
    together. Nothing was started, and nothing was paid for.";
see "The error names the file, the line and the key. `outboard model show JOB` prints the layers with their shapes.";
fix "Write what the error suggests; `docs/jobs.md` explains every key. `outboard plan JOB` checks a job without starting it.";

DATA = "OB-DATA": "The data can't be used";
means "A file of the data was read, but holds something that doesn't fit: a cell that is no number, a column that is missing, rows of \
    different lengths, a class that the model doesn't know.";
see "The error names the file, and the row and the column where there are some. Rows are counted from 1, without the header.";
fix "Mend the cell or the column, or tell the job file how the data is meant (`[data]` in `docs/jobs.md`).";

MODEL = "OB-MODEL": "The model file can't be used";
means "It is no model that Outboard wrote, or its weights don't fit the layers that they are for.";
see "The error names the file, and the tensor where one is at fault. `outboard model show FILE` prints what is in a model.";
fix "Use a `model.safetensors` that `outboard train` wrote. For weights from elsewhere save a state dict with \
    `safetensors.torch.save_file`; pickles (`.pt`, `.pth`) are never read.";

FILE = "OB-FILE": "A file or folder can't be read or written";
means "It isn't there, is something else than what is needed, or this user may not use it.";
see "The error names the path, and what the system said. `ls -ld PATH` shows owner and permissions; each folder above it counts too.";
fix "Correct the path, change the permissions, or choose another place. Relative paths in a job file start at its folder.";

NOT_FOUND = "OB-NOT-FOUND": "What was named isn't there";
means "There is no job, task, function or database of that name where it was looked for. A job's record lies in `OUTBOARD_HOME`, so \
    another home knows other jobs.";
see "`outboard jobs` lists the jobs; `outboard config show` shows which `home` and which `ledger` are used.";
fix "Use a name from that list, or the home and the ledger that the job was started with.";

CONFLICT = "OB-CONFLICT": "Something else holds it";
means "Another process works on the same job, or a file of that name is in the way.";
see "`outboard jobs` shows what runs. The error names what is held.";
fix "Wait until the other process is done, stop it with `outboard jobs cancel JOB`, or choose another name.";

BUDGET = "OB-BUDGET": "It would cost more than is allowed";
means "The most that the next task can cost doesn't fit under a budget: the job's, the day's, the month's or the provider's. What is \
    reserved counts as spent until it is known what it cost. Nothing was handed over.";
see "`outboard costs` shows what was spent, what is held and what is left; `outboard plan JOB` what the task costs at most on each \
    provider.";
fix "Raise the limit (`limits.max_cost_usd`, `--max-cost`, `[budget]`), let the tasks be shorter or cheaper, or allow a provider that \
    is free. `outboard reap` releases what dead clients hold.";

CANCELLED = "OB-CANCELLED": "It was stopped";
means "Somebody stopped the job: Ctrl-C, a signal, or `outboard jobs cancel`. Everything up to its last checkpoint is kept.";
see "`outboard jobs show JOB` tells how far it came.";
fix "Go on with `outboard train --resume JOB`.";

JOB_FAILED = "OB-JOB-FAILED": "The job itself failed";
means "The training went wrong in a way that would be the same on every provider: the loss became NaN or infinite, mostly. So no other \
    provider was tried.";
see "The error names the epoch and the step, and the last good checkpoint.";
fix "Lower the learning rate, set `clip_norm = 1.0` under `[train]`, or look for outliers in the data. Then start the job anew.";

UNSUPPORTED = "OB-UNSUPPORTED": "The provider or this version can't do that";
means "A provider doesn't know the operation or a layer of the model; or a file was written by a version that this one doesn't know.";
see "`outboard plan JOB` says of each provider why it can't take the job.";
fix "Use another provider, bring the worker to the version of the client, or use the version that wrote the file.";

CREDENTIALS = "OB-CREDENTIALS": "Credentials are missing or refused";
means "A provider, the store or the ledger's server doesn't accept the key, the token or the password, or there is none.";
see "The error names whose it is. `outboard config show` tells where a key comes from, without showing it.";
fix "Set it anew, best in an environment variable: `OUTBOARD_PROVIDERS__RUNPOD__API_KEY` for RunPod; the usual chain of AWS for Lambda; \
    the token file of a worker.";

PERMISSION = "OB-PERMISSION": "The credentials don't allow this";
means "They are right, but may not do what was asked.";
see "The error names the request that was refused.";
fix "Give the key, the role or the user the right to do it, or use another one.";

QUOTA = "OB-QUOTA": "A quota is used up";
means "The provider would take the task, but not beyond a limit of the account or the endpoint: workers, concurrency, credit.";
see "The provider's console shows the limit; `outboard doctor --provider NAME` what Outboard can see of it.";
fix "Raise the limit there, wait until other tasks are done, or allow another provider.";

CAPACITY = "OB-CAPACITY": "No machine is free";
means "The provider has no machine of the kind that was asked for, or gives none at the moment.";
see "`outboard doctor --provider runpod` tells the states of an endpoint's workers in words.";
fix "Allow more GPU types or regions, or another provider; else try again later.";

WORKER = "OB-WORKER": "A worker crashes, hangs or doesn't start";
means "The machine or its program is at fault, not the job: a wrong image, a missing library, memory that ran out, a process that was \
    killed. The job goes on elsewhere from its last checkpoint, where there is another provider.";
see "The error holds the last words of the process, its exit status or its signal. `outboard jobs show JOB` tells it for each attempt; \
    `outboard doctor env --provider NAME` how the worker's place differs from this machine.";
fix "Run `outboard-worker preflight` where the worker runs (`docs/random-device.md` shows how): it names what is missing there. A worker \
    that was killed for memory needs a smaller batch or a larger machine.";

PAYLOAD = "OB-PAYLOAD": "More bytes than can be carried";
means "The data, a checkpoint or a result is larger than the provider's requests may be, or than a message may be.";
see "The error tells the size and the limit.";
fix "Configure a store (`[store] url`): then only names travel with the task, and size no longer matters.";

RATE_LIMIT = "OB-RATE-LIMIT": "Too many requests";
means "The provider asks to slow down. Outboard waits as long as it is told to and tries again; this error comes when that didn't help.";
see "The error tells how long to wait, where the provider says so.";
fix "Run fewer jobs at the same time, or wait.";

UNAVAILABLE = "OB-UNAVAILABLE": "It can't take requests at the moment";
means "The provider or a server answers, but says that it can't, or the connection was cut.";
see "`outboard doctor` tries every address that is configured, and says which one is at fault.";
fix "Try again later; look at the provider's status page or the worker's log.";

TIMEOUT = "OB-TIMEOUT": "A deadline passed";
means "Something took longer than it may: a reply, a transfer, a task, or the whole job (`limits.deadline`).";
see "The error names what was waited for, and how long.";
fix "Raise the time that is named, or find out why it takes so long: a slow line, a machine that is busy, a process that hangs.";

PREEMPTED = "OB-PREEMPTED": "The machine was taken away";
means "The provider needed it for something else. The job goes on from its last checkpoint.";
see "`outboard jobs show JOB` tells when, and where it went on.";
fix "Nothing, mostly. Where it happens often, let checkpoints be more frequent (`checkpoint.every`), or use another provider.";

NO_PROVIDER = "OB-NO-PROVIDER": "No provider could do it";
means "Every provider that is enabled was tried, or ruled out. The job is kept with its last checkpoint.";
see "The error lists each provider with its reason. `outboard plan JOB` and `outboard doctor --job JOB` tell it beforehand.";
fix "Mend the reason of the provider that you want, then go on with `outboard train --resume JOB`.";

CORRUPT = "OB-CORRUPT": "Bytes are damaged, or can't be understood";
means "A file or a reply doesn't match its digest, or isn't what it should be. Damaged bytes are never used.";
see "The error names the file or the peer.";
fix "Start the job again: what is damaged is made anew. Where it comes back, look at the disk and the memory of the machine.";

BUG = "OB-BUG": "Something that should not happen";
means "A bug, in Outboard or in what it talks to. It isn't tried again blindly, since that could cost money.";
see "`--log debug` tells what led to it.";
fix "Report it, with the whole message and the log. A job goes on with `outboard train --resume JOB`.";

}
