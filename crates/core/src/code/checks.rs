//! Codes of what lies on this machine, and of the way to others.

super::codes! {

FOLDER = "OB-FOLDER": "Whether a folder can be written to";
means "Outboard keeps jobs, data sets and checkpoints in its home, and writes models into a job's output folder. Both must be folders \
    that this user may write to.";
see "`outboard config show` shows `home`; a job's folder is its `output`. `ls -ld FOLDER` shows owner and permissions.";
fix "Set `OUTBOARD_HOME` to a folder of yours, choose another one with `--output`, or change its owner or permissions.";

CPU = "OB-CPU": "Which vector units the CPU has";
means "The engine computes with AVX-512, AVX2 or NEON. Without them the same results take several times as long. A virtual machine may \
    hide what its host has.";
see "`lscpu` shows the CPU's flags.";
fix "Let the virtual machine have its host's CPU (`-cpu host` for QEMU), or use another machine.";

LEDGER = "OB-LEDGER": "Whether the ledger is whole";
means "The ledger holds jobs, reservations and charges; budgets rest on it. It is a SQLite file in the home, or a PostgreSQL database.";
see "`outboard config show` shows which one is used. For a file, `PRAGMA quick_check` of SQLite is what the check asks.";
fix "Restore a damaged file from a backup. Without one, move it and its `-wal` and `-shm` files away: a new ledger knows no earlier \
    charges. For a server, check that it runs, and its URL.";

RESERVATIONS = "OB-RESERVATIONS": "Whether reservations are stale";
means "An amount is held for a task whose time is over: its client died, or was cut off. It lessens what is left of the budgets.";
see "`outboard costs` shows what is held.";
fix "Run `outboard reap`: what was never handed over is released, what was is settled, or charged in full until its cost is known.";

ORPHANS = "OB-ORPHANS": "Whether jobs were left behind";
means "A job is noted as running, but no process of this machine works on it: its client was killed. Its tasks may still run elsewhere.";
see "`outboard jobs` lists it as interrupted.";
fix "Go on with `outboard train --resume JOB`, or stop what it left with `outboard reap`.";

CLOCK = "OB-CLOCK": "Whether the clock is right";
means "The time of this machine is compared with the time that a server's replies carry. Signed URLs, deadlines of tasks and the day of a \
    budget go by the clock: a few minutes make requests fail that are otherwise right.";
see "`timedatectl` shows whether the clock is kept right.";
fix "Turn on time synchronisation (`timedatectl set-ntp true`, or chrony); in a virtual machine that was asleep, restart it.";

NETWORK = "OB-NETWORK": "Whether an address can be reached";
means "Nothing answers at an address that is configured: there is no network, the name isn't known, a firewall is in between, or nothing \
    listens there.";
see "`curl -v URL` shows how far a connection comes: the name, the connection, TLS, the reply.";
fix "Check the network and the address in the configuration. Behind a proxy, set `HTTPS_PROXY`.";

PROXY = "OB-PROXY": "Whether the proxy can be reached";
means "`HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY` names a proxy for this address, and the proxy doesn't answer or refuses. The address \
    itself may be well.";
see "`env | grep -i proxy` shows what is set; `curl -v -x PROXY URL` tries it.";
fix "Correct or unset the variable, or list the host in `NO_PROXY`. Addresses of this machine never go through a proxy.";

TLS = "OB-TLS": "Whether the connection is safe";
means "The server answers, but its certificate isn't one that this system trusts, has expired, or is for another name; or what answers \
    doesn't speak TLS. A company's proxy that looks into TLS shows as an unknown issuer.";
see "`openssl s_client -connect HOST:443 -servername HOST` shows the certificate and who issued it.";
fix "For a worker of your own, name its certificate as `ca_file`. Else let the system trust the issuer (`update-ca-certificates`), or \
    point `SSL_CERT_FILE` at its certificates. Also check the clock.";

STORE = "OB-STORE": "Whether the store works";
means "A bucket by which workers elsewhere get data and give results. It is probed with a scratch object: written twice, read, listed, \
    removed. A store that ignores conditional puts gives a weaker promise: a lost reply must be waited out.";
see "The check names the URL and what was refused. `outboard config show` shows `[store]`.";
fix "Check `[store]`: the URL, the region, the keys and what they may do (get, put, list and delete under the prefix). Without a \
    store, small tasks still work.";

LIMITS = "OB-LIMITS": "Whether a provider could take the job";
means "The job given by `--job` is held against what each provider knows and allows: layers, sizes, times, budgets, deadlines.";
see "`outboard plan JOB` shows the same with times and costs.";
fix "Mend the reason that is named, or leave it: the job goes where it can.";

LATE = "OB-LATE": "A check that was not done in time";
means "The check had a deadline of its own, so that one that hangs doesn't hold up the others.";
see "Run `outboard doctor` again, with `--log debug`.";
fix "What hangs is mostly a disk, a network file system, or a network that swallows packets.";

}
