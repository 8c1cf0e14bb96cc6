"""The demo: a legacy application on a Postgres, the hub beside it, and what becomes of every change.

start     Postgres, application, receiver, `hub run`, and the first snapshot
show      calls to the application one by one, with the documents and deliveries that come of each
press     several visitors at once
replay    one document again
judge     `hub verify`, plain SQL, and the books of every delivery
guide     how to look around
"""

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import click
import httpx

from examples.conference import traffic
from examples.conference.accounts import Delivery
from examples.conference.judge import ARRIVE_SECONDS, judge
from examples.conference.stage import (
    Places,
    Stage,
    check_installation,
    heading,
    hub_command,
    own_directory,
    parts_of,
    say,
    start,
)
from examples.conference.watch import Archived
from hub.errors import FaultError

DIRECTORY = Path("var/demo")
QUIET = 0.15  # seconds without news after which a commit's documents are all there
VISITORS, CALLS = 4, 50
TRICKLE = 3.0  # seconds between calls while it stays up


def run(once: bool, also: Path | None) -> None:
    """The whole demo; FaultError when a change was not delivered or a document differs from SQL.

    `also`: a directory whose parts of a project the hub has beside the demo's own.
    """
    check_installation()
    parts = parts_of(also) if also else {}
    with _ending_on_signals(), own_directory(DIRECTORY.resolve()) as places, ExitStack() as stack:
        try:
            stage = perform(places, stack, parts)
            guide(stage, once)
            if not once:
                heading("It stays up, with a call now and then, until Ctrl-C")
                stay(stage)
        finally:
            _turn_deaf()
    if stage.books.faults:
        raise FaultError(f"The demo found {len(stage.books.faults)} faults, first: {stage.books.faults[0]}.")


def perform(places: Places, stack: ExitStack, parts: Mapping[Path, Path]) -> Stage:
    """From nothing to the verdict; `stack` ends what was started."""
    heading("An events company, the hub and three partners, all on this machine")
    stage = start(places, stack, parts)
    with _plainly(stage):
        heading("What people do in the legacy application, and what becomes of it")
        show(stage)
        heading(f"{VISITORS} visitors at once, {CALLS} calls each")
        press(stage)
        heading("An operator replays one document")
        replay(stage)
        heading("Is everything there, and is it right?")
        judge(stage)
    heading("Something is wrong, see above." if stage.books.faults else "Every change is delivered and right.")
    return stage


@contextmanager
def _plainly(stage: Stage) -> Iterator[None]:
    """A server that is gone or refuses is one sentence: what ended, or what it answered."""
    try:
        yield
    except (traffic.Refusal, httpx.HTTPError) as error:
        stage.alive()
        raise FaultError(
            f"The demo cannot go on: {error}", f"See the logs in {_near(stage.places.directory)}."
        ) from error


def show(stage: Stage) -> None:
    say("  (ms: from the commit in Postgres to the receiver's own clock)")
    with traffic.Front(stage.legacy) as front:
        traffic.play(traffic.showcase(), lambda call: tell(stage, front, call))


def tell(stage: Stage, front: traffic.Front, call: traffic.Call) -> traffic.Answer:
    """Make one call and say which documents and deliveries came of it."""
    say(f"\n  {call.says:<44}{click.style(f'{call.method} {call.path}', dim=True)}")
    seen = len(stage.watch.archived)
    answer = front.make(call)
    stage.books.calls += 1
    if not stage.watch.until(lambda: len(stage.watch.archived) > seen, ARRIVE_SECONDS, stage.alive):
        stage.books.fault(f"no document came of {call.method} {call.path} within {ARRIVE_SECONDS:.0f} s")
    stage.watch.settle(QUIET, ARRIVE_SECONDS)
    for archived in stage.watch.archived[seen:]:
        tell_document(stage, archived)
    return answer


def tell_document(stage: Stage, archived: Archived) -> None:
    what, due = archived.delivery, archived.calls_for()
    stage.watch.until(lambda: all(one in stage.watch.received for one in due), ARRIVE_SECONDS, stage.alive)
    got = [_arrival(stage, one, archived.committed_at) for one in due if one in stage.watch.received]
    version = f"version {what.version} {what.event}"
    say(f"    {what.entity + ' ' + what.key:<14}{version:<20} → {', '.join([*got, 'archive'])}")
    for missing in (one for one in due if one not in stage.watch.received):
        stage.books.fault(f"{missing} did not arrive within {ARRIVE_SECONDS:.0f} s")


def _arrival(stage: Stage, delivery: Delivery, committed_at: int) -> str:
    milliseconds = (stage.watch.received[delivery].received_at - committed_at) / 1000
    return f"{delivery.consumer} {delivery.event} " + click.style(f"{milliseconds:.0f} ms", fg="green")


def press(stage: Stage) -> None:
    stage.books.pressed_at = time.time_ns() // 1000
    seen, began = len(stage.watch.archived), time.monotonic()
    calls = traffic.crowd(stage.legacy, VISITORS, CALLS)
    took = time.monotonic() - began
    stage.books.calls += calls
    stage.watch.settle(1.0, ARRIVE_SECONDS)
    say(f"  {calls} calls in {took:.1f} s, and {len(stage.watch.archived) - seen} new document versions came of them")


def replay(stage: Stage) -> None:
    """An order that the CRM has is sent again; the receiver knows the delivery by its id and drops it."""
    order = next((one.key for one in stage.watch.received if one.consumer == "crm" and one.event == "created"), None)
    if order is None:
        stage.books.fault("no order reached the CRM, so there is none to replay")
        return
    seen = len(stage.watch.duplicates)
    if not stage.tell_command("replay", "--subscription", "crm-orders", "--entity", "order", "--key", order, "--yes"):
        return

    def again() -> list[tuple[Delivery, str]]:
        return [one for one in stage.watch.duplicates[seen:] if one[0].consumer == "crm" and one[0].key == order]

    if not stage.watch.until(lambda: bool(again()), ARRIVE_SECONDS, stage.alive):
        stage.books.fault(f"order {order} was replayed and did not arrive again")
    stage.watch.settle(QUIET, ARRIVE_SECONDS)
    for delivery, webhook_id in again():
        say(f"  {delivery} arrived again: {webhook_id} was known, so it was dropped")


def guide(stage: Stage, once: bool) -> None:
    """Addresses, and commands to copy: those that read the store alone when nothing stays up."""
    order = next((one.key for one in stage.watch.received if one.consumer == "crm"), "1")
    say(f"  project             {_near(stage.places.project)}")
    say(f"  logs and archive    {_near(stage.places.directory)}")
    hub = " ".join(_near(Path(part)) for part in hub_command(stage.places))
    commands = [f"{hub} documents history order {order}", f"{hub} trace order {order}"]
    if not once:
        say(f"  legacy application  {stage.legacy}")
        say(f"  receiver            {stage.receiver}")
        commands += [f"{hub} status", f"{hub} deliveries list", f"{hub} verify"]
        commands.append(f"{_near(Path(sys.executable))} -m examples.conference.traffic {stage.legacy}")
    say("  Look around:" if once else "  Look around from another terminal:")
    for command in (f". {_near(stage.places.environ)}", *commands):
        say(f"    {command}")


def stay(stage: Stage) -> None:
    """A call now and then until Ctrl-C."""
    number = 1000
    try:
        with _plainly(stage), traffic.Front(stage.legacy) as front:
            while True:
                traffic.play(traffic.visitor(number, 20), lambda call: _tell_later(stage, front, call))
                number += 1
    except KeyboardInterrupt:
        say("\n  Ending everything.")


def _tell_later(stage: Stage, front: traffic.Front, call: traffic.Call) -> traffic.Answer:
    stage.alive()
    time.sleep(TRICKLE)
    return tell(stage, front, call)


def _near(path: Path) -> str:
    """Shorter where it can be: relative to where one stands."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: everything that it started is ended on the way out."""

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A shell that starts it in the background has it ignore SIGINT: whoever sends one still means it.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in {**before, signal.SIGINT: interrupt}.items():
            signal.signal(number, handler)


def _turn_deaf() -> None:
    """On the way out: a second Ctrl-C must not leave anything behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
