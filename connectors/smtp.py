"""Deliver by mail: one message for each delivery, to all of its recipients or to none, by SMTP."""

import asyncio
import base64
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from email.headerregistry import Address
from functools import partial
from pathlib import Path
from typing import Any, Literal

import aiosmtplib
import msgspec

from connectors.addresses import Guard
from connectors.mail import Mail, NoMail, make_mail, parse_address
from connectors.redaction import Redactor
from hub.connector import MAY_SEND, ConnectorKind, NotTried, System, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.project import Limits

IDLE = 20.0  # seconds that a connection is kept for the next mail; servers end theirs after minutes
CONNECTING = 0.9  # of the attempt's time limit: past it the server cannot be reached, rather than being slow
PORTS = {"starttls": 587, "tls": 465, "none": 25}
_QUEUED = re.compile(r"queued (?:mail for delivery, )?(?:as|id) ?=? ?<?([\w.@-]+)", re.IGNORECASE)

CLOSING = 421  # the server shuts down, or has enough of us
LOGIN_WANTED = 530
TOO_LARGE = 552


class SmtpSettings(msgspec.Struct, frozen=True, rename={"sender": "from"}):
    host: str
    sender: str  # an address, with or without a name
    port: int = 0  # 0: by `security`
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: str = ""
    ca_file: str = ""  # PEM: whom to trust instead of the system's authorities
    message_id_domain: str = ""  # "": the sender's


class SmtpConnector:
    """Keeps its connections: a server takes many mails over one, and a login costs more than a mail."""

    batch = 1

    def __init__(self, settings: SmtpSettings, limits: Limits) -> None:
        self._settings = settings
        self._sender = parse_address(settings.sender)
        self._domain = settings.message_id_domain or self._sender.domain
        self._redacted = Redactor(_secret_texts(settings))
        self._guard = Guard(limits.network)
        self._timeout = limits.timeout
        self._tls = _tls(settings)
        self._idle: list[tuple[float, aiosmtplib.SMTP]] = []  # with the moment from which it is

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return [await self._deliver(message) for message in messages]

    async def _deliver(self, message: Message) -> Outcome:
        try:
            mail = make_mail(message, self._sender, self._domain, datetime.now(UTC))
            async with self._connection() as client:
                answer = await _send(client, self._sender, mail)
        except NoMail as error:
            return Outcome(OutcomeKind.REFUSED, self._redacted(str(error)))
        except (aiosmtplib.SMTPException, OSError) as error:
            return Outcome(outcome_of(error), self._redacted(_detail(error)))
        queued = _QUEUED.search(answer)
        return Outcome(OutcomeKind.DELIVERED, self._redacted(answer), receiver_id=queued[1] if queued else "")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[aiosmtplib.SMTP]:
        """One that nobody else uses; kept when all went well, or when the server said no and can go on."""
        client = await self._kept() or await self._connected()
        try:
            yield client
        except aiosmtplib.SMTPResponseException as error:
            if error.code == CLOSING or not await _is_reset(client):
                client.close()
            raise
        except BaseException:
            client.close()
            raise
        finally:
            if client.is_connected:
                self._idle.append((time.monotonic(), client))

    async def _kept(self) -> aiosmtplib.SMTP | None:
        while self._idle:
            since, client = self._idle.pop()
            if time.monotonic() - since < IDLE and await _is_reset(client):
                return client
            client.close()
        return None

    async def _connected(self) -> aiosmtplib.SMTP:
        try:
            async with asyncio.timeout(self._timeout * CONNECTING):
                return await self._connect()
        except TimeoutError as error:
            raise aiosmtplib.SMTPConnectError("The connection took too long.") from error

    async def _connect(self) -> aiosmtplib.SMTP:
        settings = self._settings
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            sock=await self._guard.connect(settings.host, settings.port or PORTS[settings.security]),
            local_hostname=self._sender.domain,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            tls_context=self._tls,
            username=settings.username or None,
            password=settings.password or None,
            timeout=None,  # the attempt has one
        )
        try:
            await client.connect()
            if client.is_ehlo_or_helo_needed:
                await client.ehlo()
        except aiosmtplib.SMTPResponseException as error:
            client.close()
            raise aiosmtplib.SMTPConnectError(f"{error.code} {error.message}") from error
        except BaseException:
            client.close()
            raise
        return client

    async def close(self) -> None:
        while self._idle:
            _, client = self._idle.pop()
            with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await client.quit()
            client.close()


async def _is_reset(client: aiosmtplib.SMTP) -> bool:
    """Whether the server is there and has forgotten what was begun."""
    try:
        await client.rset()
    except (aiosmtplib.SMTPException, OSError):
        return False
    return True


async def _send(client: aiosmtplib.SMTP, sender: Address, mail: Mail) -> str:
    """What the server says once it has taken the mail. SMTPException when it refuses it, or any one recipient."""
    options = [f"SIZE={len(mail.content)}"] if client.supports_extension("size") else []
    encoding = "ascii"
    if mail.utf8:
        if not client.supports_extension("smtputf8"):
            raise NoMail("The server takes no addresses outside ASCII (SMTPUTF8).")
        options += ["SMTPUTF8", "BODY=8BITMIME"]
        encoding = "utf-8"
    await client.mail(sender.addr_spec, options=options, encoding=encoding)
    for recipient in mail.recipients:
        await client.rcpt(recipient, encoding=encoding)
    MAY_SEND.get()()  # a server forgets what came before it when no mail follows
    answer = await client.data(mail.content)
    return f"{answer.code} {answer.message}"


def outcome_of(error: Exception) -> OutcomeKind:
    """What a fault means.

    no connection, TLS, login, a sender that is refused, 421, 530     held: the destination's, whatever the mail
    552, other 5xx for a recipient or the content                     refused
    other 4xx                                                         retry by the schedule
    """
    if not isinstance(error, aiosmtplib.SMTPResponseException) or error.code in (CLOSING, LOGIN_WANTED):
        return OutcomeKind.HELD
    if 400 <= error.code < 500:
        return OutcomeKind.RETRY
    if isinstance(error, aiosmtplib.SMTPSenderRefused) and error.code != TOO_LARGE:
        return OutcomeKind.HELD
    return OutcomeKind.REFUSED if 500 <= error.code < 600 else OutcomeKind.RETRY


def _detail(error: Exception) -> str:
    if isinstance(error, aiosmtplib.SMTPRecipientRefused):
        return f"{error.code} {error.message} ({error.recipient})"
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{error.code} {error.message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _secret_texts(settings: SmtpSettings) -> Iterator[str]:
    """The password, also as a login sends it."""
    yield settings.password
    for text in (settings.password, f"\0{settings.username}\0{settings.password}"):
        yield base64.b64encode(text.encode()).decode()


def _tls(settings: SmtpSettings) -> ssl.SSLContext | None:
    if settings.security == "none":
        return None
    return ssl.create_default_context(cafile=settings.ca_file or None)


def check(settings: SmtpSettings) -> str | None:
    """What is wrong with the values, one sentence with the remedy."""
    if not settings.host or not settings.host.isprintable() or " " in settings.host:
        return "`host` is no host. Write smtp.example.com."
    if not 0 <= settings.port < 65536:
        return f"`port` cannot be {settings.port}. Leave it out, or write 587."
    if (settings.username or settings.password) and settings.security == "none":
        return "`password` would be sent in the clear. Take `security: starttls` or `security: tls`."
    if bool(settings.username) != bool(settings.password):
        return "`username` and `password` belong together. Give both or none."
    try:
        parse_address(settings.sender)
    except NoMail as error:
        return f"`from`: {error}"
    try:
        _tls(settings)
    except (OSError, ssl.SSLError) as error:
        return f"`ca_file` cannot be read: {error}. Name a PEM file."
    return None


@asynccontextmanager
async def _a_server(directory: Path) -> AsyncIterator[System]:
    """A mail server that takes all mails."""
    try:
        from aiosmtpd.smtp import SMTP
    except ImportError:
        raise NotTried("there is no mail server here: aiosmtpd is not installed") from None
    taken: list[str] = []

    class Taking:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            taken.extend(envelope.rcpt_tos)
            return "250 2.0.0 Ok: queued as KIT1"

    make = partial(SMTP, Taking(), enable_SMTPUTF8=True)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield System({"host": "127.0.0.1", "port": port}, lambda key: f"{key}@example.org" in taken)
    finally:
        server.close()


CONNECTOR = ConnectorKind(
    SmtpSettings,
    SmtpConnector,
    check,
    sends_body=("created", "updated", "deleted"),
    side_effects=True,
    about="a mail server, a mail a delivery",
    trial=Trial(
        {"host": "{host}", "port": "{port}", "security": "none", "from": "Shop <shop@shop.example>"},
        {"to": "{key}@example.org", "subject": "Of {key}", "text": "{key}"},
        system=_a_server,
    ),
)
