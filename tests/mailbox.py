"""A mail server (aiosmtpd) as a process of its own: it writes each mail to its log, on disk, before it takes it.

    with Mailbox(tmp_path) as mailbox:
        … deliver to mailbox.host, mailbox.port …
        assert mailbox.log()[0].id == "<msg_1@shop.example>"

An address says what becomes of a mail to it: the server answers `450-rcpt@…` with 450 to RCPT, `554-data@…` with 554
to DATA, `421-data@…` ends the connection; all others are taken.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

_FAULT = re.compile(r"(\d{3})-(rcpt|data)@")


@dataclass(frozen=True)
class Received:
    """One line of the log."""

    sender: str
    recipients: list[str]
    content: bytes
    tls: bool
    login: str  # "": none

    @property
    def mail(self) -> EmailMessage:
        parsed = message_from_bytes(self.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    @property
    def id(self) -> str:
        return str(self.mail["Message-ID"])


class Mailbox:
    """The process, from the test's side."""

    host = "127.0.0.1"

    def __init__(self, directory: Path, *, certificate: Path | None = None, tls: str = "", login: str = "") -> None:
        """`tls`: "tls" from the first byte, "starttls" by command, both with `certificate`; `login`: user:password."""
        self.path = directory / "mails.jsonl"
        self._arguments = [f"--log={self.path}", f"--certificate={certificate or ''}", f"--tls={tls}"]
        self._arguments.append(f"--login={login}")
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> "Mailbox":
        command = [sys.executable, __file__, *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process and self._process.stdout
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        self._process.stdout.close()

    def log(self) -> list[Received]:
        """What was taken; a line that is being written is left out."""
        lines = self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []
        read = [json.loads(line) for line in lines]
        return [Received(**{**line, "content": base64.b64decode(line["content"])}) for line in read]

    def wait_for(self, count: int, timeout: float = 30.0) -> None:
        end = time.monotonic() + timeout
        while (self.path.read_bytes().count(b"\n") if self.path.exists() else 0) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"Less than {count} mails came within {timeout} s.")
            time.sleep(0.002)


class Handler:
    """The process, from its own side."""

    def __init__(self, log: Path) -> None:
        self._fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.rcpt_tos.append(address)
        return _answer(address, "rcpt") or "250 2.1.5 Ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        for address in envelope.rcpt_tos:
            if answer := _answer(address, "data"):
                return answer
        line = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "content": base64.b64encode(envelope.original_content).decode(),
            "tls": server.transport.get_extra_info("sslcontext") is not None,
            "login": session.auth_data.decode() if session.authenticated else "",
        }
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        os.fsync(self._fd)
        return "250 2.0.0 Ok: queued as 4XyZ1"


def _answer(address: str, stage: str) -> str:
    fault = _FAULT.match(address)
    return f"{fault[1]} {fault[1][0]}.7.1 as {address} wants it" if fault and fault[2] == stage else ""


def _authenticate(expected: str, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
    from aiosmtpd.smtp import AuthResult

    given = f"{data.login.decode()}:{data.password.decode()}"
    return AuthResult(success=given == expected, handled=False, auth_data=data.login)


async def _main() -> None:
    from aiosmtpd.smtp import SMTP

    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    for name in ("certificate", "tls", "login"):
        parser.add_argument(f"--{name}", default="")
    options = parser.parse_args()
    context = None
    if options.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.certificate)
    arguments: dict[str, Any] = {"enable_SMTPUTF8": True}
    if options.tls == "starttls":
        arguments |= {"tls_context": context, "require_starttls": True}
    if options.login:
        arguments |= {"auth_required": True, "authenticator": partial(_authenticate, options.login)}
        arguments["auth_require_tls"] = options.tls == "starttls"
    make = partial(SMTP, Handler(options.log), **arguments)
    tls = context if options.tls == "tls" else None
    server = await asyncio.get_running_loop().create_server(make, Mailbox.host, 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
