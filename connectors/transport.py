"""An httpx transport over aiohttp: httpx's own pool takes time quadratic in its connections.

Requests and responses are httpx's, so that whoever writes or tests a connector needs to know no other. Nothing is
taken from the environment, no redirect is followed, no cookie kept, no compressed answer asked for.
"""

import asyncio
import ssl

import aiohttp
import httpx
from yarl import URL

KEEP_ALIVE = 4.0  # seconds; shorter than common servers keep an idle connection, so that none ends under a request
BODY_BYTES = 65_536  # of an answer that are read; the rest is not
BODY_TIME = 3.0  # seconds that an answer's body gets after its head


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Raises httpx.ConnectTimeout, ConnectError, RemoteProtocolError and ReadError, as httpx's own would.

    The whole attempt's time limit is the caller's: asyncio.timeout. Answers are cut after BODY_BYTES and BODY_TIME.
    """

    def __init__(self, *, concurrency: int, connect_timeout: float, tls: ssl.SSLContext | bool = True) -> None:
        """`connect_timeout`: seconds for DNS, TCP and TLS together."""
        self._concurrency = concurrency
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._tls = tls
        self._open: aiohttp.ClientSession | None = None
        self._urls: dict[httpx.URL, URL] = {}

    def _session(self) -> aiohttp.ClientSession:
        if self._open is None:
            connector = aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=KEEP_ALIVE, ssl=self._tls)
            self._open = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
                max_line_size=16_384,
                max_field_size=16_384,
            )
        return self._open

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._send(request)
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx.ConnectTimeout("The connection took too long.", request=request) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx.ConnectError(_sentence(error), request=request) from error
        except aiohttp.ClientResponseError as error:
            raise httpx.RemoteProtocolError(f"The answer is no HTTP: {error.message}", request=request) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise httpx.ReadError(_sentence(error), request=request) from error

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._once(request)
        except aiohttp.ServerDisconnectedError:
            # An idle connection that its server was just closing. Another try is safe: the id is the same.
            return await self._once(request)

    async def _once(self, request: httpx.Request) -> httpx.Response:
        async with self._session().request(
            request.method,
            self._url(request.url),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
            data=request.content,
            allow_redirects=False,
        ) as answer:
            content = await _beginning(answer)
            return httpx.Response(answer.status, headers=answer.raw_headers, content=content, request=request)

    def _url(self, url: httpx.URL) -> URL:
        """As it is written: not quoted anew. A destination has few."""
        known = self._urls.get(url)
        if known is None:
            if len(self._urls) > 1000:
                self._urls.clear()
            known = self._urls[url] = URL(str(url), encoded=True)
        return known

    async def aclose(self) -> None:
        if self._open is not None:
            await self._open.close()


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """The first BODY_BYTES, as far as they come within BODY_TIME; the connection is given up when there is more."""
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_TIME):
            while len(content) < BODY_BYTES:
                chunk = await answer.content.read(BODY_BYTES - len(content))
                if not chunk:
                    return bytes(content)
                content += chunk
    except (TimeoutError, aiohttp.ClientPayloadError):
        pass  # the status is known, and that is what counts
    answer.close()
    return bytes(content)


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) < 300 else text[:300]
