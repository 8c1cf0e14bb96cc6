from hub.delivery import Forward, Outcome, OutcomeKind
from hub.dispatch.health import WELL, Health
from hub.dispatch.outcomes import SECOND, Step, expires_at, follow, names_none, probe_delay
from hub.dispatch.pace import Pace
from hub.project import DeliveryPolicy

POLICY = DeliveryPolicy(retry=(5.0, 300.0), expire=86400.0)
NOW = 1_700_000_000 * SECOND


def after(kind: OutcomeKind, attempts: int = 0, jitter: float = 0.0, **fields: float) -> tuple[Step, int, int]:
    """Step, attempts burnt, seconds to wait."""
    following = follow(Outcome(kind, "why", **fields), attempts, POLICY, NOW, jitter)
    return following.step, following.attempts, (following.due_at - NOW) // SECOND if following.due_at else 0


def test_a_delivered_one_is_settled() -> None:
    """What the receiver took is done with, and what it forwards is issued."""

    document = Forward("lead_score", "42", b"{}")

    assert after(OutcomeKind.DELIVERED) == (Step.SETTLE, 1, 0)
    for kind in (OutcomeKind.DELIVERED, OutcomeKind.RESCHEDULE):
        assert follow(Outcome(kind, forward=(document,)), 0, POLICY, NOW, 0).forward == (document,)


def test_a_rescheduled_one_waits_for_its_time() -> None:
    """A second at least: no receiver is asked in a circle as fast as it answers; and not past the end of clocks."""

    assert after(OutcomeKind.RESCHEDULE, after=3600.0) == (Step.RESCHEDULE, 1, 3600)
    assert after(OutcomeKind.RESCHEDULE, after=0.0) == (Step.RESCHEDULE, 1, 1)
    assert after(OutcomeKind.RESCHEDULE) == (Step.RESCHEDULE, 1, 1)
    assert after(OutcomeKind.RESCHEDULE, after=float("inf"))[2] == 100 * 365 * 86400


def test_an_expected_no_is_done_with() -> None:
    """It is neither parked nor an alarm: there is nothing to mend."""

    assert follow(Outcome(OutcomeKind.REFUSED, "unsubscribed", expected=True), 0, POLICY, NOW, 0).step is Step.DROP


def test_retries_follow_the_schedule_and_then_park() -> None:
    """With retry: [5s, 5m] the third failure parks."""

    assert after(OutcomeKind.RETRY, 0) == (Step.WAIT, 1, 5)
    assert after(OutcomeKind.RETRY, 1) == (Step.WAIT, 2, 300)
    assert after(OutcomeKind.RETRY, 2) == (Step.PARK, 3, 0)


def test_jitter_lengthens_a_wait_by_a_tenth_at_most() -> None:
    """It never shortens one."""

    assert after(OutcomeKind.RETRY, 1, jitter=0.999) == (Step.WAIT, 2, 329)


def test_a_named_time_burns_no_attempt() -> None:
    """Retry-After is honoured in full, past the end of the schedule too, and pauses the destination."""

    assert after(OutcomeKind.RETRY, 2, after=7200.0) == (Step.WAIT, 2, 7200)
    assert follow(Outcome(OutcomeKind.RETRY, after=1.0), 0, POLICY, NOW, 0).pause


def test_a_used_up_quota_is_the_destinations() -> None:
    """It came with an acceptance: the delivery is done with, and nothing follows it before that time."""

    following = follow(Outcome(OutcomeKind.DELIVERED, after=60.0), 0, POLICY, NOW, 0)
    assert (following.step, following.pause, following.due_at) == (Step.SETTLE, True, NOW + 60 * SECOND)

    health = Health()
    health.pause(following.due_at, following.reason)
    health.pause(NOW + SECOND, "an earlier answer")
    assert health.open_at() == NOW + 60 * SECOND
    assert Health.remembered(health.state(NOW)).open_at() == health.open_at()
    assert health.state(NOW + 60 * SECOND) == WELL


def test_a_named_time_may_be_past_the_end_of_clocks() -> None:
    """A hundred years it is, and the delivery expires long before."""

    assert after(OutcomeKind.RETRY, after=float("inf"))[2] == 100 * 365 * 86400


def test_refused_parks_with_its_reason() -> None:
    """Another attempt would get the same."""

    following = follow(Outcome(OutcomeKind.REFUSED, "422 no such field"), 0, POLICY, NOW, 0)

    assert (following.step, following.attempts, following.reason) == (Step.PARK, 1, "Refused: 422 no such field")


def test_nothing_is_parked_for_what_its_batch_got() -> None:
    """It goes again at once with half of them, no attempt burnt; one that stands alone is parked."""

    for kind, attempts in ((OutcomeKind.REFUSED, 0), (OutcomeKind.RETRY, 2)):
        outcome = Outcome(kind, "400", whole=True)
        following = follow(outcome, attempts, POLICY, NOW, 0, alone=False)
        assert (following.step, following.attempts, following.due_at) == (Step.DIVIDE, attempts, 0)
        assert follow(outcome, attempts, POLICY, NOW, 0, alone=True).step is Step.PARK
        assert follow(Outcome(kind, "400"), attempts, POLICY, NOW, 0, alone=False).step is Step.PARK
    assert follow(Outcome(OutcomeKind.RETRY, "500", whole=True), 0, POLICY, NOW, 0, alone=False).step is Step.WAIT


def test_what_names_none() -> None:
    """A named time is the receiver's, whatever was sent; a held destination says nothing of the documents."""

    assert names_none(Outcome(OutcomeKind.HELD))
    assert names_none(Outcome(OutcomeKind.RETRY, whole=True))
    assert not names_none(Outcome(OutcomeKind.RETRY, whole=True, after=60.0))
    assert not names_none(Outcome(OutcomeKind.REFUSED))


def test_held_and_dead_burn_nothing() -> None:
    """They say nothing of the document."""

    assert after(OutcomeKind.HELD, 1) == (Step.HOLD, 1, 0)
    assert after(OutcomeKind.DEAD, 1) == (Step.DISABLE, 1, 0)


def test_expiry_counts_from_the_making() -> None:
    """expire: 1d is a day after the delivery was made."""

    assert expires_at(NOW, POLICY) == NOW + 86_400 * SECOND


def test_probes_back_off_to_a_minute() -> None:
    """1, 2, 4 … 60 s, and then 60 s for ever."""

    assert [probe_delay(n, 0.0) for n in (0, 1, 2, 5, 6, 10_000)] == [1, 2, 4, 32, 60, 60]


def test_health_holds_on_a_fault_and_is_well_after_an_accepted_probe() -> None:
    """Nothing is blamed on a document that failed once."""

    health = Health()
    health.fail(1, "503", probe=False, now=NOW, jitter=0.0)
    assert health.held
    health.fail(2, "503", probe=True, now=NOW + SECOND, jitter=0.0)
    assert health.probe_at == NOW + 3 * SECOND

    assert health.accept(3, NOW + 3 * SECOND) == {}
    assert not health.held


def test_health_blames_a_document_that_fails_alone_twice() -> None:
    """Others were accepted before and after its second failure."""

    health = Health()
    health.fail(1, "502", probe=False, now=NOW, jitter=0.0)
    health.accept(2, NOW + 1)
    health.fail(1, "502", probe=False, now=NOW + 2, jitter=0.0)
    assert health.probe_at == NOW + 2

    assert health.accept(3, NOW + 3) == {1: "502"}


def test_health_blames_nobody_when_several_fail() -> None:
    """That is an outage, however often it comes."""

    health = Health()
    for start in (0, 10, 20):
        health.fail(1, "502", probe=False, now=NOW + start, jitter=0.0)
        health.fail(2, "502", probe=False, now=NOW + start, jitter=0.0)
        assert health.accept(3, NOW + start + 1) == {}


def test_health_is_not_well_by_an_attempt_that_began_before_the_fault() -> None:
    """Its answer is older than the fault."""

    health = Health()
    health.fail(1, "502", probe=False, now=NOW, jitter=0.0)

    assert health.accept(2, NOW - 1) == {}
    assert health.held


def test_pace_allows_a_burst_and_then_spaces() -> None:
    """rate: 3/3s lets three through at once and then one a second."""

    pace, sent = Pace((3, 3.0), NOW), []
    now = NOW
    for _ in range(6):
        now += pace.wait(now)
        pace.take(now)
        sent.append((now - NOW) / SECOND)

    assert sent == [0, 0, 0, 1, 2, 3]


def test_pace_without_a_rate_never_waits() -> None:
    """No limit is no wait."""

    pace = Pace(None, NOW)
    for _ in range(1000):
        assert pace.wait(NOW) == 0
        pace.take(NOW)
