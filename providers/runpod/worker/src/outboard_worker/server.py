"""The worker over HTTP (section 12), for the provider `http`."""

from __future__ import annotations

import argparse
import fcntl
import hmac
import re
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from outboard_worker import PROTOCOL, __version__
from outboard_worker.envelope import MAX_MESSAGE_BYTES, Envelope, decode, encode
from outboard_worker.failure import Failure, Json, corrupt, invalid
from outboard_worker.store import CHUNK, Store, check_digest, compress, digest_of, is_digest, pays
from outboard_worker.supervisor import Supervisor
from outboard_worker.tasks import MAX_QUEUED, Refused, Tasks

MAX_BLOB_BYTES = 4 << 30
# Longest times: of a silent connection, of waiting for news, of tasks that should stop.
SILENCE = 60.0
LONGEST_WAIT = 30.0
DRAIN = 30.0
# Blobs up to this size are compressed for whoever takes that.
MAX_COMPRESSED = 64 << 20

STATUS = {
    **dict.fromkeys(("invalid_request", "unsupported", "corrupt_payload"), 400),
    **{"unauthenticated": 401, "not_found": 404, "conflict": 409, "timeout": 410},
    **{"payload_too_large": 413, "rate_limited": 429, "unavailable": 503},
}


def read_token(path: Path | None) -> bytes:
    """The token in a file that nobody else may read."""
    make = "umask 077; openssl rand -hex 32 > token, then add --token-file token"
    if path is None:
        raise Failure("invalid_config", "a worker that listens needs a token", hint=make)
    try:
        mode, token = path.stat().st_mode & 0o777, path.read_text().strip()
    except OSError as error:
        text = f"cannot read the token file {path}: {error.strerror}"
        raise Failure("invalid_config", text, hint="check the path") from error
    if mode & 0o077:
        failure = Failure(
            "invalid_config", "others may read the token file", hint=f"chmod 600 {path}"
        )
        raise failure.at("file", path).at("mode", f"{mode:03o}")
    if not token or not re.fullmatch(r"[!-~]+", token):
        text = "the token is empty, or has spaces or characters beyond ASCII"
        raise Failure("invalid_config", text, hint=make).at("file", path)
    return token.encode()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = f"outboard-worker/{__version__}"
    timeout = SILENCE
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: Any) -> None:
        """Nothing: keys of tasks stand in the path."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ssl.SSLError, ConnectionError):
            self.close_connection = True

    def do_GET(self) -> None:
        self.answer("GET")

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def answer(self, method: str) -> None:
        """Answers a request, an error with its status."""
        self.is_read = False
        try:
            self.authorize()
            self.route(method)
        except Refused as refused:
            self.refuse(refused.status, refused.failure)
        except Failure as failure:
            self.refuse(STATUS.get(failure.kind, 500), failure)
        except TimeoutError:
            self.close_connection = True

    def refuse(self, status: int, failure: Failure) -> None:
        # What of the body was not read would be taken for the next request.
        self.close_connection |= not self.is_read and self.command in ("PUT", "POST")
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if isinstance(failure.retry, dict) and (
            after := failure.retry.get("same", {}).get("after")
        ):
            headers["Retry-After"] = str(max(1, after["secs"]))
        self.message(status, failure.to_json(), **headers)

    def message(self, status: int, message: Any, **headers: str) -> None:
        """A message, with its digest."""
        body = encode(message)
        self.send_response(status)
        kind = {"Content-Type": "application/json", "outboard-digest": digest_of(body)}
        for name, value in {**kind, **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def authorize(self) -> None:
        given = self.headers.get("Authorization")
        expected = b"Bearer " + self.server.token
        if given is None or not hmac.compare_digest(given.encode("latin-1"), expected):
            text = "the request has no token" if given is None else "the token is wrong"
            hint = "send the token of the worker's --token-file"
            raise Failure("unauthenticated", text, hint=hint)

    def route(self, method: str) -> None:
        parts = urlsplit(self.path)
        try:
            path = [unquote(part, errors="strict") for part in parts.path.split("/")[1:]]
        except UnicodeDecodeError as error:
            raise invalid("the path is not UTF-8") from error
        match (method, path):
            case ("GET", ["v1", "health"]):
                return self.message(200, self.server.health())
            case ("GET" | "HEAD", ["v1", "blobs", digest]):
                return self.give(check_path(digest))
            case ("PUT", ["v1", "blobs", digest]):
                return self.take(check_path(digest))
            case ("GET", ["v1", "tasks"]):
                return self.message(200, self.server.tasks.list())
            case ("POST", ["v1", "tasks"]):
                return self.message(*self.submit())
            case ("GET", ["v1", "tasks", key]):
                query = parse_qs(parts.query)
                seen, limit = whole(query, "seen", 0), whole(query, "wait_ms", 2**63) / 1000
                live = self.server.tasks.known(key)
                return self.message(200, live.wait(seen, min(limit, LONGEST_WAIT)))
            case ("DELETE", ["v1", "tasks", key]):
                return self.message(200, self.server.tasks.cancel(key, LONGEST_WAIT))
            case (_, ["v1", "health" | "tasks"] | ["v1", "blobs" | "tasks", _]):
                raise Refused(405, invalid("the path has no such method"))
        raise Failure("not_found", "the worker has no such path")

    def body(self) -> Iterator[bytes]:
        """The request's body, as it comes."""
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            while size := self.chunk_size():
                yield from self.pieces(size)
                self.rfile.readline(8)
            while self.rfile.readline(1024).strip():
                pass
        else:
            length = self.headers.get("Content-Length") or "0"
            if not length.isdigit():
                raise invalid("the request's length is no number")
            yield from self.pieces(int(length))
        self.is_read = True

    def chunk_size(self) -> int:
        line = self.rfile.readline(64).split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", line):
            raise cut_off("the connection broke")
        return int(line, 16)

    def pieces(self, size: int) -> Iterator[bytes]:
        while size:
            try:
                piece = self.rfile.read1(min(size, CHUNK))
            except TimeoutError as error:
                raise cut_off("nothing came for too long") from error
            if not piece:
                raise cut_off("the connection broke")
            size -= len(piece)
            yield piece

    def submit(self) -> tuple[int, Json]:
        data = bytearray()
        for piece in self.body():
            data += piece
            if len(data) > MAX_MESSAGE_BYTES:
                text = f"a message is larger than {MAX_MESSAGE_BYTES} bytes"
                raise Failure("payload_too_large", text)
        digest = self.headers.get("outboard-digest")
        if digest is not None and digest != digest_of(bytes(data)):
            raise corrupt("a message was damaged on its way: it does not match its digest")
        return self.server.tasks.accept(Envelope.read(decode(bytes(data))))

    def take(self, digest: str) -> None:
        """Takes a blob."""
        store = self.server.store
        if store.has(digest):
            for _ in self.body():
                pass
            return self.bare(200)
        encodings = {None: "raw", "identity": "raw", "zstd": "zstd"}
        given = self.headers.get("Content-Encoding")
        if given not in encodings:
            text = "the blob's encoding is neither `identity` nor `zstd`"
            raise Refused(415, Failure("unsupported", text))
        try:
            store.receive(digest, self.body(), encodings[given], MAX_BLOB_BYTES)
        except Failure as failure:
            if failure.kind == "corrupt_payload":
                raise Refused(422, failure) from None
            raise
        self.bare(201)

    def bare(self, status: int, **headers: str) -> None:
        """A reply without a body."""
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def give(self, digest: str) -> None:
        """Gives a blob, whole, from a byte on, or compressed."""
        path = self.server.store.path(digest)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise Failure("not_found", "the worker has no such blob").at("blob", digest) from None
        with file:
            length = path.stat().st_size
            found = re.fullmatch(r"bytes=([0-9]{1,18})-", self.headers.get("Range") or "")
            headers = {"Content-Length": str(length), "Accept-Ranges": "bytes"}
            accepted = (self.headers.get("Accept-Encoding") or "").lower().split(",")
            if self.command == "HEAD":
                return self.bare(200, **headers)
            if found:
                start = int(found[1])
                if start >= length:
                    text = f"the blob has {length} bytes, none from {start} on"
                    raise Refused(416, invalid(text))
                file.seek(start)
                headers["Content-Length"] = str(length - start)
                self.bare(
                    206, **headers, **{"Content-Range": f"bytes {start}-{length - 1}/{length}"}
                )
            elif "zstd" in map(str.strip, accepted) and length <= MAX_COMPRESSED:
                data = file.read()
                encoding = {"Content-Encoding": "zstd"} if pays(data[:CHUNK]) else {}
                data = compress(data) if encoding else data
                self.bare(200, **{**headers, **encoding, "Content-Length": str(len(data))})
                self.wfile.write(data)
                return None
            else:
                self.bare(200, **headers)
            while chunk := file.read(CHUNK):
                self.wfile.write(chunk)


def check_path(digest: str) -> str:
    """The digest in a path."""
    if not is_digest(digest):
        raise invalid(f"`{digest[:80]}` is not a digest of 64 hexadecimal digits")
    return check_digest(digest)


def whole(query: dict[str, list[str]], name: str, default: int) -> int:
    """A number in a query."""
    text = query.get(name, [str(default)])[0]
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise invalid(f"the query cannot be read: `{name}` is no number")
    return int(text)


def cut_off(why: str) -> Refused:
    return Refused(400, corrupt(f"the message did not arrive whole: {why}"))


class Server(ThreadingHTTPServer):
    """A worker whose first task process is ready."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], token: bytes, supervisor: Supervisor, store: Store
    ) -> None:
        self.lock_file = (store.folder / "worker.lock").open("w")
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text, hint = "another worker uses the store", "give each worker a folder of its own"
            raise Failure("conflict", text, hint=hint).at("folder", store.folder) from error
        self.token, self.supervisor, self.store = token, supervisor, store
        self.tls: ssl.SSLContext | None = None
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        try:
            super().__init__(address, Handler)
        except OSError as error:
            text = f"cannot listen on {address[0]}:{address[1]}: {error.strerror}"
            raise Failure("invalid_config", text, hint="choose another address") from error
        self.hello = supervisor.start()
        self.tasks = Tasks(supervisor, store)

    def get_request(self) -> tuple[Any, Any]:
        connection, client = super().get_request()
        connection.settimeout(SILENCE)
        if self.tls:
            # The handshake is the connection's own thread's business.
            connection = self.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, client

    def handle_error(self, request: Any, client_address: Any) -> None:
        print(f"a request failed: {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)

    def health(self) -> Json:
        """What the worker says of itself."""
        live = self.tasks.list()
        running = sum(one["running"] for one in live)
        names = ("device", "numerics", "layers")
        return {
            "protocol": PROTOCOL,
            "version": __version__,
            **{name: self.hello[name] for name in names},
            "running": running,
            "queued": len(live) - running,
            "max_running": 1,
            "max_queued": MAX_QUEUED,
            "max_blob_bytes": MAX_BLOB_BYTES,
            "blobs": sum(is_digest(path.name) for path in self.store.blobs.iterdir()),
            "draining": self.tasks.is_draining,
        }


def serve(flags: argparse.Namespace, supervisor: Supervisor, store: Store) -> None:
    """Serves until the process is asked to end, then stops what runs, with a checkpoint."""
    token = read_token(flags.token_file)
    host, _, port = flags.listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        text = f"--listen {flags.listen} is no address"
        raise Failure("invalid_config", text, hint="write --listen 127.0.0.1:7878, say")
    if bool(flags.tls_cert) != bool(flags.tls_key):
        text = "--tls-cert and --tls-key go together"
        raise Failure("invalid_config", text, hint="give both, or neither")
    server = Server((host.strip("[]"), int(port)), token, supervisor, store)
    if flags.tls_cert:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            server.tls.load_cert_chain(flags.tls_cert, flags.tls_key)
        except (OSError, ssl.SSLError) as error:
            text = f"the certificate and its key can't be used: {error}"
            raise Failure(
                "invalid_config", text, hint="docs/workers.md says how to make both"
            ) from error
    scheme = "https" if flags.tls_cert else "http"
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    shown = f"{scheme}://{flags.listen.rpartition(':')[0]}:{server.server_address[1]}"
    print(
        f"listening on {shown} ({server.hello['device']}, 1 task at a time)",
        file=sys.stderr,
        flush=True,
    )
    asked.wait()
    server.tasks.drain(DRAIN)
    server.shutdown()
    supervisor.close()
