"""An HTTP server on this machine that answers as it is told, or misbehaves as real ones have.

It knows nothing of any API. A behaviour is a coroutine that gets the request and writes what it likes.
"""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import unquote

from hub.connector import Reply

BOMB = gzip.compress(b"\0" * 50_000_000)  # 50 kB that become 50 MB
TOKEN = Reply(200, {"content-type": "application/json"}, b'{"access_token": "kit-token-secret", "expires_in": 3600}')


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that came in."""

    method: str
    path: str  # as it was sent, query included
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def text(self) -> str:
        """Path and body, unquoted: where documents are recognised."""
        return unquote(self.path) + self.body.decode("utf-8", "replace")

    @property
    def for_token(self) -> bool:
        """It is OAuth2's client credentials grant."""
        return b"grant_type=client_credentials" in self.body


NOTHING = Asked("", "", {}, b"")
Behaviour = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Listens while it is entered. Requests for a token are granted, whatever the behaviour."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.asked: list[Asked] = []  # but for those for a token
        self.tokens = 0  # granted
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                asked = await _read(reader)
                if asked.for_token:
                    self.tokens += 1
                    await write(TOKEN, writer)
                    continue
                self.asked.append(asked)
                await self.behaviour(asked, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return Asked(method, path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


async def write(reply: Reply, writer: asyncio.StreamWriter) -> None:
    lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in reply.headers.items())]
    if reply.status != 204:
        lines.append(f"content-length: {len(reply.body)}")
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body)
    await writer.drain()


@asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[str]:
    """An address, as a URL, where whoever connects meets `behaviour` at once: nothing is read, of whatever protocol."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        with suppress(ConnectionError, asyncio.CancelledError):
            await behaviour(NOTHING, writer)
        writer.transport.abort()

    there = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{there.sockets[0].getsockname()[1]}"
    finally:
        there.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# Behaviours


def says(reply: Reply) -> Behaviour:
    async def behaviour(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await write(reply, writer)

    return behaviour


async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def garbage(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\0\xffthis is no HTTP\r\n\r\n" * 20)
    await writer.drain()
    raise ConnectionError


async def cuts(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The connection, before a word."""
    raise ConnectionError


async def floods_nonsense(asked: Asked, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" " * 65536)
        await writer.drain()


async def drips(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A byte every half second."""
    writer.write(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.5)


async def floods(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A body without end."""
    writer.write(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()


async def resets(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The connection is cut in the middle of the body."""
    writer.write(b'HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"results": [')
    await writer.drain()
    handle = writer.get_extra_info("socket")
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    raise ConnectionError


async def bombs(asked: Asked, writer: asyncio.StreamWriter) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    await write(Reply(200, headers, BOMB), writer)


async def echoes(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """What it got, headers included, as the reason of a refusal."""
    text = asked.text + " ".join(asked.headers.values())
    await write(Reply(422, {"content-type": "text/plain"}, text[:400].encode()), writer)
