"""A bucket on loopback: objects by path, conditional puts, and faults."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Bucket:
    """Objects, and what was asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.seen: list[tuple[str, str]] = []
        # For each of these requests, in turn: a status, or `cut` after half of the body.
        self.faults: dict[tuple[str, str], list[int | str]] = {}
        self.lock = threading.Lock()
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                bucket.get(self, self.path.split("?")[0])

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                bucket.put(self, self.path.split("?")[0], body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        """A URL that is as secret as a signed one."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/{path}?X-Amz-Signature=s3cret"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, method: str, path: str) -> int | str | None:
        with self.lock:
            self.seen.append((method, path))
            waiting = self.faults.get((method, path))
            return waiting.pop(0) if waiting else None

    def reply(
        self, to: BaseHTTPRequestHandler, status: int, body: bytes = b"", **more: str
    ) -> None:
        to.send_response(status)
        to.send_header("Content-Length", str(len(body)))
        for name, value in more.items():
            to.send_header(name, value)
        to.end_headers()
        to.wfile.write(body)

    def get(self, to: BaseHTTPRequestHandler, path: str) -> None:
        fault = self.fault("GET", path)
        body = self.objects.get(path)
        if isinstance(fault, int) or body is None:
            return self.reply(to, fault if isinstance(fault, int) else 404)
        start = int((to.headers.get("Range") or "bytes=0-")[6:-1])
        if fault == "cut":
            to.send_response(206 if start else 200)
            to.send_header("Content-Length", str(len(body) - start))
            to.end_headers()
            to.wfile.write(body[start : start + (len(body) - start) // 2])
            to.wfile.flush()
            to.close_connection = True
            to.connection.shutdown(socket.SHUT_RDWR)
            return None
        return self.reply(to, 206 if start else 200, body[start:], ETag='"1"')

    def put(self, to: BaseHTTPRequestHandler, path: str, body: bytes) -> None:
        fault = self.fault("PUT", path)
        if isinstance(fault, int):
            return self.reply(to, fault)
        with self.lock:
            if to.headers.get("If-None-Match") == "*" and path in self.objects:
                status = 412
            else:
                self.objects[path] = body
                status = 200
        return self.reply(to, status)
