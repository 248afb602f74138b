//! Codes of checks of a machine or a container on which tasks run. `outboard-worker preflight` makes them all.

super::codes! {

MEMORY = "OB-MEMORY": "Whether there is memory enough";
means "Little memory is free on the machine, or in its container's limit; or a task did not fit. What takes most is the batch: \
    activations grow with its size.";
see "`free -h` shows the machine's, `cat /sys/fs/cgroup/memory.max` a container's. A process that was killed for memory ends by signal 9.";
fix "Make `batch_size` smaller (the error says which would fit, where that is known), or give the machine or the container more memory.";

DISK = "OB-DISK": "Whether there is disk enough";
means "The disk under a folder is full or nearly so, or can't be written to. Data sets and checkpoints lie there.";
see "`df -h FOLDER` shows what is free.";
fix "Free some space: `outboard gc` removes data sets and checkpoints that no job needs. Or set `OUTBOARD_HOME` to a larger disk.";

RANDOM_DEVICE = "OB-RANDOM-DEVICE": "Whether `/dev/urandom` gives bytes";
means "It must be a character device that can be read. An empty file or a folder in its place makes C++ programs die with \
    \"random_device could not be read\".";
see "`ls -l /dev/urandom` shows `c` at the beginning and `1, 9`; `head -c 16 /dev/urandom | wc -c` prints 16.";
fix "Let the container have the host's device: remove the volume, or the step of the image, that replaces it. Never put a fixed seed in \
    its place. `docs/random-device.md` tells more.";

GETRANDOM = "OB-GETRANDOM": "Whether the system call `getrandom` works";
means "Newer libraries ask it in place of the device. A container's seccomp profile may forbid it.";
see "`python3 -c 'import os; os.getrandom(16)'` tries it.";
fix "Allow `getrandom` in the container's seccomp profile.";

STDIN = "OB-STDIN": "Whether standard input is open";
means "Where it is closed, the next file that is opened becomes descriptor 0, and programs that read standard input read that.";
see "`ls -l /proc/PID/fd/0` shows it.";
fix "Start the program with `</dev/null`.";

SHM = "OB-SHM": "Whether `/dev/shm` has room";
means "Data loaders with processes of their own share memory there. Docker gives 64 MiB unless told.";
see "`df -h /dev/shm` shows it. Too little ends in a bus error, or in workers of a data loader that die.";
fix "Start the container with a larger `--shm-size`, or with `--ipc=host`.";

GPU = "OB-GPU": "Whether a GPU can be used";
means "An NVIDIA GPU is visible, its driver answers, and PyTorch, where it is installed, can use both.";
see "`nvidia-smi` shows the GPU and its driver; `python3 -c 'import torch; print(torch.version.cuda, torch.cuda.is_available())'` whether \
    PyTorch can use it.";
fix "Let the driver's and the container's NVIDIA libraries be of one version; take a PyTorch for an older CUDA, or a host with a newer \
    driver. Without a GPU, tasks run on the CPU.";

IMPORT = "OB-IMPORT": "Whether the libraries can be imported";
means "Imports were tried in a process of their own, with standard input on `/dev/null`, in the order that was given. One failed, aborted \
    or hung.";
see "`outboard-worker preflight --imports tensorflow,duckdb` tries them, and shows the last words of the one that failed.";
fix "Install what is missing, or leave the import out. Where OB-CLASH or OB-RANDOM-DEVICE fails too, mend that first.";

CLASH = "OB-CLASH": "Whether two copies of libstdc++ meet";
means "A library brings a copy of libstdc++ and exports it, so that other libraries bind to it in place of the system's. They disagree \
    about objects such as `std::random_device`: the process dies with \"random_device could not be read\", or hangs. TensorFlow's \
    `libtensorflow_framework.so.2` does this.";
see "`nm -D LIBRARY | grep St13random_device` lists what it exports; `outboard-worker preflight --imports NAMES` names both libraries.";
fix "Start the program with `LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libstdc++.so.6`, or import the other library first. The worker for \
    PyTorch does the first by itself where it helps. `docs/random-device.md` explains it.";

}
