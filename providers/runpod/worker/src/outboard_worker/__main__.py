"""The program `outboard-worker`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from outboard_worker import __version__, preflight
from outboard_worker.failure import USAGE, Failure, where_explained
from outboard_worker.settings import Settings


class Parser(argparse.ArgumentParser):
    """Ends its errors as all others end."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\n{where_explained(USAGE)}\n")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What the flags say."""
    parser = Parser(
        "outboard-worker",
        description="Runs Outboard's tasks with PyTorch. Without --listen it takes RunPod's jobs, "
        "or, where there is no RunPod, the one in test_input.json. `outboard-worker preflight` "
        "says why a run would fail here.",
        # `--token` must not be taken for `--token-file`.
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--stdio", action="store_true", help="be a task process")
    parser.add_argument("--store", type=Path, help="folder of blobs")
    parser.add_argument("--threads", type=int, default=None, help="threads of a task process")
    parser.add_argument("--listen", metavar="ADDRESS", help="serve clients over HTTP")
    parser.add_argument("--token-file", type=Path, help="the token that clients must show")
    parser.add_argument("--tls-cert", type=Path, help="certificate, to speak HTTPS")
    parser.add_argument("--tls-key", type=Path, help="its key")
    known, rest = parser.parse_known_args(given)
    if (known.stdio or known.listen) and rest:
        # What follows a flag may be a secret.
        flags = [argument.split("=")[0] for argument in rest if argument.startswith("-")]
        parser.error(f"unrecognized arguments: {' '.join(flags or rest)}")
    return known


def main(given: Sequence[str] | None = None) -> int:
    """Runs the program; its exit status."""
    given = sys.argv[1:] if given is None else given
    if given[:1] == ["preflight"]:
        return preflight.main(given[1:])
    flags = arguments(given)
    try:
        settings = Settings.read()
        if flags.store:
            settings = dataclasses.replace(settings, store=flags.store)
        if flags.threads is not None:
            settings = dataclasses.replace(settings, threads=flags.threads)
        run(flags, settings)
    except Failure as failure:
        print(failure.explained(), file=sys.stderr)
        return 2
    return 0


def run(flags: argparse.Namespace, settings: Settings) -> None:
    """Becomes what the flags say."""
    if flags.stdio:
        from outboard_worker import task

        return task.serve(settings)
    from outboard_worker.health import Health
    from outboard_worker.inline import Requests
    from outboard_worker.process import task_program
    from outboard_worker.store import Store
    from outboard_worker.supervisor import Supervisor

    store = Store(settings.store, settings.cache_bytes)
    supervisor = Supervisor(task_program(settings), health=Health(settings))
    if flags.listen:
        from outboard_worker import server

        return server.serve(flags, supervisor, store)
    from outboard_worker import serverless

    serverless.serve(Requests(supervisor, store))


if __name__ == "__main__":
    sys.exit(main())
