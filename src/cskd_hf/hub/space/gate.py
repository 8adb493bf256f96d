"""What the app answers over HTTP: the few routes of gradio that its page uses, and no file or address but uploads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

API = "/gradio_api"
MAX_EVENT_BYTES = 2**20
# Left out, among others: proxy=, file=http... and call/, through which gradio itself would fetch an address.
_ROUTES = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)/?|/(assets|static|svelte)/.*"
    rf"|{API}/(startup-events|app_id|upload|upload_progress|queue/join|queue/data|reset|cancel)/?"
    rf"|{API}/heartbeat/[^/]+|{API}/file=[^:]*"
)


class Gate:
    """ASGI middleware in front of gradio.

    Every route that the page does not need is answered with 404. In the data of an event, every `path` must be a file
    in the folder of uploads: gradio fetches a path that is an address, which whoever opens the page could make it do.

    Args:
        app: gradio's own.
        uploads: the folder of uploads.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: Path) -> None:
        self._app = app
        self._uploads = Path(os.path.realpath(uploads))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http" or not _ROUTES.fullmatch(scope["path"]):
            await _refuse(scope, send, 404, "this app has no such page")
        elif not scope["path"].startswith(f"{API}/queue/join"):
            await self._app(scope, receive, send)
        else:
            await self._event(scope, receive, send)

    async def _event(self, scope: Message, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # the client went away
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_EVENT_BYTES:
                await _refuse(scope, send, 413, f"an event may hold {MAX_EVENT_BYTES} bytes")
                return
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            await _refuse(scope, send, 400, "the event is no JSON")
            return
        if not all(self._is_upload(path) for path in _paths(event)):
            await _refuse(scope, send, 403, "only uploaded files are read, no addresses and no files of this machine")
            return
        await self._app(scope, _replayed(body, receive), send)

    def _is_upload(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path or not os.path.isabs(path):
            return False
        return self._uploads in Path(os.path.realpath(path)).parents


def _paths(value: Any) -> Iterator[Any]:
    """Every `path` in a piece of JSON, at any depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "path" in value:
                yield value["path"]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(scope: Message, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    content = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
