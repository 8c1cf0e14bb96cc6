"""The port that destinations are reached through, and what a connector offers.

A connector is one file: a module that offers `CONNECTOR`, a ConnectorKind, or a YAML definition that becomes one.
Nothing else registers it; `hub/discovery.py` finds it by its file's name.
"""

import asyncio
import difflib
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from hub.delivery import Message, Outcome
from hub.errors import Problem, ProjectError
from hub.project import Destination, Limits, Place

# To be called right before a message's bytes leave, where a connector can: it raises when the message is another
# process's by now, because this one was stopped or cut off.
MAY_SEND: ContextVar[Callable[[], None]] = ContextVar("may_send", default=lambda: None)


class Connector(Protocol):
    """One destination, open.

    What it owes:
    - An outcome for each message, in their order. It raises nothing for what a receiver does: that is an outcome. A
      refusal or failure of several messages that does not say whose fault it is has `whole`, at each of them: dispatch
      sends them again in halves, until the culprit stands alone.
    - `DELIVERED` only once the receiver has taken responsibility: an answer, an fsync.
    - The same message may come again, after a crash or a lost answer, always with the same id.
    - `deliver` is called on the event loop, up to `limits.concurrency` times at once, each time for one subscription,
      never with two messages of one document to one subscription at the same time. It must not block the loop, and is
      cancelled at `limits.timeout`: then the messages' outcome is RETRY, whatever the receiver did with them.
    - No detail holds a secret.

    An attribute `remembers` that is true has its messages come with `receiver_id`: what the receiver has called the
    document in an earlier outcome. It may be gone there: then the connector does as if there were none.
    """

    batch: int  # messages that one call takes at most

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]: ...

    async def close(self) -> None: ...


Settings = TypeVar("Settings", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the conformance kit's server."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Case:
    """A connector's own test: how the system answers a batch, and the outcome of each message."""

    name: str
    # To every request, of all the case's messages; several: to each request about a document, the last one to the rest.
    answer: Callable[[Sequence[Message]], Reply] | Sequence[Callable[[Sequence[Message]], Reply]]
    outcomes: tuple[str, ...]  # by message, in lower case: "refused", "throttle" (retry at a time), "expected" …
    events: tuple[str, ...] = ()  # of the messages; () means "created" for all
    find: Callable[[Sequence[Message]], Reply] | None = None  # to what is asked first; None: `answer` is to that too
    requests: tuple[str, ...] = ()  # that are sent, in order: "DELETE /contacts/9", unquoted; () means any
    bodies: tuple[Any, ...] = ()  # their JSON, in order, None where there is no body; () means any
    headers: Mapping[str, str] = field(default_factory=dict)  # that each of them has, names in lower case
    wait: float | None = None  # seconds that the system is left alone afterwards; None means any
    body: Any = None  # of each message, with `{key}` for its key; None: the trial's
    known: str = ""  # the receiver's own id that comes with each message

    @property
    def answers(self) -> Sequence[Callable[[Sequence[Message]], Reply]]:
        return (self.answer,) if callable(self.answer) else self.answer


def found_of(message: Message) -> str:
    """The kit's system's own id of a message's document: eleven digits, which stand nowhere else."""
    return str(10**10 + zlib.crc32(message.key.encode()))


@dataclass(frozen=True, slots=True)
class TimeHeader:
    """A header by which a system says how long it wants to be left alone."""

    form: str  # seconds; date: as HTTP writes it; epoch: seconds since 1970
    name: str  # in lower case


class NotTried(Exception):
    """What the kit would look at is not there to be looked at. One clause, without a full stop: the reason."""


@dataclass(frozen=True, slots=True)
class System:
    """A system of a connector's own kind, up for as long as it is tried: where the other side is no HTTP."""

    settings: Mapping[str, Any]  # that reach it; the trial's stay where they are not named
    has: Callable[[str], bool]  # whether the document of that key has come


@dataclass(frozen=True, slots=True)
class Trial:
    """What the conformance kit needs to try a connector out, without the system that it is for.

    In the texts of `settings`, {server} stands for the address of the kit's HTTP server, {host} and {port} for one
    that speaks nothing in particular, {directory} for an empty directory; in those of `body`, {key} for the document's
    key, which lets the server tell the documents apart. A connector has `answer` or `system`.
    """

    settings: Mapping[str, Any]
    body: Any = None  # of one document's delivery, as a subscription would give it
    # What the system says when all is well, of the messages that a request is about and of how many requests of this
    # delivery came before it. None: the connector speaks no HTTP.
    answer: Callable[[Sequence[Message], int], Reply] | None = None
    # Brings the system up, with a directory for what it keeps; NotTried when this machine has none.
    system: Callable[[Path], AbstractAsyncContextManager[System]] | None = None
    # What the system says when it is asked first for its own ids of the messages' documents: those that `found_of`
    # gives. None: nothing is asked.
    find: Callable[[Sequence[Message]], Reply] | None = None
    finds: tuple[str, ...] = ("delete",)  # before what it is asked: upsert, delete
    nothing_found: Callable[[Sequence[Message]], Reply] | None = None  # what it says when it has none of them
    # Of upsert and delete, those that go by the receiver's own id of a document where the message has it.
    remembers: tuple[str, ...] = ()
    # What it says to an upsert's request after that, which creates them. None: none is sent, and they are not created.
    create: Callable[[Sequence[Message]], Reply] | None = None
    nothing_written: Reply | None = None  # a 2xx to an upsert's last request that means that nothing was written
    # Headers of a 429, each of which says by itself how long is to be waited.
    waits: tuple[TimeHeader, ...] = (TimeHeader("seconds", "retry-after"), TimeHeader("date", "retry-after"))
    throttles: bool = False  # a 429 that tells no time is waited for nevertheless, and burns no attempt
    # By the header that says how many requests are left: those that tell until when, if any does.
    quotas: Mapping[str, tuple[TimeHeader, ...]] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    excused: Mapping[str, str] = field(default_factory=dict)  # checks it is not put to, in their words: why, a clause


@dataclass(frozen=True, slots=True)
class ConnectorKind(Generic[Settings]):
    """What a connector's module offers as CONNECTOR."""

    # The keys of a destination's file besides destination, connector and limits. One whose receivers may ask for
    # something in their answers has `answers`, a list of what they may: reschedule, forward.
    settings: type[Settings]
    open: Callable[[Settings, Limits], Connector]  # called with an event loop running; touches nothing outside
    check: Callable[[Settings], str | None] = lambda _: None  # what is wrong with the values, one sentence
    required: tuple[str, ...] = ()  # fields that a subscription's `body:` must give
    sends_body: tuple[str, ...] = ()  # created, updated, deleted: of these it sends the fields that `body:` gives
    side_effects: bool = False  # a delivery does what another cannot undo, as a mail: no replay unless told
    about: str = ""  # what it delivers to, one line
    trial: Trial | None = None  # what `hub connector test` tries it with


Kinds = Callable[[str], ConnectorKind[Any]]  # by name; InputError when there is no such connector


def settings_problems(kind: ConnectorKind[Any], destination: Destination) -> list[Problem]:
    """What is wrong with a destination's settings, each with its place."""
    try:
        read_settings(kind, destination)
    except ProjectError as error:
        return list(error.problems)
    return []


def read_settings(kind: ConnectorKind[Settings], destination: Destination) -> Settings:
    """The destination's settings as the connector's own type. ProjectError, with places, when they are wrong."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind.settings)}
    given = dict(destination.settings) | ({"answers": list(destination.answers)} if destination.answers else {})
    problems = [
        _problem(destination, key, f"The connector {destination.connector} has no setting {key!r}.", _near(key, fields))
        for key in given
        if key not in fields
    ]
    problems += [
        _problem(destination, "", f"The destination {destination.name} needs {name!r}.", "Add it.")
        for name, field in fields.items()
        if field.required and name not in given
    ]
    if not problems:
        try:
            settings = msgspec.convert(given, kind.settings)
        except msgspec.ValidationError as error:
            problems.append(_mistyped(destination, str(error)))
        else:
            wrong = kind.check(settings)
            if wrong is None:
                return settings
            problems.append(_problem(destination, "", f"The destination {destination.name}: {wrong}", ""))
    raise ProjectError(problems)


def batch_of(kind: ConnectorKind[Any], destination: Destination) -> int:
    """How many messages one call takes. Opens the connector, and raises what that does."""

    async def opened() -> int:
        connector = kind.open(read_settings(kind, destination), destination.limits)
        try:
            return connector.batch
        finally:
            await connector.close()

    return asyncio.run(opened())


def _near(key: str, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"There is: {', '.join(sorted(fields))}."


def _mistyped(destination: Destination, message: str) -> Problem:
    what, _, path = message.partition(" - at ")
    key = path.strip("`").removeprefix("$.").split(".")[0].split("[")[0]
    return _problem(destination, key, f"The setting {key!r}: {what.lower()}.", "Correct its value.")


def _problem(destination: Destination, key: str, what: str, remedy: str) -> Problem:
    place = destination.places.get(key) or destination.place or Place(f"destinations/{destination.name}.yaml", 0, 0)
    return Problem(place.file, place.line, place.column, what, remedy)
