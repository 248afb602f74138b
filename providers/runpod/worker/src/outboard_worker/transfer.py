"""Objects over HTTP, by URLs that are signed already. Nothing here knows a credential."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import TypeVar

import urllib3

from outboard_worker.failure import OTHER, Failure, same
from outboard_worker.store import CHUNK

CONNECT = 10.0
# Longest time for a reply, and for a transfer to stand still.
SILENCE = 60.0
MAX_BLOB_BYTES = 64 << 30
MAX_ERROR_BYTES = 64 << 10
# How often a download goes on after a cut, each time with at least one new byte.
MAX_CUTS = 8
# Tries in all, bound of the first delay between them, and when no other begins.
TRIES = 5
FIRST_DELAY = 0.5
TOTAL = 120.0

T = TypeVar("T")

_AGAIN = {"unavailable", "timeout"}


class Transfer:
    """A client of a store. It neither follows redirections nor tries again."""

    def __init__(self) -> None:
        self.pool = urllib3.PoolManager(
            retries=False, maxsize=4, timeout=urllib3.Timeout(connect=CONNECT, read=SILENCE)
        )

    def request(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """A reply that is no error; its body is still to be read."""
        try:
            reply = self.pool.request(
                method, url, body=body, headers=headers or {}, preload_content=False, redirect=False
            )
            if 200 <= reply.status < 300:
                return reply
            text = reply.read(MAX_ERROR_BYTES, decode_content=True)
            reply.close()
        except urllib3.exceptions.HTTPError as error:
            raise unreachable(error).at("object", shown(url)) from None
        raise refused(reply.status, reply.headers, text).at("object", shown(url))

    def put(self, url: str, body: bytes) -> None:
        """Puts an object, in place of another."""
        self.request("PUT", url, body).drain_conn()

    def create(self, url: str, body: bytes) -> bool:
        """Puts an object only where there is none: true for exactly one of all who try."""
        try:
            self.request("PUT", url, body, {"If-None-Match": "*"}).drain_conn()
        except Failure as failure:
            if failure.kind == "conflict":
                return False
            raise
        return True

    def chunks(self, url: str) -> Iterator[bytes]:
        """An object's bytes. One that was cut goes on where it stopped."""
        received, tag, cuts = 0, None, 0
        while True:
            before = received
            try:
                headers = {} if not received else {"Range": f"bytes={received}-"}
                if received and tag:
                    headers["If-Match"] = tag
                try:
                    reply = self.request("GET", url, headers=headers)
                except Failure as failure:
                    if failure.kind == "conflict":
                        text = "an object changed while it was fetched"
                        raise Failure("corrupt_payload", text, hint="fetch it again") from None
                    raise
                tag = reply.headers.get("ETag")
                # Where the store gave everything anew, what came already is passed over.
                skip = 0 if reply.status == 206 else received
                try:
                    for chunk in reply.stream(CHUNK, decode_content=False):
                        news = chunk[skip:]
                        skip = max(0, skip - len(chunk))
                        received += len(news)
                        if news:
                            yield news
                except urllib3.exceptions.HTTPError as error:
                    raise unreachable(error).at("object", shown(url)) from None
                finally:
                    reply.release_conn()
                return
            except Failure as failure:
                cuts += 1
                if failure.kind not in _AGAIN or received == before or cuts > MAX_CUTS:
                    raise


def shown(url: str) -> str:
    """The URL without its signature."""
    address = re.split(r"[?#]", url)[0]
    return ("" if "@" in address else address) + "?***"


def unreachable(error: urllib3.exceptions.HTTPError) -> Failure:
    """Why there was no reply. The error's own text may hold the URL."""
    kinds = urllib3.exceptions
    if isinstance(error, kinds.ReadTimeoutError):
        text = f"nothing moved between this machine and the store for {SILENCE:g} s"
        return Failure("timeout", text, hint="look at the network and at the store")
    if isinstance(error, kinds.SSLError):
        text = "the store can't be reached safely"
        hint = "let this system trust the store's certificate"
        return Failure("unavailable", text, retry=OTHER, hint=hint)
    if isinstance(error, kinds.NewConnectionError | kinds.ConnectTimeoutError):
        text = "the store can't be reached"
    else:
        text = "the connection to the store was cut"
    failure = Failure("unavailable", text, hint="check the network and the store")
    return failure.at("why", type(error).__name__)


def element(xml: str, name: str) -> str | None:
    """The text of an element, if it is a plain one."""
    found = re.search(rf"<{name}>([A-Za-z0-9 \-_:.]{{0,100}})</{name}>", xml)
    return found[1] if found else None


_BY_CODE = {
    **dict.fromkeys(("SlowDown", "RequestLimitExceeded", "Throttling"), 429),
    **dict.fromkeys(("SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken"), 401),
    **dict.fromkeys(("RequestTimeTooSkewed", "InvalidToken"), 401),
    **dict.fromkeys(("BadDigest", "IncompleteBody"), 416),
    **dict.fromkeys(("QuotaExceeded", "XMinioStorageFull"), 507),
    "RequestTimeout": 408,
    "EntityTooLarge": 413,
    "NotImplemented": 501,
}
_BY_STATUS = {
    401: ("unauthenticated", "the store refuses the signature or the credentials behind it"),
    403: ("permission_denied", "the store forbids this"),
    404: ("not_found", "the store has no such object"),
    408: ("timeout", "the store took too long"),
    409: ("conflict", "the object is there already"),
    412: ("conflict", "the object is there already"),
    413: ("payload_too_large", "it is larger than the store takes"),
    416: ("corrupt_payload", "the bytes did not arrive whole"),
    429: ("rate_limited", "the store is asked too often"),
    501: ("unsupported", "the store doesn't know a request that is needed"),
    504: ("timeout", "the store took too long"),
    507: ("quota_exceeded", "the store is full"),
}


def refused(status: int, headers: urllib3.HTTPHeaderDict, body: bytes) -> Failure:
    """The error that a reply tells, by its code where it has one, else by its status."""
    xml = body.decode(errors="replace")
    code = element(xml, "Code")
    if code == "AccessDenied" and (
        element(xml, "ServerTime") or element(xml, "Message") == "Request has expired"
    ):
        text = "the time is over for which a URL of the store was signed"
        hint = "check the clocks of both machines, or hand the task over again"
        return Failure("timeout", text, retry=OTHER, hint=hint).at("status", status)
    meaning = _BY_STATUS.get(_BY_CODE.get(code or "", status))
    if meaning is None:
        text = "the store failed, or what stands before it"
        odd = ("unexpected", "the store's reply has no meaning here")
        meaning = ("unavailable", text) if status >= 500 else odd
    kind, text = meaning
    retry = None
    if kind in ("rate_limited", "unavailable", "timeout"):
        retry = same(retry_after(headers.get("Retry-After")))
    failure = Failure(kind, text, retry=retry, hint="look at the store").at("status", status)
    return failure.at("code", code) if code else failure


def retry_after(text: str | None) -> float | None:
    """The waiting time that a reply asks for: seconds, or a date."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(min(int(text), 86_400))
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def persist(call: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Tries again what may come right: a worker has nobody around it who would."""
    began, bound = time.monotonic(), FIRST_DELAY
    for tries in range(1, TRIES + 1):
        try:
            return call()
        except Failure as failure:
            if not isinstance(failure.retry, dict) or "same" not in failure.retry or tries == TRIES:
                raise
            after = failure.retry["same"]["after"]
            delay = bound * random.random() + (after["secs"] if after else 0)
            if time.monotonic() - began + delay > TOTAL:
                raise
            sleep(delay)
            bound *= 2
    raise AssertionError("unreachable")
