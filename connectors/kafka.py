"""Deliver to a Kafka topic: a record for each delivery, keyed by the document, a tombstone for each delete."""

import asyncio
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from pathlib import Path
from typing import Any, Literal

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from connectors.redaction import Redactor
from hub.connector import MAY_SEND, ConnectorKind, NotTried, System, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.project import Limits

LARGEST = 100_000_000  # bytes of a record; the broker's and the topic's own limits are what counts
GATHERING = 5  # milliseconds that a record waits for others to share its request
DELIVERING = 0.8  # of the attempt's time limit: then the producer gives a record up, so that none comes later


class KafkaSettings(msgspec.Struct, frozen=True):
    bootstrap: str | list[str]  # host:port of one or several brokers
    topic: str
    security: Literal["tls", "none"] = "none"
    ca_file: str = ""  # PEM: whom to trust instead of the system's authorities
    client_certificate: str = ""  # PEM, certificate and chain
    client_key: str = ""  # PEM; left out: it is in client_certificate
    username: str = ""
    password: str = ""
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    compression: Literal["lz4", "none"] = "lz4"
    deletes: Literal["tombstone", "body"] = "tombstone"  # what a `deleted` has for its value


class KafkaConnector:
    """Each call has a producer for itself, kept for the next one: after a fault it has to be a new one."""

    batch = 500

    def __init__(self, settings: KafkaSettings, limits: Limits) -> None:
        self._settings = settings
        self._seconds = limits.timeout * DELIVERING
        self._redacted = Redactor([settings.password])
        self._threads = ThreadPoolExecutor(limits.concurrency, "kafka")
        self._idle: list[Any] = []

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, self._deliver, messages)

    def _deliver(self, messages: Sequence[Message]) -> list[Outcome]:
        """One that is refused has all of its request refused."""
        outcomes = self._produce(messages)
        shared = len(messages) > 1
        return [msgspec.structs.replace(one, whole=shared and one.kind is OutcomeKind.REFUSED) for one in outcomes]

    def _produce(self, messages: Sequence[Message]) -> list[Outcome]:
        try:
            producer = self._idle.pop() if self._idle else KafkaProducer(**_config(self._settings, self._seconds))
        except (KafkaError, OSError, ValueError) as error:
            return [self._failed(error)] * len(messages)
        try:
            MAY_SEND.get()()
        except BaseException:
            self._idle.append(producer)
            raise
        sent = [self._send(producer, message) for message in messages]
        outcomes = [one if isinstance(one, Outcome) else self._came(one) for one in sent]
        if all(one.kind is OutcomeKind.DELIVERED for one in outcomes):
            self._idle.append(producer)
        else:
            producer.close(timeout=0)
        return outcomes

    def _send(self, producer: Any, message: Message) -> Any:
        """A future, or the outcome when the producer does not even take it."""
        value = None if message.event == "deleted" and self._settings.deletes == "tombstone" else message.content
        try:
            return producer.send(
                self._settings.topic, key=message.key.encode(), value=value, headers=headers_of(message)
            )
        except (KafkaError, OSError, ValueError) as error:
            return self._failed(error)

    def _came(self, future: Any) -> Outcome:
        try:
            record = future.get(timeout=self._seconds)
        except (KafkaError, OSError) as error:
            return self._failed(error)
        where = f"{record.topic}/{record.partition}/{record.offset}"
        return Outcome(OutcomeKind.DELIVERED, receiver_id=where)

    def _failed(self, error: Exception) -> Outcome:
        return Outcome(outcome_of(error), self._redacted(f"{type(error).__name__}: {error}"))

    async def close(self) -> None:
        while self._idle:
            await asyncio.to_thread(self._idle.pop().close, timeout=1)
        self._threads.shutdown(wait=False, cancel_futures=True)


def headers_of(message: Message) -> list[tuple[str, bytes]]:
    """What a consumer drops duplicates by, and what the value is."""
    texts = {
        "id": message.id,
        "version": str(message.version),
        "event": message.event,
        "entity": message.entity,
        "content-type": message.content_type,
    }
    return [(name, text.encode()) for name, text in texts.items()]


def outcome_of(error: Exception) -> OutcomeKind:
    """A record that is too large is refused; all else is the cluster's or the topic's, and holds the destination."""
    too_large = isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError)
    return OutcomeKind.REFUSED if too_large else OutcomeKind.HELD


def _config(settings: KafkaSettings, seconds: float) -> dict[str, Any]:
    """The producer's: every replica in sync has a record before it counts, and a retry of its own doubles none."""
    milliseconds = int(seconds * 1000)
    wire = "SSL" if settings.security == "tls" else "PLAINTEXT"
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "client_id": "hub",
        "acks": "all",
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "compression_type": None if settings.compression == "none" else settings.compression,
        "linger_ms": GATHERING,
        "max_request_size": LARGEST,
        "max_block_ms": milliseconds,
        "bootstrap_timeout_ms": milliseconds,
        "request_timeout_ms": max(1, milliseconds - GATHERING),
        "delivery_timeout_ms": milliseconds,
        "security_protocol": f"SASL_{wire}" if settings.username else wire,
    }
    if settings.security == "tls":
        config["ssl_context"] = _tls(settings)
    if settings.username:
        config |= {
            "sasl_mechanism": settings.mechanism,
            "sasl_plain_username": settings.username,
            "sasl_plain_password": settings.password,
        }
    return config


def _tls(settings: KafkaSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if settings.client_certificate:
        context.load_cert_chain(settings.client_certificate, settings.client_key or None)
    return context


def check(settings: KafkaSettings) -> str | None:
    """What is wrong with the values, one sentence with the remedy."""
    brokers = [settings.bootstrap] if isinstance(settings.bootstrap, str) else settings.bootstrap
    if not brokers or not all(":" in one.strip(":") for broker in brokers for one in broker.split(",")):
        return "`bootstrap` names no broker. Write host:9092, or a list."
    if not settings.topic:
        return "`topic` is empty. Name a topic."
    if bool(settings.username) != bool(settings.password):
        return "`username` and `password` belong together. Give both or none."
    if settings.username and settings.security == "none":
        return "`password` would be sent in the clear. Take `security: tls`."
    if settings.security == "tls":
        try:
            _tls(settings)
        except (OSError, ssl.SSLError) as error:
            return f"The certificates cannot be read: {error}. Check ca_file, client_certificate and client_key."
    return None


def _a_broker(directory: Path) -> AbstractAsyncContextManager[System]:
    raise NotTried("there is no Kafka broker here")


CONNECTOR = ConnectorKind(
    KafkaSettings,
    KafkaConnector,
    check,
    about="a Kafka topic, a record a delivery",
    trial=Trial(
        {"bootstrap": "{host}:{port}", "topic": "documents"},
        {"key": "{key}"},
        system=_a_broker,
        excused={"nonsense without end": "Kafka's client reads without a bound what comes faster than it reads"},
    ),
)
