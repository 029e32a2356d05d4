"""One API call: the engine's ASGI app driven without threads, and the client that the engine's requester uses for it.

In comes what the requester would give to its test client, out what it reads from the response. Between them stands
`ask`: in the process that holds the databases it runs the app, in the process that runs the cells it asks the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import httpx
from httpx._content import encode_json, encode_urlencoded_data
from httpx._urls import QueryParams

Headers = list[tuple[bytes, bytes]]
PLAIN_PATH = re.compile(r"[A-Za-z0-9_\-]+(?:/[A-Za-z0-9_\-~][A-Za-z0-9_\-~.@+]*)+\Z")
PLAIN_TOKEN = re.compile(r"[\x21-\x7e ]*\Z")


@dataclass(frozen=True)
class Call:
    """An HTTP request as an ASGI app sees it."""

    method: str
    scheme: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Answer:
    """The app's response."""

    status: int
    headers: Headers
    body: bytes

    @property
    def content(self) -> bytes:
        return self.body

    @property
    def status_code(self) -> int:
        return self.status

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", errors="replace")

    def json(self, **kwargs: Any) -> Any:
        return json.loads(self.body, **kwargs)


Ask = Callable[[Call], Answer]


def answer_call(app: Any, call: Call) -> Answer:
    """Runs the app in this thread, with scope and events exactly as starlette's test client makes them.

    An exception of the app is raised here, as the test client does. RuntimeError: the app waited for something.
    """
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": call.method,
        "path": call.path,
        "raw_path": call.raw_path,
        "root_path": "",
        "scheme": call.scheme,
        "query_string": call.query,
        "headers": call.headers,
        "client": ["testclient", 50000],
        "server": ["testserver", 80],
        "extensions": {"http.response.debug": {}},
        "state": {},
    }
    incoming = [{"type": "http.request", "body": call.body}]
    status, headers, body = 0, [], b""

    async def receive() -> dict[str, Any]:
        return incoming.pop() if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            status, headers = message["status"], message.get("headers", [])
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")

    _drive(app(scope, receive, send))
    return Answer(status, headers, body)


def _drive(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("the engine's app waited for something: it is not the synchronous app that this file is for")


class CallTransport:
    """The unusual call: httpx builds request and response and follows redirects; only the portal thread is gone."""

    def __init__(self, client: CallClient) -> None:
        self.client = client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        headers = [(key.lower().encode(), value.encode()) for key, value in request.headers.multi_items()]
        call = Call(request.method, url.scheme, unquote(url.path), url.raw_path, url.query, headers, request.read())
        answer = self.client.ask(call)
        found = [(key.decode(), value.decode()) for key, value in answer.headers]
        stream = httpx.ByteStream(answer.body)
        return httpx.Response(status_code=answer.status, headers=found, stream=stream, request=request)


class CallClient:
    """Stands in for the requester's test client. A plain call skips httpx; anything unusual goes through it."""

    def __init__(self, test_client: Any, ask: Ask) -> None:
        self.test_client, self.ask = test_client, ask
        sample = test_client.build_request("GET", "http://testserver/x")
        self.base = [(key.lower().encode(), value.encode()) for key, value in sample.headers.multi_items()]
        test_client._transport = CallTransport(self)  # noqa: SLF001

    def __getattr__(self, name: str) -> Any:
        return getattr(self.test_client, name)

    def get(self, url: str, *, params: Any = None, headers: Any = None) -> Any:
        answer = self._plain("GET", url, headers, query=params)
        return answer or self.test_client.get(url, params=params, headers=headers)

    def delete(self, url: str, *, params: Any = None, headers: Any = None) -> Any:
        answer = self._plain("DELETE", url, headers, query=params)
        return answer or self.test_client.delete(url, params=params, headers=headers)

    def post(self, url: str, *, data: Any = None, json: Any = None, headers: Any = None) -> Any:
        return self._with_body("POST", url, data, json, headers)

    def put(self, url: str, *, json: Any = None, headers: Any = None) -> Any:
        return self._with_body("PUT", url, None, json, headers)

    def patch(self, url: str, *, json: Any = None, headers: Any = None) -> Any:
        return self._with_body("PATCH", url, None, json, headers)

    def _with_body(self, method: str, url: str, data: Any, value: Any, headers: Any) -> Any:
        if value is not None or data:
            extra, stream = encode_urlencoded_data(data) if data else encode_json(value)
            answer = self._plain(method, url, headers, body=stream._stream, extra=extra)  # noqa: SLF001
            if answer is not None:
                return answer
        sent = {"json": value} if value is not None else {"data": data}
        return getattr(self.test_client, method.lower())(url, **sent, headers=headers)

    def _plain(
        self,
        method: str,
        url: str,
        headers: Any,
        *,
        query: Any = None,
        body: bytes = b"",
        extra: dict[str, str] | None = None,
    ) -> Answer | None:
        if not PLAIN_PATH.match(url):
            return None
        encoded = str(QueryParams(query)).encode("ascii") if query else b""
        if len(encoded) + len(url) > 60_000:  # httpx has a say about longer ones
            return None
        sent = self.base + [(key.lower().encode(), value.encode()) for key, value in (extra or {}).items()]
        if headers:
            token = headers["Authorization"]
            if not PLAIN_TOKEN.match(token):
                return None
            sent.append((b"authorization", token.encode()))
        path = "/" + url
        raw_path = path.encode() + (b"?" + encoded if encoded else b"")
        answer = self.ask(Call(method, "http", path, raw_path, encoded, sent, body))
        # A redirect has run nothing yet: httpx follows it.
        return None if 300 <= answer.status < 400 else answer
