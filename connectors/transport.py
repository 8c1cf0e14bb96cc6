"""HTTP as connectors speak it: aiohttp on the wire, with httpx as the face for those who know it.

`Wire.exchange` is the fast path; `AiohttpTransport` is the same for an httpx.AsyncClient, whose own pool takes time
quadratic in its connections. Nothing is taken from the environment, no redirect is followed, no cookie kept, no
compressed answer asked for or unpacked. Each connection's address is checked as it is made (connectors/addresses.py).

    WireError               no answer came of it
    ├── Unreachable         DNS, TCP or TLS, or an address that is not allowed: the request was not sent
    └── Broken              the connection ended, or what came is no HTTP: the request may have been taken
"""

import asyncio
import os
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

import aiohttp
import httpx
import msgspec
from aiohttp.abc import AbstractResolver, AbstractStreamWriter
from yarl import URL

from connectors.addresses import Guard, Refused
from hub.connector import MAY_SEND
from hub.project import Limits

Headers = Mapping[str, str] | Sequence[tuple[str, str]]

CONNECTING = 0.9  # of the attempt's time limit: past it the receiver cannot be reached, rather than being slow
KEEP_ALIVE = 4.0  # seconds; shorter than common servers keep an idle connection, so that none ends under a request
BODY_BYTES = 65_536  # of an answer that are read, unless told otherwise; the rest is not
BODY_TIME = 3.0  # seconds that an answer's body gets after its head
_OPENSSL = re.compile(r"^\[\w+(: \w+)?\] | \(\w+\.c:\d+\)$")  # what stands around OpenSSL's words


class WireError(Exception):
    """One sentence."""


class Unreachable(WireError):
    pass


class Broken(WireError):
    pass


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Iterable[tuple[bytes, bytes]]
    content: bytes  # its beginning

    def header(self, name: str) -> str | None:
        """The first of that name; `name` in lower case."""
        wanted = name.encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)


class Wire:
    """Connections of one destination. The whole attempt's time limit is the caller's: asyncio.timeout."""

    def __init__(
        self,
        limits: Limits,
        *,
        tls: ssl.SSLContext | bool = True,
        proxy: URL | None = None,
        resolver: AbstractResolver | None = None,
        body_bytes: int = BODY_BYTES,
    ) -> None:
        """As many connections as `limits.concurrency`, to addresses that `limits.network` allows; with a proxy that is
        the proxy's. `body_bytes` of an answer are read at most.
        """
        self._body_bytes = body_bytes
        self._concurrency = limits.concurrency
        self._guard = Guard(limits.network)
        self._proxy = proxy
        self._resolver = resolver
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.timeout * CONNECTING)
        self._tls = tls
        self._open: aiohttp.ClientSession | None = None

    def _session(self) -> aiohttp.ClientSession:
        if self._open is None:
            connector = aiohttp.TCPConnector(
                limit=self._concurrency,
                keepalive_timeout=KEEP_ALIVE,
                ssl=self._tls,
                resolver=self._resolver,
                socket_factory=self._guard,
            )
            self._open = aiohttp.ClientSession(
                connector=connector,
                headers={"user-agent": f"hub/{version('hub-cdc')}", "accept-encoding": "identity"},
                proxy=self._proxy,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("Accept", "Content-Type"),
                max_line_size=16_384,
                max_field_size=16_384,
            )
        return self._open

    async def exchange(self, method: str, url: URL | str, headers: Headers, content: bytes = b"") -> Answer:
        """Raises Unreachable or Broken. A `url` that is a text is sent as it is written: quote what is put into it.

        Without a user-agent in `headers` it is the hub's own. Where a kept connection was just ended by the other side,
        the request is sent once more.
        """
        try:
            return await self._send(method, URL(url, encoded=True), headers, content)
        except aiohttp.ConnectionTimeoutError as error:
            raise Unreachable("The connection took too long.") from error
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(_why(error)) from error
        except aiohttp.InvalidURL as error:
            raise Unreachable(f"{URL(url, encoded=True).host} is no host: {error.description}.") from error
        except aiohttp.ClientHttpProxyError as error:
            raise Unreachable(f"The proxy answered {error.status} {error.message}.") from error
        except aiohttp.ClientResponseError as error:
            raise Broken(f"The answer is no HTTP: {error.message}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Broken(_sentence(error)) from error

    async def _send(self, method: str, url: URL, headers: Headers, content: bytes) -> Answer:
        try:
            return await self._once(method, url, headers, content)
        except aiohttp.ServerDisconnectedError:
            # An idle connection that its server was just closing. Another try is safe: the id is the same.
            return await self._once(method, url, headers, content)

    async def _once(self, method: str, url: URL, headers: Headers, content: bytes) -> Answer:
        session = self._session()
        if not content:
            MAY_SEND.get()()
        async with session.request(method, url, headers=headers, data=_body(content), allow_redirects=False) as answer:
            beginning = await _beginning(answer, self._body_bytes)
            return Answer(answer.status, answer.raw_headers, beginning)

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()


class _Body(aiohttp.BytesPayload):
    """Headers wait for it. A process that was stopped on the way here asks before it goes on, and sends nothing."""

    async def write(self, writer: AbstractStreamWriter) -> None:
        MAY_SEND.get()()
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        MAY_SEND.get()()
        await super().write_with_length(writer, content_length)


def _body(content: bytes) -> "_Body | None":
    return _Body(content) if content else None


class AiohttpTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient(transport=…)`. Raises httpx's ConnectError and RemoteProtocolError."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        url = URL(str(request.url), encoded=True)  # as it is written, not quoted anew
        try:
            answer = await self._wire.exchange(request.method, url, headers, await request.aread())
        except Unreachable as error:
            raise httpx.ConnectError(str(error), request=request) from error
        except Broken as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
        return httpx.Response(answer.status, headers=list(answer.headers), content=answer.content, request=request)

    async def aclose(self) -> None:
        await self._wire.close()


async def _beginning(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The first `most` bytes, as far as they come within BODY_TIME; the connection is given up when there is more."""
    if answer.content.at_eof():
        return b""
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_TIME):
            while len(content) < most:
                chunk = await answer.content.read(most - len(content))
                if not chunk:
                    return bytes(content)
                content += chunk
    except (TimeoutError, aiohttp.ClientPayloadError):
        pass  # the status is known, and that is what counts
    answer.close()
    return bytes(content)


def _why(error: aiohttp.ClientConnectorError) -> str:
    """`Cannot connect to crm.example:443: Connection refused.`: none of the names that programs have for it."""
    fault = error.os_error
    if isinstance(fault, Refused):
        return str(fault.strerror)
    if isinstance(fault, ssl.SSLError):
        reason = _OPENSSL.sub("", fault.strerror or str(fault))
    elif fault.errno and not isinstance(error, aiohttp.ClientConnectorDNSError):
        reason = os.strerror(fault.errno)  # asyncio has the address in its text
    else:
        reason = fault.strerror or str(fault) or "the connection was cut"
    return f"Cannot connect to {error.host}:{error.port}: {reason.rstrip('.')}."


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) < 300 else text[:300]
