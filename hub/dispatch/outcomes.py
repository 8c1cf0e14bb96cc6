"""What follows an attempt: one pure function from outcome and policy to the next step, and the back-off of probes."""

import enum

import msgspec

from hub.delivery import Forward, Outcome, OutcomeKind
from hub.project import DeliveryPolicy
from hub.project.yaml_fields import duration_text

SECOND = 1_000_000  # microseconds
JITTER = 0.1  # the largest part that a wait is lengthened by; it is never shortened
PROBE_FIRST = 1.0  # seconds from the hold to the first probe
PROBE_LAST = 60.0  # seconds between probes at most


SOONEST = 1.0  # seconds that a rescheduled document waits at least
LONGEST = 100 * 365 * 86400.0  # and any named time is at most: past that, clocks end


class Step(enum.Enum):
    SETTLE = "settle"  # the receiver has it
    RESCHEDULE = "reschedule"  # it has it too, and wants the document again at `due_at`
    DIVIDE = "divide"  # nobody says which of those sent together is to blame: again at once, with half of them
    DROP = "drop"  # it was refused as was to be expected: nothing is left to do, and nothing to mend
    WAIT = "wait"  # again at `due_at`
    PARK = "park"  # for an operator
    HOLD = "hold"  # the destination is held; this delivery goes on when it is well
    DISABLE = "disable"  # the subscription is, until `hub resume`; this delivery waits for that


class Following(msgspec.Struct, frozen=True, gc=False):
    step: Step
    attempts: int  # burnt, this one included if it counted
    due_at: int = 0  # microseconds since 1970
    reason: str = ""
    pause: bool = False  # the receiver asked for time: the whole destination waits until `due_at`
    forward: tuple[Forward, ...] = ()  # documents that are issued with it


def names_none(outcome: Outcome) -> bool:
    """It may be the fault of any one of those that were sent together."""
    return outcome.kind is OutcomeKind.HELD or (outcome.whole and outcome.after is None)


def follow(
    outcome: Outcome, attempts: int, policy: DeliveryPolicy, now: int, jitter: float, alone: bool = True
) -> Following:
    """What comes after an attempt, `attempts` having been burnt before it; `jitter` is in [0, 1).

    With retry: [5s, 5m] the first failure waits 5 to 5.5 s, the second 5 to 5.5 min, the third parks. What is
    rescheduled waits a second at least, so that no receiver is asked in a circle as fast as it answers. `alone`: no
    other of its batch had the same fate. For what a batch got as a whole nothing is parked.
    """
    following = _follow(outcome, attempts, policy, now, jitter)
    if following.step is Step.PARK and outcome.whole and not alone:
        return Following(Step.DIVIDE, attempts, reason=outcome.detail)
    return following


def _follow(outcome: Outcome, attempts: int, policy: DeliveryPolicy, now: int, jitter: float) -> Following:
    match outcome.kind:
        case OutcomeKind.DELIVERED | OutcomeKind.UNCHANGED:
            pause, until = outcome.after is not None, _in(outcome.after or 0.0, now)
            return Following(Step.SETTLE, attempts + 1, until, "Its quota is used up.", pause, outcome.forward)
        case OutcomeKind.RESCHEDULE:
            due_at = _in(max(outcome.after or 0.0, SOONEST), now)
            return Following(Step.RESCHEDULE, attempts + 1, due_at, outcome.detail, forward=outcome.forward)
        case OutcomeKind.RETRY if outcome.after is not None:
            return Following(Step.WAIT, attempts, _in(outcome.after, now), outcome.detail, pause=True)
        case OutcomeKind.RETRY:
            return _again(outcome, attempts + 1, policy, now, jitter)
        case OutcomeKind.REFUSED if outcome.expected:
            return Following(Step.DROP, attempts + 1)
        case OutcomeKind.REFUSED:
            return Following(Step.PARK, attempts + 1, reason=f"Refused: {outcome.detail}")
        case OutcomeKind.DEAD:
            return Following(Step.DISABLE, attempts, reason=outcome.detail)
        case OutcomeKind.HELD:
            return Following(Step.HOLD, attempts, reason=outcome.detail)


def _in(seconds: float, now: int) -> int:
    return now + round(min(max(seconds, 0.0), LONGEST) * SECOND)


def _again(outcome: Outcome, attempts: int, policy: DeliveryPolicy, now: int, jitter: float) -> Following:
    if attempts > len(policy.retry):
        return Following(Step.PARK, attempts, reason=f"Gave up after {attempts} attempts: {outcome.detail}")
    wait = policy.retry[attempts - 1] * (1 + JITTER * jitter)
    return Following(Step.WAIT, attempts, now + round(wait * SECOND), outcome.detail)


def expires_at(created_at: int, policy: DeliveryPolicy) -> int:
    return created_at + round(policy.expire * SECOND)


def expiry_reason(policy: DeliveryPolicy) -> str:
    return f"Not delivered within {duration_text(policy.expire)}."


def probe_delay(failures: int, jitter: float) -> float:
    """Seconds to the next probe after `failures` of them: 1, 2, 4 … 60, each lengthened by up to a tenth."""
    return min(PROBE_FIRST * 2.0 ** min(failures, 16), PROBE_LAST) * (1 + JITTER * jitter)
