"""A connector through all checks of the kit, those of its own included."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from hub.connector import Case, ConnectorKind, NotTried, Reply, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.errors import HubError
from hub.kit import checks
from hub.kit.checks import Bench, Check, deliver
from hub.kit.server import Server

# Which connectors checks are for, and why they are not for the others.
GROUPS: tuple[tuple[Callable[[Trial], bool], tuple[Check, ...], str], ...] = (
    (lambda trial: True, checks.EVERY, ""),
    (checks.reaches_network, checks.NETWORK, "it reaches nothing over the network"),
    (checks.speaks_http, checks.HTTP, "it speaks no HTTP"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    check: str  # what was looked at, in words
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
            Verdict(text, not_tried=reason) if reason else await _verdict(text, check, bench)
            for text, check, reason in _chosen(trial)
        ]


def _chosen(trial: Trial) -> Iterator[tuple[str, Check, str]]:
    """Every check in words, itself, and why it is not tried; "" when it is."""
    for applies, group, otherwise in GROUPS:
        for check in group:
            text = " ".join((check.__doc__ or "").split())
            yield text, check, trial.excused.get(text, "") if applies(trial) else otherwise
    for case in trial.cases:
        yield f"its own: {case.name}", partial(run_case, case=case), ""


async def _verdict(text: str, check: Check, bench: Bench) -> Verdict:
    try:
        await check(bench)
    except NotTried as reason:
        return Verdict(text, not_tried=str(reason))
    except AssertionError as error:
        return Verdict(text, str(error) or "It does not hold.")
    except HubError as error:
        return Verdict(text, str(error))
    except TimeoutError:
        return Verdict(text, f"It took more than {checks.TIMEOUT:g} seconds.")
    except Exception as error:  # noqa: BLE001 - a connector raises nothing: that is what is looked at
        return Verdict(text, f"It raised {type(error).__name__}: {error}")
    return Verdict(text)


async def run_case(bench: Bench, case: Case) -> None:
    """AssertionError when the outcomes, or the requests, are others than the case says."""
    messages = [msgspec.structs.replace(bench.message(number), event=event) for number, event in _numbered(case)]

    def answer(about: Sequence[Message], before: int) -> Reply:
        return case.find(about or messages) if case.find and before == 0 else case.answer(messages)

    async with Server(bench.answering(messages, answer)) as there:
        connector = bench.open(there.url)
        try:
            outcomes = await deliver(connector, messages)
        finally:
            await connector.close()
    came = [_word(outcome) for outcome in outcomes]
    assert came == list(case.outcomes), f"It should be {_listed(case.outcomes)}, and is {_listed(came)}."
    sent = [f"{asked.method} {unquote(asked.path)}" for asked in there.asked]
    if case.requests:
        assert sent == list(case.requests), f"It should send {_listed(case.requests)}, and sends {_listed(sent)}."


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
