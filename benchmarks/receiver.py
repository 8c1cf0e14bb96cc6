"""A receiver as a process of its own that takes a fixed time for each request, however many come at once.

`python -m benchmarks.receiver SECONDS` prints its port. It keeps nothing but three numbers, so that it is no bound:
GET / answers {"answered": …, "flying": …, "most": …}, the last two being requests that are in its hands at once.
"""

import asyncio
import json
import subprocess
import sys
import urllib.request
from types import TracebackType
from typing import Self

from aiohttp import web


class Receiver:
    """The process, from the benchmark's side."""

    def __init__(self, seconds: float) -> None:
        self._command = [sys.executable, "-m", "benchmarks.receiver", str(seconds)]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def counts(self) -> dict[str, int]:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.url, timeout=10) as answer:
            return dict(json.load(answer))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()


async def _serve(seconds: float) -> None:
    counts = {"answered": 0, "flying": 0, "most": 0}

    async def take(request: web.Request) -> web.Response:
        await request.read()
        counts["flying"] += 1
        counts["most"] = max(counts["most"], counts["flying"])
        await asyncio.sleep(seconds)
        counts["flying"] -= 1
        counts["answered"] += 1
        return web.Response()

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(counts)

    application = web.Application()
    application.add_routes([web.post("/", take), web.get("/", tell)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
