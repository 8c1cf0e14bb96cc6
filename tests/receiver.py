"""A receiver as a process of its own: it writes each request to its log, on disk, before it answers.

    with Receiver(tmp_path) as receiver:
        … deliver to receiver.url …
        receiver.wait_for(3)
        assert receiver.log()[0].headers["webhook-id"] == …

What it answers is told by `behave`, for all requests, for those to one path or those whose body contains a text:

    status, headers, body    the answer; 200 and nothing by default
    delay                    seconds before answering
    fail_percent             of the requests are logged, then answered 500
    mode                     "answer"; "garbage": no HTTP; "reset": the connection is cut; "drip": a byte a second;
                             "huge": a body without end; "silent": no answer at all
"""

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

CONTROL = "/_control"


@dataclass(frozen=True)
class Received:
    """One line of the log."""

    number: int  # 1, 2, 3 …
    at: float  # when it had come in whole, seconds since 1970
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    status: int  # that it was answered; 0 when the mode is not "answer"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """The process, from the test's side."""

    def __init__(self, directory: Path, *, port: int = 0, fail_percent: float = 0.0, seed: int = 1) -> None:
        self.path = directory / "received.jsonl"
        self._arguments = [f"--port={port}", f"--fail-percent={fail_percent}", f"--seed={seed}"]
        self._process: subprocess.Popen[str] | None = None
        self.port = port

    def start(self) -> "Receiver":
        command = [sys.executable, __file__, f"--log={self.path}", *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())
        self._arguments[0] = f"--port={self.port}"  # the same again after a restart
        return self

    def stop(self, *, kill: bool = False) -> None:
        if self._process:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self._process.wait(10)
            if self._process.stdout:
                self._process.stdout.close()
            self._process = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    def behave(self, path: str = "", *, containing: str = "", **behaviour: Any) -> None:
        """From now on, for all requests or some; what is not given is the default again."""
        self._control("behave", {"path": path, "containing": containing, **behaviour})

    def wait_for(self, count: int, timeout: float = 30.0) -> None:
        """Return once `count` requests are in the log. TimeoutError otherwise."""
        answer = self._control("wait", {"count": count, "timeout": timeout}, timeout + 5)
        if answer["count"] < count:
            raise TimeoutError(f"{answer['count']} of {count} requests came within {timeout} s.")

    def log(self) -> list[Received]:
        if not self.path.exists():
            return []
        lines = [json.loads(line) for line in self.path.read_bytes().splitlines()]
        return [Received(**{**line, "body": base64.b64decode(line["body"])}) for line in lines]

    def _control(self, verb: str, content: dict[str, Any], timeout: float = 10.0) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{CONTROL}/{verb}", json.dumps(content).encode(), method="POST"
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout) as answer:
            return json.load(answer)

    def __enter__(self) -> "Receiver":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop(kill=True)


class Server:
    """The process, from its own side."""

    def __init__(self, log: Path, fail_percent: float, seed: int) -> None:
        self.default = {"fail_percent": fail_percent}
        self.behaviours: dict[tuple[str, str], dict[str, Any]] = {}  # by path and text; "": any
        self.random = random.Random(seed)
        self.count = log.read_bytes().count(b"\n") if log.exists() else 0
        self.fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.arrived = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if path.startswith(CONTROL):
            answer = await self._command(path.rpartition("/")[2], json.loads(body))
            await _answer(writer, 200, {}, json.dumps(answer))
            return True
        behaviour = self._behaviour(path, body)
        status = self._status(behaviour)
        await self._write(method, path, headers, body, status)
        await asyncio.sleep(behaviour.get("delay", 0))
        return await _react(writer, behaviour, status)

    def _behaviour(self, path: str, body: bytes) -> dict[str, Any]:
        behaviour = dict(self.default)
        for (wanted, text), told in sorted(self.behaviours.items()):
            if wanted in ("", path) and text.encode() in body:
                behaviour.update(told)
        return behaviour

    def _status(self, behaviour: dict[str, Any]) -> int:
        if behaviour.get("mode", "answer") not in ("answer", "drip", "huge"):
            return 0
        if self.random.random() * 100 < behaviour.get("fail_percent", 0):
            return 500
        return int(behaviour.get("status", 200))

    async def _write(self, method: str, path: str, headers: dict[str, str], body: bytes, status: int) -> None:
        line = {
            "number": self.count + 1,
            "at": time.time(),
            "method": method,
            "path": path,
            "headers": headers,
            "body": base64.b64encode(body).decode(),
            "status": status,
        }
        os.write(self.fd, json.dumps(line).encode() + b"\n")
        os.fsync(self.fd)
        self.count += 1
        async with self.arrived:
            self.arrived.notify_all()

    async def _command(self, verb: str, content: dict[str, Any]) -> dict[str, Any]:
        if verb == "behave":
            self.behaviours[content.pop("path"), content.pop("containing")] = content
            return {}
        try:
            async with asyncio.timeout(content["timeout"]), self.arrived:
                await self.arrived.wait_for(lambda: self.count >= content["count"])
        except TimeoutError:
            pass
        return {"count": self.count}


async def _react(writer: asyncio.StreamWriter, behaviour: dict[str, Any], status: int) -> bool:
    """Answer, or misbehave; False when the connection is done for."""
    match behaviour.get("mode", "answer"):
        case "answer":
            await _answer(writer, status, behaviour.get("headers", {}), behaviour.get("body", ""))
            return True
        case "garbage":
            writer.write(b"\x00\xffthis is no HTTP\r\n\r\n" * 20)
            await writer.drain()
        case "reset":
            handle = writer.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        case "silent":
            await asyncio.sleep(3600)
        case "drip":
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 100000\r\n\r\n".encode())
            while True:
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(1)
        case "huge":
            writer.write(f"HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\n\r\n".encode())
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
    return False


async def _answer(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: str) -> None:
    content = body.encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *(f"{n}: {v}" for n, v in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    await writer.drain()


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fail-percent", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    server = Server(options.log, options.fail_percent, options.seed)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", options.port, limit=1 << 24)
    print(listening.sockets[0].getsockname()[1], flush=True)
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
