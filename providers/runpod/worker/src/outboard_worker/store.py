"""Blobs as files, `blobs/DIGEST`, and how they are encoded on their way."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import blake3
import zstandard

from outboard_worker.failure import Failure, corrupt, invalid

CHUNK = 1 << 20
# Fast: what is saved on the way must not be lost in computing.
LEVEL = 1
# The largest window that a compressed blob may ask for.
WINDOW = 16 << 20
# Bytes from which is seen whether compression pays.
SAMPLE = 64 << 10
# A blob that was needed lately isn't removed: a task may be about to read it.
YOUNG = 600.0


def digest_of(data: bytes) -> str:
    """The digest that names some bytes."""
    return blake3.blake3(data).hexdigest()


def is_digest(text: object) -> bool:
    """Whether this names a blob."""
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{64}", text) is not None


def check_digest(text: object) -> str:
    """The digest, or an error: it becomes the name of a file."""
    if not isinstance(text, str) or not is_digest(text):
        raise corrupt(f"`{str(text)[:80]}` is not a digest of 64 hexadecimal digits")
    return text


class Store:
    """A folder of blobs, of a bounded size. Several processes may share one."""

    def __init__(self, folder: Path, cache_bytes: int = 20 << 30) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.cache_bytes = cache_bytes
        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"the worker's store {folder} can't be made: {error.strerror}"
            raise Failure("invalid_config", text, hint="set OUTBOARD_WORKER_STORE") from error

    def path(self, digest: str) -> Path:
        """The file of a blob, whether it is there or not."""
        return self.blobs / check_digest(digest)

    def has(self, digest: str) -> bool:
        """Whether the blob is there; one that is becomes young again."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def verify(self, digest: str) -> Path:
        """The file of a blob that is there and whole."""
        path = self.path(digest)
        hasher = blake3.blake3()
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    hasher.update(chunk)
        except FileNotFoundError:
            failure = Failure("not_found", "a blob isn't there", hint="start the job again")
            raise failure.at("blob", digest) from None
        except OSError as error:
            text = f"the worker's store failed: {error.strerror or error}"
            raise Failure("worker_unhealthy", text, hint="look at the worker's disk") from error
        if hasher.hexdigest() != digest:
            text = "a blob does not match its digest: the file was damaged"
            failure = Failure("corrupt_payload", text, hint="start the job again")
            raise failure.at("file", path)
        return path

    def is_whole(self, digest: str) -> bool:
        """Whether the blob is there and whole; a damaged one is removed."""
        if not self.has(digest):
            return False
        try:
            self.verify(digest)
        except Failure:
            self.remove(digest)
            return False
        return True

    def remove(self, digest: str) -> None:
        """Removes a blob, if it is there."""
        self.path(digest).unlink(missing_ok=True)

    def write(self, data: bytes) -> str:
        """Stores bytes durably, whole or not at all."""
        digest = digest_of(data)
        if not self.is_whole(digest):
            self.receive(digest, iter([data]), "raw", len(data))
        return digest

    def receive(self, digest: str, chunks: Iterator[bytes], encoding: str, limit: int) -> int:
        """Stores a blob of at most `limit` bytes as they come, verified. Returns how many."""
        path = self.path(digest)
        hasher, size = blake3.blake3(), 0
        handle, name = tempfile.mkstemp(prefix=".", suffix=".new", dir=self.blobs)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in decoded(chunks, encoding):
                    size += len(chunk)
                    if size > limit:
                        text = f"a blob is larger than {limit} bytes"
                        raise Failure("payload_too_large", text).at("blob", digest)
                    hasher.update(chunk)
                    file.write(chunk)
                if hasher.hexdigest() != digest:
                    text = "a blob does not match its digest: it was damaged on its way"
                    raise corrupt(text).at("blob", digest)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except OSError as error:
            text = f"the worker's store failed: {error.strerror or error}"
            raise Failure("worker_unhealthy", text, hint="give the worker more disk") from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        self.shrink(keep=digest)
        return size

    def shrink(self, keep: str) -> None:
        """Removes what was longest not needed, until the rest fits."""
        files = []
        now = time.time()
        for path in self.blobs.iterdir():
            with suppress(FileNotFoundError):
                facts = path.stat()
                if is_digest(path.name):
                    files.append((facts.st_mtime, facts.st_size, path))
                elif now - facts.st_mtime > 3600:
                    path.unlink()
        total = sum(size for _, size, _ in files)
        for touched, size, path in sorted(files):
            if total <= self.cache_bytes:
                return
            if path.name != keep and now - touched > YOUNG:
                path.unlink(missing_ok=True)
                total -= size

    def pack(self, digest: str, limit: int) -> tuple[str, bytes]:
        """How a blob is best encoded, and its bytes so, of which there may be `limit`."""
        data = self.verify(digest).read_bytes()
        encoding = "raw"
        if pays(data[:SAMPLE]):
            encoding, data = "zstd", compress(data)
        if len(data) > limit:
            text = (
                f"the blobs of a task are larger than the {limit} bytes that travel without a store"
            )
            failure = Failure("payload_too_large", text, hint="configure a store: `[store] url`")
            raise failure.at("blob", digest)
        return encoding, data


def compress(data: bytes) -> bytes:
    """One zstd frame."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def pays(sample: bytes) -> bool:
    """Whether bytes shrink by a tenth at least."""
    return len(compress(sample)) < len(sample) // 10 * 9


def decoded(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The bytes that were encoded; never many at a time, whatever a frame says of itself."""
    if encoding == "raw":
        yield from chunks
        return
    if encoding != "zstd":
        raise invalid(f"the encoding `{encoding}` is unknown here", hint="use `raw` or `zstd`")
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
    try:
        source: Any = _Reader(chunks)
        with decompressor.stream_reader(source, read_across_frames=False) as reader:
            while chunk := reader.read(CHUNK):
                yield chunk
    except zstandard.ZstdError as error:
        raise corrupt(f"a blob can't be decompressed: {error}") from error


class _Reader:
    """Chunks as a file to read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest = chunks, b""

    def read(self, size: int = -1) -> bytes:
        if not self.rest:
            self.rest = next(self.chunks, b"")
        part, self.rest = self.rest[:size], self.rest[size:]
        return part
