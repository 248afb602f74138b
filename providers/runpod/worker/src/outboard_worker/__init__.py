"""Outboard's worker for PyTorch: runs the tasks of `docs/protocol.md` on a GPU, or on the CPU.

- `layers`, `model`: the protocol's layers as PyTorch modules, for whoever loads a model
- `draws`, `augment`, `losses`, `optim`: what the protocol draws and computes
- `fields`, `specs`, `hyperparameters`: what may be asked for, checked
- `tensors`, `dataset`, `checkpoint`: the files
- `device`, `network`, `trainer`, `execute`: the operations
- `plain`, `plain_request`: one call without a protocol
- `task`: the task process; `process`, `supervisor`: what keeps it, without PyTorch
- `preflight`, one file that runs alone, and `health`: why a run would fail, before it costs
- `environment`: what the place is like, as facts; runs alone beside `preflight` and `memory`
- `envelope`, `failure`, `settings`: messages, errors, settings
- `store`, `transfer`: blobs, and their way
- `courier`, `notes`, `inline`: a task with a bucket, and one with its blobs beside it
- `serverless`, `server`: under RunPod's SDK, and over HTTP
"""

__version__ = "0.1.0"

PROTOCOL = 1
