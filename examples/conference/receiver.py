"""A receiver as a partner would write it: it checks the signature, drops what it has seen, and keeps what arrived.

    WEBHOOK_SECRET=whsec_… python -m examples.conference.receiver --log received.jsonl [--port 8091]

    POST /{consumer}                take one delivery; 2xx only once it is in the log
    GET  /arrivals?after=N&wait=S   what arrived after number N, waiting up to S seconds for something
    GET  /                          the same for people

The first line on stdout is the address that it listens on.
"""

import argparse
import asyncio
import html
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

SHOWN = 100  # arrivals on the page


@dataclass(frozen=True, slots=True)
class Arrival:
    """One delivery that arrived, as the receiver saw it."""

    number: int  # 1, 2, 3 … in order of arrival
    consumer: str  # the path that it was sent to
    webhook_id: str  # stays the same when the sender tries again
    received_at: int  # microseconds since 1970 by this process's clock, before anything was done with it
    duplicate: bool  # this consumer had this id before: acknowledged, and not handled again
    body: Any  # the JSON that was sent


class Inbox:
    """Everything that arrived, in memory and, line by line, in a file that survives a restart."""

    def __init__(self, log: Path) -> None:
        self.arrivals = [Arrival(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
        self._seen = {(arrival.consumer, arrival.webhook_id) for arrival in self.arrivals}
        self._log = log.open("a")
        self._news = asyncio.Condition()

    async def take(self, consumer: str, webhook_id: str, received_at: int, body: Any) -> Arrival:
        duplicate = (consumer, webhook_id) in self._seen
        arrival = Arrival(len(self.arrivals) + 1, consumer, webhook_id, received_at, duplicate, body)
        print(json.dumps(asdict(arrival), ensure_ascii=False), file=self._log, flush=True)
        self._seen.add((consumer, webhook_id))
        self.arrivals.append(arrival)
        async with self._news:
            self._news.notify_all()
        return arrival

    async def after(self, number: int, wait: float) -> list[Arrival]:
        async with self._news:
            if len(self.arrivals) <= number and wait > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait_for(lambda: len(self.arrivals) > number), wait)
        return self.arrivals[number:]


class Receiver:
    def __init__(self, inbox: Inbox, secret: str) -> None:
        self._inbox = inbox
        # As the hub reads a secret; the library alone would take any text for base64.
        self._webhook = Webhook(secret if secret.startswith("whsec_") else secret.encode())

    async def deliver(self, request: web.Request) -> web.Response:
        received_at = time.time_ns() // 1000
        body = await request.read()
        try:
            self._webhook.verify(body, dict(request.headers))
        except WebhookVerificationError as error:
            return web.json_response({"error": f"The signature does not verify: {error}."}, status=401)
        except ValueError as error:
            return web.json_response({"error": f"The body is not JSON: {error}."}, status=400)
        consumer = request.match_info["consumer"]
        arrival = await self._inbox.take(consumer, request.headers["webhook-id"], received_at, json.loads(body))
        return web.json_response({"number": arrival.number, "duplicate": arrival.duplicate})

    async def arrivals(self, request: web.Request) -> web.Response:
        after, wait = int(request.query.get("after", 0)), float(request.query.get("wait", 0))
        return web.json_response([asdict(arrival) for arrival in await self._inbox.after(after, wait)])

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text=page(self._inbox.arrivals), content_type="text/html")


def page(arrivals: list[Arrival]) -> str:
    """The newest arrivals as HTML, newest first."""
    rows = "\n".join(row(arrival) for arrival in reversed(arrivals[-SHOWN:]))
    duplicates = sum(arrival.duplicate for arrival in arrivals)
    return (
        "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>Receiver</title>"
        "<style>body{font:14px sans-serif;margin:2em}td{padding:.2em .8em;vertical-align:top}"
        "td.body{font:12px monospace}tr.duplicate{color:#999}</style>"
        f"<h1>{len(arrivals)} arrived, {duplicates} of them dropped as duplicates</h1><table>{rows}</table>"
    )


def row(arrival: Arrival) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(arrival.received_at / 1e6))
    body = html.escape(json.dumps(arrival.body, ensure_ascii=False))
    kind = "duplicate" if arrival.duplicate else "new"
    return (
        f"<tr class={kind}><td>{arrival.number}<td>{clock}<td>{html.escape(arrival.consumer)}"
        f"<td>{kind}<td class=body>{body}"
    )


def application(log: Path, secret: str) -> web.Application:
    """The web application that keeps what arrives in `log`; `secret`: whsec_… as Standard Webhooks has it, or text."""
    receiver = Receiver(Inbox(log), secret)
    app = web.Application()
    app.add_routes(
        [
            web.get("/", receiver.page),
            web.get("/arrivals", receiver.arrivals),
            web.post("/{consumer}", receiver.deliver),
        ]
    )
    return app


def main() -> None:
    from examples.conference.serving import serve

    parser = argparse.ArgumentParser(description="The conference's partners, played by one web receiver.")
    parser.add_argument("--log", type=Path, required=True, help="where arrivals are kept")
    parser.add_argument("--port", type=int, default=8091, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at; 0.0.0.0 in a container")
    options = parser.parse_args()
    secret = os.environ.get("WEBHOOK_SECRET", "")
    if not secret:
        sys.exit("WEBHOOK_SECRET is not set. Give the secret that the sender signs with.")
    serve(application(options.log, secret), options.port, options.host)


if __name__ == "__main__":
    main()
