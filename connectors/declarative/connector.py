"""A definition at work: messages become requests, in order; answers become outcomes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from yarl import URL

from connectors.declarative import answers
from connectors.declarative.answers import Missing
from connectors.declarative.authentication import open_credentials
from connectors.declarative.definition import Definition, Request, Rule
from connectors.declarative.rendering import asked, cleared, rendered, rendered_text, uses
from connectors.redaction import Redactor
from connectors.transport import Answer, Wire, WireError
from hub.delivery import Message, Outcome, OutcomeKind
from hub.documents import decode, encode
from hub.errors import FaultError
from hub.project import Limits

BODY_BYTES = 4_000_000  # of an answer that are read: some systems give whole records back, 200 at a time
GONE = Rule("missing", (range(404, 405), range(410, 411)))  # of a request by the system's own id
SENDING = 0.5  # of an attempt's time: what has not been sent by then comes again with the next
NEXT = Outcome(OutcomeKind.RETRY, "It was not sent: the batch took too long before its turn.", after=0.0)


@dataclass(frozen=True, slots=True)
class Item:
    """One message, ready to be asked for."""

    place: int  # in the batch
    request: Request
    same: str  # items of one value don't share a request; "" shares with all
    variables: Mapping[str, Any]

    @property
    def known(self) -> str:
        """The id that the hub remembers."""
        return str(self.variables["known"])

    def by(self, **more: str) -> "Item":
        """With other values of some variables."""
        return replace(self, variables={**self.variables, **more})


class DeclarativeConnector:
    def __init__(self, definition: Definition, settings: Mapping[str, Any], limits: Limits) -> None:
        self._definition = definition
        self._settings = settings
        self._limits = limits
        self._wire = Wire(limits, body_bytes=BODY_BYTES)
        self._credentials = open_credentials(definition.authentication, settings, self._wire)
        self._secrets = {str(settings[one.name]) for one in definition.settings if one.secret}
        self._open_at = 0.0  # time.monotonic: before it the system has no request left for us
        self.batch = self._size(definition.upsert)
        self._by_known = {False: goes_by_known(definition.upsert), True: goes_by_known(definition.delete)}  # by deleted
        self.remembers = any(self._by_known.values())

    def _size(self, request: Request) -> int:
        return max(1, int(rendered(request.batch, {"settings": self._settings})))

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        end = time.monotonic() + self._limits.timeout * SENDING
        outcomes: dict[int, Outcome] = {}
        items = []
        for place, message in enumerate(messages):
            item = self._item(place, message)
            if isinstance(item, Outcome):
                outcomes[place] = item
            else:
                items.append(item)
        for group in grouped(items, self._size):
            told = await self._deliver(group, end)
            outcomes |= {item.place: outcome for item, outcome in zip(group, told, strict=True)}
        redacted = Redactor(self._secrets | self._credentials.secrets)
        return [
            msgspec.structs.replace(outcomes[place], detail=redacted(outcomes[place].detail))
            for place in range(len(messages))
        ]

    # Messages into items

    def _item(self, place: int, message: Message) -> Item | Outcome:
        """The outcome of a message that no request can be made of."""
        deleted = message.event == "deleted"
        request = self._definition.delete if deleted else self._definition.upsert
        if request is None:
            return _refused("This connector deletes nothing: leave `deleted` out of the subscription's `on:`.")
        body = _body(message)
        missing = [name for name in self._definition.required if not _has(body, name)]
        if missing:
            return _refused(f"The body has no {', '.join(missing)}: give it in the subscription's `body:`.")
        variables = {
            "settings": self._settings,
            "body": cleared(body, self._definition.clear),
            "event": message.event,
            "entity": message.entity,
            "key": message.key,
            "version": message.version,
            "id": message.id,
            "known": message.receiver_id if self._by_known[deleted] else "",
        }
        return Item(place, request, asked(self._definition.same, variables), variables)

    # Items into requests, answers into outcomes

    async def _deliver(self, group: Sequence[Item], end: float) -> list[Outcome]:
        """`end`, by time.monotonic: no request begins after it."""
        told = await self._once(group, end)
        gone = [item for item in group if isinstance(told[item.place], Missing) and item.known]
        if gone:  # somebody has deleted or merged it there
            told |= await self._once([item.by(known="") for item in gone], end)
        return [_settled(item, told[item.place]) for item in group]

    async def _once(self, group: Sequence[Item], end: float) -> dict[int, Outcome]:
        """Found, and then updated or created; or simply sent. By place."""
        request = group[0].request
        if request.find is None:
            return await self._ask(request, group, end)
        remembered = {item.place: item.known for item in group if request.find.remember}
        sought = [item for item in group if not remembered.get(item.place)]
        told = await self._ask(request.find, sought, end)
        told |= {place: _not_there(one) for place, one in told.items() if isinstance(one, Missing)}
        ids = {place: one.receiver_id for place, one in told.items() if one.kind is OutcomeKind.DELIVERED}
        ids |= {place: id for place, id in remembered.items() if id}
        there = [item.by(found=ids[item.place]) for item in group if ids.get(item.place)]
        updated = await self._ask(request, there, end)
        told |= {item.place: _identified(item, updated[item.place]) for item in there}
        if request.create:
            told |= await self._ask(request.create, [item for item in group if ids.get(item.place) == ""], end)
        return told

    async def _ask(self, request: Request, group: Sequence[Item], end: float) -> dict[int, Outcome]:
        """One request for all of a group, outcomes by place. An item whose templates fail is refused, the rest sent."""
        outcomes: dict[int, Outcome] = {}
        sent, parts, named = [], [], []
        for item in group:
            try:
                parts.append(rendered(request.item, item.variables))
                named.append(answers.Named(_name(request, item), item.variables))
                sent.append(item)
            except FaultError as error:
                outcomes[item.place] = _refused(error.what)
        if sent:
            told = await self._send(request, sent[0].variables, parts, named, end)
            outcomes |= {item.place: outcome for item, outcome in zip(sent, told, strict=True)}
        return outcomes

    async def _send(
        self,
        request: Request,
        variables: Mapping[str, Any],
        parts: list[Any],
        named: Sequence[answers.Named],
        end: float,
    ) -> list[Outcome]:
        """An outcome for each part."""
        now = time.monotonic()
        if now < self._open_at:
            return [Outcome(OutcomeKind.RETRY, "The quota is used up.", after=self._open_at - now)] * len(named)
        if now > end:
            return [NEXT] * len(named)
        told = await self._answered(request, variables, parts, named)
        if isinstance(told, list):
            return told
        if isinstance(told, Missing) and len(named) > 1:  # nobody says which
            told = _refused(told.detail)
        return [msgspec.structs.replace(told, whole=len(named) > 1)] * len(named)

    async def _answered(
        self, request: Request, variables: Mapping[str, Any], parts: list[Any], named: Sequence[answers.Named]
    ) -> Outcome | list[Outcome]:
        """What came of one request: for all of it, or for each part."""
        try:
            url = URL(rendered_text(request.url, variables, "The URL"), encoded=True)
            headers = self._headers(request, variables)
            content = b"" if request.body is None else encode(rendered(request.body, variables, parts))
        except (FaultError, ValueError) as error:
            return _refused(str(error))
        try:
            answer = await self._exchange(request.method, url, headers, content)
        except WireError as error:
            return Outcome(OutcomeKind.HELD, str(error))
        now = time.time()
        read = answers.read(answer, self._settings)
        self._heed_quotas(read, now)
        whole = answers.whole(read, self._rules(request, named), now)
        return whole if whole is not None else answers.by_item(read, request, named, now)

    def _rules(self, request: Request, named: Sequence[answers.Named]) -> list[Rule]:
        """What is by an id may be gone, though no rule says so; by one that is remembered, whatever a rule says."""
        known = not request.finding and any(item.variables["known"] for item in named)
        found = any("found" in item.variables for item in named)
        return [*([GONE] if known else []), *request.rules, *self._definition.rules, *([GONE] if found else [])]

    def _headers(self, request: Request, variables: Mapping[str, Any]) -> list[tuple[str, str]]:
        own = [(name, rendered_text(value, variables, f"The header {name}")) for name, value in request.headers.items()]
        kind = [("content-type", "application/json")] if request.body is not None else []
        ours = [("accept", "application/json"), *kind]
        names = {name for name, _ in own}
        return [*own, *(pair for pair in ours if pair[0] not in names)]

    async def _exchange(self, method: str, url: URL, headers: list[tuple[str, str]], content: bytes) -> Answer:
        """WireError when no answer came. After a 401 the credentials are renewed once, where they can be."""
        shown = await self._credentials.headers()
        answer = await self._wire.exchange(method, url, [*headers, *shown], content)
        if answer.status == 401 and await self._credentials.renew(shown):
            shown = await self._credentials.headers()
            answer = await self._wire.exchange(method, url, [*headers, *shown], content)
        return answer

    def _heed_quotas(self, read: answers.Read, now: float) -> None:
        for quota in self._definition.quotas:
            left = asked(quota.remaining, read.variables)
            if left.lstrip("-").isdigit() and int(left) <= 0:
                wait = quota.wait.seconds(read.headers, now)
                self._open_at = max(self._open_at, time.monotonic() + (wait or 0.0))

    async def close(self) -> None:
        await self._wire.close()


def grouped(items: Sequence[Item], size: Any) -> list[list[Item]]:
    """Runs of items that may share a request: of one kind, `size(request)` at most, none the same as another.

    Their order stays, so that of two items that are the same the later one is written later.
    """
    groups: list[list[Item]] = []
    for item in items:
        last = groups[-1] if groups else []
        fits = (
            last
            and last[0].request is item.request
            and len(last) < size(item.request)
            and not (item.same and item.same in {one.same for one in last})
            and not (item.known and item.known in {one.known for one in last})
        )
        if fits:
            last.append(item)
        else:
            groups.append([item])
    return groups


def _name(request: Request, item: Item) -> str:
    return "" if request.name is None else str(rendered(request.name, item.variables))


def goes_by_known(request: Request | None) -> bool:
    """Whether the id that the hub remembers makes a difference to it."""
    return request is not None and (uses(request, "known") or bool(request.find and request.find.remember))


def _settled(item: Item, outcome: Outcome) -> Outcome:
    """What is not there needs no delete; what was found and is gone by now is looked for with the next attempt."""
    if not isinstance(outcome, Missing):
        return outcome
    if item.variables["event"] == "deleted":
        return _not_there(outcome)
    kind = OutcomeKind.RETRY if item.request.find else OutcomeKind.REFUSED
    return Outcome(kind, outcome.detail)


def _not_there(outcome: Outcome) -> Outcome:
    """Which is what a search and a delete may find."""
    return Outcome(OutcomeKind.DELIVERED, f"It is not there: {outcome.detail}")


def _identified(item: Item, outcome: Outcome) -> Outcome:
    """What was updated has the id that was found, where the answer gives none."""
    if outcome.kind is not OutcomeKind.DELIVERED or outcome.receiver_id or item.variables["event"] == "deleted":
        return outcome
    return msgspec.structs.replace(outcome, receiver_id=item.variables["found"])


def _body(message: Message) -> Any:
    try:
        return decode(message.content)
    except msgspec.DecodeError:
        return message.content.decode("utf-8", "replace")


def _has(body: Any, name: str) -> bool:
    return isinstance(body, dict) and body.get(name) not in (None, "")


def _refused(detail: str) -> Outcome:
    return Outcome(OutcomeKind.REFUSED, detail)
