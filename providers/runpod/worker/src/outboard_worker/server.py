"""The worker over HTTP."""
from __future__ import annotations
import argparse
from outboard_worker.store import Store
from outboard_worker.supervisor import Supervisor
def serve(flags: argparse.Namespace, supervisor: Supervisor, store: Store) -> None:
    raise NotImplementedError
