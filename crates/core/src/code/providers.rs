//! Codes of checks of providers.

super::codes! {

NOT_SET_UP = "OB-NOT-SET-UP": "The provider isn't set up";
means "It was asked for by name, but is disabled, or misses what it can't do without.";
see "`outboard providers` lists those that are enabled and those that are not.";
fix "Set what the check names; `docs/configuration.md` explains every key.";

PROVIDER_CONFIG = "OB-PROVIDER-CONFIG": "Whether the provider can be made from its configuration";
means "A key of its table is wrong, or a file that it names can't be read.";
see "The check names the key.";
fix "Write what the check suggests, or disable the provider.";

PROVIDER_READY = "OB-PROVIDER-READY": "Whether the provider could take a task now";
means "The provider was asked, and says so or says why not.";
see "`outboard providers` shows the same, and what was learned of it.";
fix "Mend what it says, or disable the provider. One that isn't ready costs nothing: jobs pass it over.";

PRICE = "OB-PRICE": "Whether the price is known";
means "A provider whose price isn't known is never used: an unknown price is not zero.";
see "The check names the price, its date and its source.";
fix "Set the price in the provider's table (`usd_per_second`, `usd_per_gb_second`, `usd_per_hour`), as its bill has it.";

PLUGIN = "OB-PLUGIN": "Whether the plugin can be used";
means "A plugin is loaded only from a configured path, if nobody else may write the file or a folder above it, if it has the digest \
    that `blake3` pins, and if it speaks this program's version of the interface.";
see "`outboard plugin check FILE` runs every test of a provider on it. `b3sum FILE` prints its digest, `ls -ld` its permissions.";
fix "Do what the check says: correct the path or the digest, run `chmod go-w` on what others may write, or get a build for this version \
    (`docs/plugins.md`). `--set plugins.NAME.enabled=false` goes on without it.";

HTTP_WORKER = "OB-HTTP-WORKER": "Whether a worker of yours answers";
means "The worker was asked for its health, with its token: whether it listens, takes the token, speaks the client's version of the \
    protocol, and has room.";
see "The check tells its version, its device and its tasks. Its log is on its standard error.";
fix "Start it with `outboard worker --listen ADDRESS --token-file FILE`; let `url` and the token in `[providers.http]` be the worker's. \
    One of another version must be brought to this one.";

AWS_FUNCTION = "OB-AWS-FUNCTION": "Whether the function can be invoked";
means "Lambda was asked for a dry run: the credentials, the region, the function and the right to invoke it. Nothing ran.";
see "`aws lambda invoke --invocation-type DryRun --function-name NAME /dev/null` asks the same.";
fix "Make the function with `outboard aws package` and `outboard aws deploy`; check `region`, `function`, `qualifier` and the credentials.";

AWS_LIMITS = "OB-AWS-LIMITS": "Whether the function is set as it is configured";
means "Outboard reserves what the configured memory costs, and stops tasks before the configured time-out. A function with more memory costs \
    more than that; one with a shorter time-out is cut off in the middle of a task.";
see "`aws lambda get-function-configuration` shows `MemorySize`, `Timeout` and `Architectures`; `outboard config show` what is configured.";
fix "Let `memory_mb`, `timeout` and `architecture` of `[providers.aws-lambda]` be the function's, or run `outboard aws deploy`.";

CUDA_DRIVER = "OB-CUDA-DRIVER": "Whether the NVIDIA driver will do";
means "The driver was asked for its version and the newest CUDA that it runs. Libtorch 2.13.0 needs CUDA 13.0.";
see "`nvidia-smi` prints both in its first lines.";
fix "Install NVIDIA's driver 580 or newer. Without a GPU nothing is to be done: jobs pass the provider over.";

CUDA_GPU = "OB-CUDA-GPU": "What GPU there is";
means "Its memory, what of it is free, its compute capability and the power that it may draw, as the driver says.";
see "`nvidia-smi -L` lists the GPUs.";
fix "Free memory that other programs hold, or name other devices in `providers.cuda.devices`.";

CUDA_WORKER = "OB-CUDA-WORKER": "Whether the worker on libtorch is built";
means "Each GPU has a worker of its own, a program that is built against libtorch.";
see "The check names the file.";
fix "Run `outboard cuda install` in a checkout of Outboard, or set `providers.cuda.worker`.";

CUDA_START = "OB-CUDA-START": "Whether the worker starts";
means "The worker was started on each device. One that finds no libtorch, or another than it was built against, or one without CUDA, \
    ends at once.";
see "The check names what is missing; `ldd` on the worker lists the libraries that it finds.";
fix "Run `outboard cuda install`, with `--rebuild` after libtorch has changed.";

CUDA_NUMERICS = "OB-CUDA-NUMERICS": "Whether the device follows the CPU engine's curve";
means "With `--bench` the same jobs ran on both. The loss of each epoch must be within 1e-3 of the other's.";
see "The check tells the largest difference; cuda-report.json has all of them.";
fix "Set `bf16` and `tf32` of `[providers.cuda]` to false. If it stays, send us the report.";

CUDA_SPEED = "OB-CUDA-SPEED": "Whether the device is faster than the CPU";
means "With `--bench` the same jobs ran on both. A GPU should be at least five times as fast.";
see "The check tells both in samples per second; cuda-report.json has start and transfers too.";
fix "Use larger batches: a GPU needs them. If it stays, send us the report.";

LIVE_TASK = "OB-LIVE-TASK": "Whether a real task comes to its end";
means "With `--live` one small model is trained there for one epoch, reserved and charged like any other task.";
see "The check tells the phases and what was charged; `outboard jobs` lists it.";
fix "Mend what fails before it. A budget that refuses it must be raised, by `--max-cost` too.";

LIVE_WORKER = "OB-LIVE-WORKER": "Whether the worker speaks this protocol";
means "Client and worker must speak the same version of the protocol.";
see "The check tells the version.";
fix "Release the worker's image anew from the client's version.";

LIVE_RECORDING = "OB-LIVE-RECORDING": "Where the exchange with the provider was written down";
means "With `--live` every request and reply is kept in `OUTBOARD_HOME/doctor`, without secrets.";
see "The check names the file.";
fix "Send it along when you report a problem.";

LIVE_COST = "OB-LIVE-COST": "What the failed task cost";
means "A task that fails may have cost something all the same.";
see "`outboard costs` shows it.";
fix "Nothing. `outboard costs --reconcile` replaces guesses by what was billed.";

RUNPOD_CONFIG = "OB-RUNPOD-CONFIG": "Whether RunPod's table is right";
means "`[providers.runpod]` needs a key and at least one endpoint with its id and its GPU.";
see "`outboard config show` shows the table, without the key.";
fix "Set `OUTBOARD_PROVIDERS__RUNPOD__API_KEY` and `endpoints`; `docs/runpod.md` goes through it step by step.";

RUNPOD_KEY = "OB-RUNPOD-KEY": "Whether RunPod accepts the key";
means "The key is wrong, has expired, or may not use the endpoints.";
see "RunPod's console lists the keys under Settings.";
fix "Make a key there that may use the endpoints, and set `OUTBOARD_PROVIDERS__RUNPOD__API_KEY`.";

RUNPOD_ENDPOINT = "OB-RUNPOD-ENDPOINT": "Whether the endpoint answers";
means "RunPod doesn't know the endpoint, the key may not use it, or RunPod can't be reached.";
see "RunPod's console shows the endpoint's id.";
fix "Correct `id` in `providers.runpod.endpoints`; or make an endpoint with `outboard runpod deploy`.";

RUNPOD_WORKERS = "OB-RUNPOD-WORKERS": "How the endpoint's workers are";
means "Jobs that wait (`IN_QUEUE`) never say why. The states of the workers do: they crash as they start, their hosts are full, \
    there are none, or they are busy.";
see "`outboard runpod status` and RunPod's console show them; a worker's log tells why it crashes. The table of symptoms in \
    `providers/runpod/README.md` goes through them.";
fix "For workers that crash, mend the image (`outboard-worker preflight` inside it names what is missing) and release it anew. Else raise \
    the maximum of workers, or allow more GPU types and regions.";

RUNPOD_LIMITS = "OB-RUNPOD-LIMITS": "What the endpoint bills beyond tasks";
means "Workers that are always there, and the time that a worker stays after a task, are billed too. Outboard reserves the idle time that \
    is configured: one that is longer at the endpoint would be paid for beyond what was reserved.";
see "RunPod's console shows the endpoint's idle time-out and its minimum of workers.";
fix "Let `providers.runpod.idle_timeout` be the endpoint's, and set its minimum of workers to 0.";

RUNPOD_PRICE = "OB-RUNPOD-PRICE": "Whether the GPU's price is known";
means "The price comes from RunPod's catalogue where the key may read it, else from the list in this version, else from \
    `usd_per_second`. RunPod isn't used without one.";
see "The check tells the price, its date and its source.";
fix "Let `gpu` be the catalogue's name, or set `usd_per_second` as RunPod bills it.";

RUNPOD_BILLING = "OB-RUNPOD-BILLING": "Whether bills can be read";
means "Charges are worked out from times until RunPod's bill replaces them. That needs a key that may read bills.";
see "`outboard costs --reconcile` reads them.";
fix "Give the key access to billing, or live with estimates: they are rounded up.";

RUNPOD_WARM = "OB-RUNPOD-WARM": "Whether a worker is worth keeping warm";
means "A cold start costs money and time, and so does a worker that idles. From what was measured follows up to which gap between tasks \
    a worker is cheaper kept.";
see "`docs/cold-starts.md` explains the sum.";
fix "Set the endpoint's idle time-out as the check says, and `providers.runpod.idle_timeout` with it.";

}
