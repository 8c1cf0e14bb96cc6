"""The console on a real socket, asked by plain HTTP."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from hub.console.server import Pages, Reader
from hub.console.sources import Ask, LogEnds
from hub.operate.status import LogEnd
from hub.project import Project
from hub.store.database import Store

UNREACHABLE = LogEnd(unreachable="nobody answers")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def samples(self) -> dict[tuple[str, ...], float]:
        """By name, and the labels' values in the order of their names."""
        return {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }


@dataclass(frozen=True)
class Served:
    port: int

    def get(self, path: str, *, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read().decode())
        finally:
            connection.close()

    def scrape(self) -> dict[tuple[str, ...], float]:
        answer = self.get("/metrics")
        assert answer.status == 200, answer.text
        return answer.samples


@contextmanager
def served(
    store: Store,
    project: Project,
    *,
    streams: Sequence[str] = ("main/main",),
    ask: Ask = lambda _: UNREACHABLE,
    token: str = "",
) -> Iterator[Served]:
    """The console of a store, in a thread of its own."""
    app = Pages(Reader(store, project, streams), LogEnds(ask, streams), token).app()
    ready, loop, ports, stop = threading.Event(), asyncio.new_event_loop(), list[int](), asyncio.Event()

    async def run() -> None:
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield Served(ports[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
