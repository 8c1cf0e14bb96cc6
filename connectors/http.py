"""Deliver by HTTP: one signed request for each delivery, classified by what the receiver answers."""

import base64
import random
import re
import ssl
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from hashlib import sha256
from http import HTTPStatus

import msgspec
from yarl import URL

from connectors.answer import read_answer
from connectors.redaction import DETAIL, Redactor
from connectors.signature import PREFIX, Signer, signing_key
from connectors.transport import Answer, Wire, WireError
from hub.connector import ConnectorKind, Reply, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.project import Limits

OURS = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "transfer-encoding",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    }
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# What a status says of the destination rather than of the document: it is held.
DESTINATION_STATUS = frozenset((401, 403, 407, 502, 503, 504))
RETRY_STATUS = frozenset((408, 421, 425, 429))


class HttpSettings(msgspec.Struct, frozen=True):
    url: str
    method: str = "POST"
    secret: str | list[str] = ""  # signs; of a list each does, so that a receiver may know either
    headers: dict[str, str] = {}
    ca_file: str = ""  # PEM: whom to trust instead of the system's authorities
    client_certificate: str = ""  # PEM, certificate and chain
    client_key: str = ""  # PEM; left out: it is in client_certificate
    answers: list[str] = []  # what an answer may ask for: reschedule, forward
    proxy: str = ""  # URL of an HTTP proxy, with user and password where it wants them

    @property
    def secrets(self) -> list[str]:
        return [one for one in ([self.secret] if isinstance(self.secret, str) else self.secret) if one]


class HttpConnector:
    batch = 1

    def __init__(self, settings: HttpSettings, limits: Limits) -> None:
        self._method = settings.method.upper()
        self._url = URL(settings.url).with_user(None)
        self._signer = Signer([signing_key(secret) for secret in settings.secrets])
        self._headers = _fixed_headers(settings)
        self._answers = frozenset(settings.answers)
        self._redacted = Redactor(_secret_texts(settings))
        self._wire = Wire(
            limits,
            tls=_tls(settings),
            proxy=URL(settings.proxy) if settings.proxy else None,
        )

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return [await self._deliver(message) for message in messages]

    async def _deliver(self, message: Message) -> Outcome:
        headers = self._all_headers(message)
        try:
            answer = await self._wire.exchange(self._method, self._url, headers, message.content)
        except WireError as error:
            return Outcome(OutcomeKind.HELD, self._redacted(str(error)))
        outcome = classify(answer, self._redacted(summary(answer)), time.time())
        if self._answers and outcome.kind is OutcomeKind.DELIVERED:
            after = answer.header("hub-reschedule")
            outcome = read_answer(answer.content, after, self._answers, outcome.detail)
            return msgspec.structs.replace(outcome, detail=self._redacted(outcome.detail))
        return outcome

    def _all_headers(self, message: Message) -> list[tuple[str, str]]:
        timestamp = int(time.time())
        headers = [
            *self._headers,
            ("content-type", message.content_type),
            ("webhook-id", message.id),
            ("webhook-timestamp", str(timestamp)),
            ("traceparent", traceparent(message.id)),
        ]
        if self._signer:
            headers.append(("webhook-signature", self._signer.header(message.id, timestamp, message.content)))
        return headers

    async def close(self) -> None:
        await self._wire.close()


def classify(answer: Answer, detail: str, now: float) -> Outcome:
    """What an answer means; `now` in seconds since 1970.

    2xx                              delivered
    429, 503 with Retry-After        retry at the time it names
    429, 408, 421, 425, other 5xx    retry by the schedule
    401, 403, 407, 502, 503, 504, 3xx and what is no final status: held
    410                              dead
    other 4xx                        refused
    """
    status = answer.status
    after = retry_after(answer.header("retry-after"), now) if status in (429, 503) else None
    if 200 <= status < 300:
        return Outcome(OutcomeKind.DELIVERED, detail)
    if after is not None:
        return Outcome(OutcomeKind.RETRY, detail, after=after)
    if status == HTTPStatus.GONE:
        return Outcome(OutcomeKind.DEAD, detail)
    if status in DESTINATION_STATUS or not 400 <= status < 600:
        return Outcome(OutcomeKind.HELD, detail)
    if status in RETRY_STATUS or status >= 500:
        return Outcome(OutcomeKind.RETRY, detail)
    return Outcome(OutcomeKind.REFUSED, detail)


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds from `now`, of delay-seconds or an HTTP date; None when it is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) < 12:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def traceparent(delivery_id: str) -> str:
    """W3C trace context: one trace for all attempts of a delivery, a span for each."""
    return f"00-{sha256(delivery_id.encode()).hexdigest()[:32]}-{random.getrandbits(64) | 1:016x}-01"


def summary(answer: Answer) -> str:
    """Status and the beginning of the body, on one line."""
    try:
        head = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        head = str(answer.status)
    if 300 <= answer.status < 400:
        return f"{head}: to {answer.header('location')}"
    text = answer.content[: DETAIL * 4].decode("utf-8", "replace").strip()
    return f"{head}: {text}" if text else head


def _fixed_headers(settings: HttpSettings) -> list[tuple[str, str]]:
    """Those that every request has."""
    headers = [(name.lower(), value) for name, value in settings.headers.items()]
    names = {name for name, _ in headers}
    basic = _basic(URL(settings.url))
    if basic and "authorization" not in names:
        headers.append(("authorization", f"Basic {basic}"))
    return headers


def _basic(url: URL) -> str:
    """The credentials in a URL, as Basic authorization has them; "" when it has none."""
    return base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode() if url.user else ""


def _secret_texts(settings: HttpSettings) -> Iterator[str]:
    """What no detail may show: also as it goes over the wire, and a token without the word before it."""
    yield from settings.secrets
    yield from (secret.removeprefix(PREFIX) for secret in settings.secrets)
    for value in settings.headers.values():
        yield from (value, value.rpartition(" ")[2])
    for url in (URL(settings.url), URL(settings.proxy)):
        yield from (url.password or "", url.raw_password or "", _basic(url))
        yield from url.query.values()


def _tls(settings: HttpSettings) -> ssl.SSLContext | bool:
    if not (settings.ca_file or settings.client_certificate):
        return True
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if settings.client_certificate:
        context.load_cert_chain(settings.client_certificate, settings.client_key or None)
    return context


def check(settings: HttpSettings) -> str | None:
    """What is wrong with the values, one sentence with the remedy."""
    return (
        _wrong_url(settings.url)
        or (_wrong_proxy(settings.proxy) if settings.proxy else None)
        or _wrong_method(settings.method)
        or _wrong_secrets(settings.secrets)
        or next(filter(None, (_wrong_header(*header) for header in settings.headers.items())), None)
        or _wrong_tls(settings)
    )


def _wrong_url(text: str) -> str | None:
    try:
        url = URL(text)
    except ValueError:
        return "`url` is no URL. Write https://host/path."
    if url.scheme not in ("http", "https") or not url.host:
        return "`url` has no http or https address. Write https://host/path."
    return None


def _wrong_proxy(text: str) -> str | None:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme != "http" or not url.host:
        return "`proxy` has no http address. Write http://host:port."
    return None


def _wrong_method(method: str) -> str | None:
    if method.upper() in ("POST", "PUT", "PATCH"):
        return None
    return f"`method` {method!r} carries no document. Take POST, PUT or PATCH."


def _wrong_secrets(texts: Sequence[str]) -> str | None:
    for secret in texts:
        try:
            signing_key(secret)
        except ValueError as error:
            return f"`secret`: {error}. Copy it whole, or give one without that prefix."
    return None


def _wrong_header(name: str, value: str) -> str | None:
    if not _TOKEN.fullmatch(name):
        return f"`headers`: {name!r} is no header name. Use letters, digits and hyphens."
    if name.lower() in OURS:
        return f"`headers`: {name} is set by the hub. Leave it out."
    if not value.isprintable() or not value.isascii():
        return f"`headers`: the value of {name} has a line break or a character outside ASCII. Write it on one line."
    return None


def _wrong_tls(settings: HttpSettings) -> str | None:
    try:
        _tls(settings)
    except (OSError, ssl.SSLError) as error:
        return f"The certificates cannot be read: {error}. Check ca_file, client_certificate and client_key."
    return None


CONNECTOR = ConnectorKind(
    HttpSettings,
    HttpConnector,
    check,
    about="any service that takes a signed request for each delivery",
    trial=Trial({"url": "{server}", "secret": "kit-secret"}, {"key": "{key}"}, lambda messages, before: Reply(204)),
)
