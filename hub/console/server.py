"""The console role: health, readiness and metrics over HTTP. Its pages will be served here too.

    /healthz    the process lives; nothing is asked
    /readyz     the store can be read, every stream is followed, deliveries go out; else 503 and what does not
    /metrics    everything `hub status` tells, and counters, for Prometheus

Where a token is set, all but the first two ask for it, and /readyz names problems only to those who show it.
"""

import asyncio
import hmac
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version

import psycopg
from aiohttp import web
from prometheus_client.exposition import choose_encoder
from sqlalchemy.exc import DBAPIError

from hub.console.counts import Tally
from hub.console.metrics import Picture, Scrape
from hub.console.sources import Ask, History, LogEnds
from hub.console.waiting import Beside
from hub.errors import OutsideError
from hub.locks import owners
from hub.operate.status import LogEnd, read_status, read_streams
from hub.project import Console, Project
from hub.store.database import Store, now

log = logging.getLogger(__name__)

METRICS_SECONDS = 6.0  # for a scrape, sources included; Prometheus gives up after 10
READY_SECONDS = 3.0
SHUTDOWN_SECONDS = 2.0
LONGEST_BODY = 1024  # bytes; nothing is posted here
OPEN = ("/healthz", "/readyz")  # without a token

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Reader:
    """What the console reads of one hub. Each read is by one thread at a time."""

    def __init__(self, store: Store, project: Project, streams: Sequence[str]) -> None:
        self._store = store
        self._project = project
        self._streams = streams
        self._roles = [*(f"capture {name}" for name in streams), "dispatch"]
        self._histories = {name: History() for name in streams}
        self._tally = Tally(store)
        self._version = version("hub-cdc")

    def scrape(self, ends: Mapping[str, LogEnd]) -> Scrape:
        held = owners(self._store, self._roles)
        self._tally.look()
        status = read_status(self._store, self._project, self._streams, lambda name: ends[name], held.get)
        moment = now()
        lags = {
            one.name: self._histories[one.name].lag(one.log.lsn, one.position, one.seen_at, moment)
            for one in status.streams
            if one.position and not one.log.unreachable
        }
        return Scrape(self._project, Picture(self._version, moment, status, lags, self._tally.counts))

    def standstills(self) -> list[str]:
        """What keeps changes from going through, a sentence each, by the store and the locks alone.

        What is parked or held is not among them: it waits for its receiver, and the hub itself is well.
        """
        held = owners(self._store, self._roles)
        streams = read_streams(self._store, self._streams, lambda _: LogEnd(), held.get)
        problems = [one.standstill for one in streams if one.standstill]
        if not held["dispatch"]:
            problems.append("Nothing is delivered: dispatch does not run. Start `hub run`.")
        return problems


class Pages:
    def __init__(self, reader: Reader, ends: LogEnds, token: str) -> None:
        self._ends = ends
        self._token = token
        self._known: Mapping[str, LogEnd] = {}
        self._scrape = Beside(lambda: reader.scrape(self._known))
        self._standstills = Beside(reader.standstills)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=LONGEST_BODY)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The token, and sentences where aiohttp has a page."""
        if request.path not in OPEN and not self._admitted(request):
            return _sentence(
                401,
                "Show the token of `console:` in hub.yaml: Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _sentence(404, "There is no such page. There are /healthz, /readyz and /metrics.")
        except web.HTTPMethodNotAllowed as error:
            return _sentence(405, "Nothing can be changed here: use GET or HEAD.", {"Allow": error.headers["Allow"]})

    def _admitted(self, request: web.Request) -> bool:
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        if not self._token:
            return True
        return scheme.lower() == "bearer" and hmac.compare_digest(_raw(shown.strip()), _raw(self._token))

    async def _healthz(self, _: web.Request) -> web.Response:
        return _sentence(200, "The process lives.")

    async def _readyz(self, request: web.Request) -> web.Response:
        try:
            problems = await self._standstills.result(READY_SECONDS)
        except TimeoutError:
            problems = [f"The store did not answer within {READY_SECONDS:g} seconds."]
        except (DBAPIError, psycopg.Error, OSError) as error:
            problems = [_unreadable(error)]
        told = {"problems": problems} if self._admitted(request) else {}
        return web.json_response({"ready": not problems, **told}, status=503 if problems else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        try:
            async with asyncio.timeout(METRICS_SECONDS):
                self._known = await self._ends.look()
                scrape = await self._scrape.result(METRICS_SECONDS)
        except TimeoutError:
            if self._scrape.last is None:
                text = f"The store did not answer within {METRICS_SECONDS:g} seconds. Look at its machine."
                return _sentence(503, text)
            scrape = self._scrape.last  # hub_read_timestamp_seconds says how old it is
        except (DBAPIError, psycopg.Error, OSError) as error:
            return _sentence(503, _unreadable(error))
        return web.Response(body=encode(scrape), headers={"Content-Type": content_type})


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _sentence(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=headers)


def _unreadable(error: Exception) -> str:
    said = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
    why = said.splitlines()[0].rstrip(".")
    return f"The store cannot be read: {why}. Check `store:` in hub.yaml, and that it runs."


def serve(store: Store, project: Project, streams: Sequence[str], ask: Ask) -> None:
    """Until SIGTERM or SIGINT. OutsideError when the address cannot be listened on."""
    asyncio.run(_serve(Pages(Reader(store, project, streams), LogEnds(ask, streams), project.console.token), project))


async def _serve(pages: Pages, project: Project) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(pages.app(), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await _listen(runner, project.console)
        await stop.wait()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, console: Console) -> None:
    site = web.TCPSite(runner, console.host, console.port)
    try:
        await site.start()
    except OSError as error:
        raise _refused(console, error) from error
    for host, port, *_ in runner.addresses:
        log.info("console listens", extra={"url": f"http://{_address(host, port)}"})


def _refused(console: Console, error: OSError) -> OutsideError:
    why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return OutsideError(
        f"The console cannot listen on {_address(console.host, console.port)}: {why}.",
        "Give this hub another address, `console: {listen: HOST:PORT}` in hub.yaml, or end what listens there.",
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
