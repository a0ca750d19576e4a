"""What stands before every route: who may ask, how much, how long it may take, and that each refusal is a sentence.

Plain ASGI, below FastAPI: what is refused here reaches no parser. A request's body is read whole, at most so many bytes in so
many seconds. Web pages in a browser on this machine could otherwise reach a server on 127.0.0.1: a `Host` that is another
name (DNS rebinding) and an `Origin` of another site are refused where there is no token.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from calico.scripts.common import console
from calico.scripts.serving.limits import Limits, Refused, error_document
from calico.scripts.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN = ("/health",)          # asked for by those who watch over machines, and tells nothing
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class Guard:
    """Around an ASGI application.

    Args:
        token: which requests must bring; "": none is asked for.
        routes: paths that are counted by name, as the start of a path; others are counted together.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], limits: Limits, metrics: Metrics, token: str,
                 routes: Sequence[str]) -> None:
        self.app, self.limits, self.metrics, self.token, self.routes = app, limits, metrics, token, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        route = next((route for route in self.routes if scope["path"].startswith(route)), "other")
        began, status = time.perf_counter(), 101 if scope["type"] == "websocket" else 500

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            await send(message)

        try:
            self.check_sender(scope)
            if scope["type"] == "http":
                receive = replayed(await self.body(scope, receive), receive)
            await self.app(scope, receive, watched)
        except Refused as error:
            await refuse(scope, receive, watched, error)
        finally:
            self.metrics.requests.labels(route, str(status)).inc()
            if scope["type"] == "http":
                self.metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def check_sender(self, scope: Scope) -> None:
        """Raises Refused for a request without the token, or from a web page of another site."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self.token:
            host = urlsplit(f"//{headers.get(b'host', '')}").hostname if _is_host(headers.get(b"host", "")) else None
            if host not in LOOPBACK:
                raise Refused(403, "this server answers to 127.0.0.1 and localhost; for other names start it with CALICO_TOKEN")
            if (origin := headers.get(b"origin")) and urlsplit(origin).netloc != headers.get(b"host"):
                raise Refused(403, "this server answers no web page of another site; start it with CALICO_TOKEN")
        elif scope["path"] not in OPEN:
            kind, _, given = headers.get(b"authorization", "").partition(" ")
            if kind.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self.token.encode()):
                raise Refused(401, "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`",
                              {"WWW-Authenticate": "Bearer"})

    async def body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises Refused for one that is too large, or too slow."""
        declared = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        too_large = Refused(413, f"a request may have {self.limits.bytes:,} bytes; send a smaller picture or fewer messages")
        if declared.isdigit() and int(declared[:20]) > self.limits.bytes:
            raise too_large
        parts, length = [], 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refused(400, "the request ended in the middle")
                    parts.append(message.get("body", b""))
                    length += len(parts[-1])
                    if length > self.limits.bytes:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(408, f"the request did not arrive within {self.limits.seconds:g} seconds") from None


def _is_host(value: str) -> bool:
    try:
        urlsplit(f"//{value}")
    except ValueError:
        return False
    return True


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, then what really comes: that the client has left."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


async def refuse(scope: Scope, receive: Receive, send: Send, error: Refused) -> None:
    """Answer with an error's sentence, also where a WebSocket was asked for."""
    body = json.dumps(error_document(error.status, console.printable(error.message))).encode()
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
            return
        await receive()       # the handshake
        kind = "websocket.http.response"
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers}
    await send({"type": f"{kind}.start", "status": error.status,
                "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]})
    await send({"type": f"{kind}.body", "body": body})
