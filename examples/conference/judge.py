"""The demo's verdict: nothing lost, nothing doubled, nothing wrong. Each fault goes into the books."""

from collections.abc import Sequence

from examples.conference import accounts, proof
from examples.conference.accounts import Delivery, Version, percentile
from examples.conference.stage import Stage, say

ARRIVE_SECONDS = 60.0
SHOWN = 10  # faults of one kind


def judge(stage: Stage) -> None:
    """`hub verify` comes first: it waits until the hub has seen all that was committed."""
    stage.tell_command("verify")
    journal = stage.journal()
    judge_commits(stage, journal)
    judge_deliveries(stage, journal)
    judge_documents(stage, journal)


def judge_commits(stage: Stage, journal: Sequence[Version]) -> None:
    """Every call to the application was one commit that changed a document; the journal must name them all."""
    commits = {version.transaction for version in journal if version.cause != "snapshot"}
    line = f"{stage.books.calls} calls changed something, {len(commits)} commits are in the journal"
    say(f"  {line}")
    if len(commits) != stage.books.calls:
        stage.books.fault(line)


def judge_deliveries(stage: Stage, journal: Sequence[Version]) -> None:
    """What the journal calls for, no more and no less, has arrived."""
    due = accounts.expected(journal)
    stage.watch.until(lambda: due <= _arrived(stage), ARRIVE_SECONDS, stage.alive)
    missing, surplus = sorted(due - _arrived(stage)), sorted(_arrived(stage) - due)
    say(f"  {len(journal)} document versions call for {len(due)} deliveries: {len(due) - len(missing)} arrived")
    for delivery in missing[:SHOWN]:
        stage.books.fault(f"{delivery} has not arrived")
    for delivery in surplus[:SHOWN]:
        stage.books.fault(f"{delivery} arrived, and nobody asked for it")
    tell_waits(stage, journal)


def tell_waits(stage: Stage, journal: Sequence[Version]) -> None:
    """How long deliveries took, apart for calls one by one and for many at once."""
    for name, waits in zip(("one by one", "many at once"), _waits(stage, journal), strict=True):
        p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
        say(f"  from commit to receiver, {name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, {len(waits)} deliveries")


def _arrived(stage: Stage) -> set[Delivery]:
    return {*stage.watch.received, *(archived.delivery for archived in stage.watch.archived)}


def _waits(stage: Stage, journal: Sequence[Version]) -> tuple[list[float], list[float]]:
    """Milliseconds from each commit in Postgres to the receiver's own clock: before the press began, and since."""
    commits = {(version.entity, version.key, version.version): version.committed_at for version in journal}
    waits: tuple[list[float], list[float]] = ([], [])
    for one, received in stage.watch.received.items():
        committed_at = commits.get((one.entity, one.key, one.version))
        if committed_at is not None:
            waits[committed_at >= stage.books.pressed_at].append((received.received_at - committed_at) / 1000)
    return waits


def judge_documents(stage: Stage, journal: Sequence[Version]) -> None:
    wanted = proof.wanted(stage.owner)
    differences = proof.differences(accounts.newest(journal), wanted)
    say(f"  {len(wanted)} documents compared with plain SQL: {len(differences)} differ")
    for difference in differences[:SHOWN]:
        stage.books.fault(difference)
