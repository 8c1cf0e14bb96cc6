"""What checks work with: a connector opened against a server, messages for it, and the requests that they lead to."""

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from email.utils import formatdate
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec

from hub.connector import (
    Connector,
    ConnectorKind,
    NotTried,
    Reply,
    System,
    TimeHeader,
    Trial,
    found_of,
    read_settings,
)
from hub.delivery import Message, Outcome, OutcomeKind
from hub.kit import server
from hub.kit.server import Asked, Behaviour, Server
from hub.project import Destination, Limits, Network

THIS_MACHINE = Network((ip_network("127.0.0.0/8"),))
NOWHERE = "http://127.0.0.1:9"  # where nobody listens
TIMEOUT = 15.0  # seconds of an attempt in the kit
BUSY = 120  # seconds that a throttling server asks for
DETAIL = 500  # characters that a detail may have
ANY_SYSTEM = System({}, lambda key: True)  # the settings alone say where to
ALL = object()  # of a body: what the trial says

DELIVERED, RETRY, REFUSED, HELD = OutcomeKind.DELIVERED, OutcomeKind.RETRY, OutcomeKind.REFUSED, OutcomeKind.HELD
Check = Callable[["Bench"], Awaitable[None]]
Answers = Callable[[Sequence[Message]], Reply]


@dataclass(frozen=True, slots=True)
class Stage:
    """A request that a delivery comes to, and how."""

    name: str
    event: str  # of the messages
    well: Callable[[Sequence[Message], int], Reply]  # what it is answered when all is well
    finds: bool = False  # it asks for the system's own ids, before the request proper
    found: Answers | None = None  # what was answered before, to what was asked first; None: nothing was asked
    has_id: bool = False  # that answer had the system's own id

    @property
    def writes(self) -> bool:
        """It brings a document there."""
        return self.event != "deleted" and not self.finds


def stages(trial: Trial) -> list[Stage]:
    """The requests of an upsert and of a delete, each after what leads to it; [] for a connector without HTTP."""
    if trial.answer is None:
        return []
    found: list[Stage] = []
    for step, event, proper in (("upsert", "created", "update"), ("delete", "deleted", "delete")):
        if trial.find is None or step not in trial.finds:
            found.append(Stage(step, event, trial.answer))
            continue
        found.append(Stage(f"find of the {step}", event, trial.answer, finds=True))
        found.append(Stage(proper, event, trial.answer, found=trial.find, has_id=True))
        if step == "upsert" and trial.create and trial.nothing_found:
            found.append(Stage("create", event, _whenever(trial.create), found=trial.nothing_found))
    return found


def _whenever(answers: Answers) -> Callable[[Sequence[Message], int], Reply]:
    return lambda messages, before: answers(messages)


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a delivery."""

    messages: Sequence[Message]
    outcomes: Sequence[Outcome]
    first: Sequence[Asked]  # the requests before the stage's
    proper: Sequence[Asked]  # the stage's, and those after it

    def has(self, text: str) -> bool:
        """Whether one of the stage's requests has it, in its path or its body."""
        return any(text in asked.text for asked in self.proper)


class Bench:
    """A connector, what it is tried with, and a directory for it."""

    def __init__(
        self, name: str, kind: ConnectorKind[Any], trial: Trial, directory: Path, stage: Stage | None = None
    ) -> None:
        """`stage`: whose request the checks are of; the first of an upsert by default."""
        self.name = name
        self.trial = trial
        self._kind = kind
        self._directory = directory
        self._stage = stage or next(iter(stages(trial)), None)
        self.secrets = sorted(words_with(trial.settings, "secret"))

    @property
    def stage(self) -> Stage:
        assert self._stage
        return self._stage

    def at(self, stage: Stage) -> "Bench":
        return Bench(self.name, self._kind, self.trial, self._directory, stage)

    def open(self, url: str, timeout: float = TIMEOUT) -> Connector:
        """`url`: http://host:port of the other side."""
        return self._open(self.trial.settings, url, timeout)

    def _open(self, settings: Mapping[str, Any], url: str = NOWHERE, timeout: float = TIMEOUT) -> Connector:
        host, _, port = url.removeprefix("http://").partition(":")
        texts = {"{server}": url, "{host}": host, "{port}": port, "{directory}": str(self._directory)}
        destination = Destination("kit", self.name, settings=_filled(dict(settings), texts))
        return self._kind.open(read_settings(self._kind, destination), Limits(timeout=timeout, network=THIS_MACHINE))

    @asynccontextmanager
    async def working(self) -> AsyncIterator["Working"]:
        """The connector, with a system that does what it should. NotTried when there is none here."""
        if self.trial.answer:
            async with Server(server.silent) as there:
                connector = self.open(there.url)
                try:
                    yield Working(self, connector, there, lambda key: any(key in asked.text for asked in there.asked))
                finally:
                    await connector.close()
            return
        empty = Path(tempfile.mkdtemp(dir=self._directory))
        async with self.trial.system(empty) if self.trial.system else nullcontext(ANY_SYSTEM) as system:
            connector = self._open({**self.trial.settings, **system.settings})
            try:
                yield Working(self, connector, None, system.has)
            finally:
                await connector.close()

    def message(self, number: int, event: str = "created", *, like: str = "", body: Any = ALL) -> Message:
        """`number`: from 1, it makes id and key; `like`: the text that stands in the body, instead of the key."""
        key = key_of(number)
        content = msgspec.json.encode(self.body(like or key) if body is ALL else body)
        return Message(f"kit-{number}", "kit", "contact", key, 1, event, content, "application/json", 1)

    def body(self, key: str) -> Any:
        """The trial's, of the document of that key."""
        return filled(self.trial.body, key)

    def messages(self, connector: Connector, most: int = 3) -> list[Message]:
        """Of the stage's event."""
        event = self._stage.event if self._stage else "created"
        return [self.message(number, event) for number in range(1, min(most, connector.batch) + 1)]

    async def outcomes(self, behaviour: Behaviour) -> Sequence[Outcome]:
        """Of a batch, delivered to a server that behaves like this from the stage's request on. NotTried when the
        delivery does not come to it.
        """
        tried = await self.tried(behaviour)
        if not tried.proper and (self.stage.found or self.stage.event == "deleted"):
            raise NotTried(f"no {self.stage.name} is sent")
        return tried.outcomes

    async def tried(
        self, behaviour: Behaviour | None = None, *messages: Message, found: Answers | None = None
    ) -> Tried:
        """As `outcomes`, with the requests. By default all is well, and a batch is delivered; `found` stands for the
        stage's.
        """
        first: list[Asked] = []
        proper: list[Asked] = []
        answers = found or self.stage.found

        def step(asked: Asked, about: Sequence[Message], before: int) -> Behaviour:
            if answers and before == 0:
                first.append(asked)
                return server.says(answers(about))
            proper.append(asked)
            return behaviour or server.says(self.stage.well(about, before))

        async with Server(server.silent) as there:
            connector = self.open(there.url)
            try:
                batch = messages or self.messages(connector)
                there.behaviour = by_step(batch, step)
                outcomes = await deliver(connector, batch)
            finally:
                await connector.close()
        return Tried(batch, outcomes, first, proper)

    def well(self, messages: Sequence[Message]) -> Behaviour:
        """As the system answers when all is well."""
        answer = self.trial.answer
        assert answer
        return by_step(messages, lambda asked, about, before: server.says(answer(about, before)))


class Working:
    """A connector whose other side does what it should."""

    def __init__(self, bench: Bench, connector: Connector, there: Server | None, has: Callable[[str], bool]) -> None:
        self.batch = connector.batch
        self.has = has  # whether the document of that key has come, or a request with that id
        self._bench = bench
        self._connector = connector
        self._server = there

    @property
    def requests(self) -> int | None:
        """That have come; None when the other side counts none."""
        return len(self._server.asked) if self._server else None

    async def deliver(self, *messages: Message) -> Sequence[Outcome]:
        if self._server:
            self._server.behaviour = self._bench.well(messages)
        return await deliver(self._connector, messages)


def by_step(messages: Sequence[Message], step: Callable[[Asked, Sequence[Message], int], Behaviour]) -> Behaviour:
    """`step` gives it of a request, the messages that this is about, and how many about the first came before."""
    seen: Sequence[Message] = messages
    counts: dict[str, int] = {}

    async def behaviour(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        # A request that names none is about those of the one before: it names them by the system's own ids.
        seen = named(asked, messages) or seen
        before = counts.get(seen[0].id, 0)
        counts.update({message.id: before + 1 for message in seen})
        await step(asked, seen, before)(asked, writer)

    return behaviour


async def deliver(connector: Connector, messages: Sequence[Message], timeout: float = TIMEOUT) -> Sequence[Outcome]:
    """As dispatch does it. AssertionError when the connector breaks its word."""
    async with asyncio.timeout(timeout):
        outcomes = await connector.deliver(messages)
    assert len(outcomes) == len(messages), f"It gave {len(outcomes)} outcomes for {len(messages)} messages."
    for outcome in outcomes:
        assert len(outcome.detail) <= DETAIL, f"A detail has {len(outcome.detail)} characters; {DETAIL} are kept."
    return outcomes


def expect(outcomes: Sequence[Outcome], *kinds: OutcomeKind) -> None:
    wrong = next((one for one in outcomes if one.kind not in kinds), None)
    wanted = " or ".join(kind.name.lower() for kind in kinds)
    assert wrong is None, f"It should be {wanted}, and is {wrong.kind.name.lower()}: {wrong.detail}" if wrong else ""


def expect_no_secret(bench: Bench, outcomes: Sequence[Outcome]) -> None:
    shown = any(secret in outcome.detail for outcome in outcomes for secret in bench.secrets)
    assert not shown, "A detail shows a secret of the settings."


def expect_wait(
    outcomes: Sequence[Outcome], headers: Mapping[str, str], remedy: str, kind: OutcomeKind = RETRY
) -> None:
    """`headers`: those that ask for BUSY seconds."""
    expect(outcomes, kind)
    for outcome in outcomes:
        waits = "for its next attempt" if outcome.after is None else f"for {outcome.after:.0f}"
        near = outcome.after is not None and BUSY - 10 <= outcome.after <= BUSY + 1
        assert near, f"`{listed(headers)}` asks for {BUSY} seconds, and it waits {waits}. {remedy}"


def telling(header: TimeHeader) -> dict[str, str]:
    """The header, asking for BUSY seconds from now."""
    match header.form:
        case "seconds":
            return {header.name: str(BUSY)}
        case "date":
            return {header.name: formatdate(time.time() + BUSY, usegmt=True)}
    return {header.name: str(int(time.time()) + BUSY)}


def listed(headers: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in headers.items())


def key_of(number: int) -> str:
    return f"kitdoc{number:04}"


def named(asked: Asked, messages: Sequence[Message]) -> list[Message]:
    """The messages that a request is about, in its order. Their keys, or the system's own ids, are in it."""
    text = asked.text
    places = {message.id: _place(text, message) for message in messages}
    return sorted((one for one in messages if places[one.id] >= 0), key=lambda one: places[one.id])


def _place(text: str, message: Message) -> int:
    body = message.content.decode()
    marks = [key_of(number) for number in range(1, 100) if key_of(number) in body] or [message.key]
    place = text.find(marks[0])
    return place if place >= 0 else text.find(found_of(message))


def filled(body: Any, key: str) -> Any:
    """A body with `{key}` in it, of the document of that key."""
    return _filled(body, {"{key}": key})


def _filled(part: Any, texts: dict[str, str]) -> Any:
    if isinstance(part, str):
        if part == "{port}":
            return int(texts[part])
        for name, text in texts.items():
            part = part.replace(name, text)
        return part
    if isinstance(part, dict):
        return {name: _filled(value, texts) for name, value in part.items()}
    return [_filled(value, texts) for value in part] if isinstance(part, list | tuple) else part


def words_with(part: Any, text: str) -> set[str]:
    """The words in it that hold `text`; a word ends where a URL's part does."""
    if isinstance(part, str):
        return {word for word in re.split(r"[/:@?&= ]", part) if text in word}
    parts = part.values() if hasattr(part, "values") else part if isinstance(part, list | tuple) else ()
    return {word for one in parts for word in words_with(one, text)}
