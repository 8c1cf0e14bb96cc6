"""A connector through all checks of the kit, those of its own included."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from hub.connector import Case, Connector, ConnectorKind, NotTried, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.errors import HubError
from hub.kit import checks
from hub.kit.answers import ANSWERS
from hub.kit.bench import ALL, TIMEOUT, Bench, Check, Stage, by_step, deliver, filled, key_of, stages
from hub.kit.requests import checks_of
from hub.kit.server import Asked, Behaviour, Server, says

SLACK = 3  # seconds that a wait may be short of what a case says

# Which connectors checks are for, and why they are not for the others; below, those of each request.
GROUPS: tuple[tuple[Callable[[Trial], bool], tuple[Check, ...], str], ...] = (
    (lambda trial: True, checks.EVERY, ""),
    (checks.reaches_network, checks.NETWORK, "it reaches nothing over the network"),
    (checks.speaks_http, checks.HTTP, "it speaks no HTTP"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    check: str  # what was looked at, in words
    request: str = ""  # to which request it was put: upsert, create, delete …; "" when to none of its own
    fault: str = ""  # what is wrong; "" when it passed
    not_tried: str = ""  # why it was not looked at, a clause; "" when it was


async def run_kit(name: str, kind: ConnectorKind[Any]) -> list[Verdict]:
    """Every check's verdict, in order; [] for a connector that says nothing of how to try it. Takes some seconds."""
    trial = kind.trial
    if trial is None:
        return []
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(name, kind, trial, Path(directory))
        return [
            Verdict(text, _request(stage), not_tried=reason) if reason else await _verdict(text, check, bench, stage)
            for text, check, stage, reason in _chosen(trial)
        ]


def _chosen(trial: Trial) -> Iterator[tuple[str, Check, Stage | None, str]]:
    """Every check in words, itself, the request that it is put to, and why it is not tried; "" when it is."""
    for applies, group, otherwise in GROUPS:
        for check in group:
            text = _text(check)
            yield text, check, None, trial.excused.get(text, "") if applies(trial) else otherwise
    for stage in stages(trial):
        for check in (*checks_of(stage, trial), *ANSWERS):
            text = _text(check)
            yield text, check, stage, trial.excused.get(text, "")
    for case in trial.cases:
        yield f"its own: {case.name}", partial(run_case, case=case), None, ""


def _text(check: Check) -> str:
    return " ".join((check.__doc__ or "").split())


def _request(stage: Stage | None) -> str:
    return stage.name if stage else ""


async def _verdict(text: str, check: Check, bench: Bench, stage: Stage | None) -> Verdict:
    verdict = partial(Verdict, text, _request(stage))
    try:
        await check(bench.at(stage) if stage else bench)
    except NotTried as reason:
        return verdict(not_tried=str(reason))
    except AssertionError as error:
        return verdict(str(error) or "It does not hold.")
    except HubError as error:
        return verdict(str(error))
    except TimeoutError:
        return verdict(f"It took more than {TIMEOUT:g} seconds.")
    except Exception as error:  # noqa: BLE001 - a connector raises nothing: that is what is looked at
        return verdict(f"It raised {type(error).__name__}: {error}")
    return verdict()


async def run_case(bench: Bench, case: Case) -> None:
    """AssertionError when the outcomes, the requests or the wait are others than the case says."""
    messages = [
        msgspec.structs.replace(
            bench.message(number, event, body=ALL if case.body is None else filled(case.body, key_of(number))),
            receiver_id=case.known,
        )
        for number, event in _numbered(case)
    ]

    def step(asked: Asked, about: Sequence[Message], before: int) -> Behaviour:
        if case.find and not case.known:  # what is known is not looked for
            if before == 0:
                return says(case.find(about))
            before -= 1
        return says(case.answers[min(before, len(case.answers) - 1)](messages))

    async with Server(by_step(messages, step)) as there:
        connector = bench.open(there.url)
        try:
            outcomes = await deliver(connector, messages)
            asked = list(there.asked)
            came = [_word(outcome) for outcome in outcomes]
            assert came == list(case.outcomes), (
                f"It should be {_listed(case.outcomes)}, and is {_listed(came)}; it sent {_listed(_sent(asked))}."
            )
            if case.wait is not None:
                await _expect_wait(case.wait, outcomes, connector, messages[:1])
        finally:
            await connector.close()
    _expect_sent(case, asked)


async def _expect_wait(
    wait: float, outcomes: Sequence[Outcome], connector: Connector, messages: Sequence[Message]
) -> None:
    """By what was throttled; where nothing was, by what comes next, as after an answer that leaves no request."""
    if all(outcome.after is None for outcome in outcomes):
        outcomes = await deliver(connector, messages)
    told = [outcome.after for outcome in outcomes if outcome.after is not None]
    assert told, f"It should wait for {wait:.0f} seconds, and does not."
    for after in told:
        near = wait - SLACK <= after <= wait + 1
        assert near, f"It should wait for {wait:.0f} seconds, and waits for {after:.0f}."


def _expect_sent(case: Case, asked: Sequence[Asked]) -> None:
    sent = _sent(asked)
    if case.requests:
        assert sent == list(case.requests), f"It should send {_listed(case.requests)}, and sends {_listed(sent)}."
    if case.bodies:
        assert len(sent) == len(case.bodies), f"It should send {len(case.bodies)} bodies, and sends {_listed(sent)}."
        for request, one, body in zip(sent, asked, case.bodies, strict=True):
            came = msgspec.json.decode(one.body) if one.body else None
            assert came == body, f"{request} should send {_json(body)}, and sends {_json(came)}."
    for request, one in zip(sent, asked, strict=True):
        for name, value in case.headers.items():
            came = one.headers.get(name)
            assert came == value, f"{request} should have the header `{name}: {value}`, and has {came or 'none'}."


def _sent(asked: Sequence[Asked]) -> list[str]:
    """As a case writes them."""
    return [f"{one.method} {unquote(one.path)}" for one in asked]


def _json(tree: Any) -> str:
    return "nothing" if tree is None else msgspec.json.encode(tree).decode()


def _word(outcome: Outcome) -> str:
    """`throttle` is a retry whose time is told, `expected` a refusal that is no fault."""
    if outcome.kind is OutcomeKind.RETRY and outcome.after is not None:
        return "throttle"
    return "expected" if outcome.expected else outcome.kind.name.lower()


def _numbered(case: Case) -> list[tuple[int, str]]:
    events = case.events or ("created",) * len(case.outcomes)
    return list(enumerate(events, start=1))


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "nothing"
