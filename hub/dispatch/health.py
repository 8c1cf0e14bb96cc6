"""Whether a destination is well, and which documents are to blame when it is not.

A receiver that asks for time, as one whose quota is used up, gets it: nothing goes there before, and no attempt counts.

A fault that is first taken as the destination's holds it: then one probe at a time, with back-off, until one is
accepted. A document that fails alone, between two accepted ones and for the second time, is to blame itself.
"""

import msgspec

from hub.dispatch.outcomes import SECOND, probe_delay


class Health:
    def __init__(self) -> None:
        self.held_since = 0  # microseconds since 1970; 0: well
        self.reason = ""
        self.probe_at = 0  # no probe before; microseconds since 1970
        self.paused_until = 0  # the receiver asked for time; microseconds since 1970
        self.pause_reason = ""
        self.suspects: set[int] = set()  # deliveries, by seq, that failed in an earlier hold
        self._failing: dict[int, str] = {}  # those that failed since something was last accepted, and why
        self._failed_at = 0
        self._failures = 0  # probes in a row

    @property
    def held(self) -> bool:
        return self.held_since > 0

    def open_at(self) -> int:
        """From when something may go there, microseconds since 1970."""
        return max(self.paused_until, self.probe_at if self.held else 0)

    def pause(self, until: int, reason: str) -> None:
        """Nothing goes there before. Of several times the last one holds."""
        if until > self.paused_until:
            self.paused_until, self.pause_reason = until, reason

    def fail(self, seq: int, reason: str, *, probe: bool, now: int, jitter: float) -> None:
        """The attempt of `seq` met a fault that may be the destination's."""
        if probe:
            self._failures += 1
        elif self.held:  # it had been on its way when the destination was held
            self._failing[seq] = reason
            return
        self.held_since = self.held_since or now
        self.reason = reason
        self._failing[seq] = reason
        self._failed_at = now
        lone_suspect = seq in self.suspects and len(self._failing) == 1 and not probe
        self.probe_at = now + (0 if lone_suspect else round(probe_delay(self._failures, jitter) * SECOND))

    def accept(self, seq: int, started_at: int) -> dict[int, str]:
        """The destination took `seq`. The deliveries that are to blame themselves, with what they got."""
        self.suspects.discard(seq)
        self._failing.pop(seq, None)
        if started_at < self._failed_at:  # it says nothing of how the destination is since
            return {}
        blamed = self._failing if len(self._failing) == 1 and self._failing.keys() <= self.suspects else {}
        self.suspects.update(self._failing)
        self.suspects.difference_update(blamed)
        self._failing = {}
        self.held_since, self.reason, self._failures = 0, "", 0
        self.probe_at = 0
        return blamed

    def answer(self, seq: int, now: int) -> None:
        """The destination answered the probe `seq` for itself: it is there, so the next one need not wait long."""
        self.suspects.discard(seq)
        self._failing.pop(seq, None)
        self._failures = 0
        self.probe_at = now + round(probe_delay(0, 0.0) * SECOND)

    def forget(self, seq: int) -> None:
        self.suspects.discard(seq)
        self._failing.pop(seq, None)

    @classmethod
    def remembered(cls, state: "DestinationState") -> "Health":
        """As the store has it: one that was held is probed at once."""
        health = cls()
        if state.held_since:
            health.hold(msgspec.structs.replace(state, probe_at=0, failures=0))
        else:
            health.pause(state.probe_at, state.reason)
        return health

    def hold(self, state: "DestinationState") -> None:
        """Another worker found it ill, or tried it in vain."""
        self.held_since, self.reason, self.probe_at = state.held_since, state.reason, state.probe_at
        self._failures = state.failures

    def state(self, now: int) -> "DestinationState":
        if not self.held and self.paused_until > now:
            return DestinationState(0, self.pause_reason, self.paused_until)
        return DestinationState(self.held_since, self.reason, self.probe_at, self._failures)


class DestinationState(msgspec.Struct, frozen=True, gc=False):
    """A row of `destination_state`."""

    held_since: int  # microseconds since 1970; 0: well
    reason: str
    probe_at: int  # held: when it is next probed; well: it asked for time until then, 0 if not
    failures: int = 0  # probes in a row that met the fault


WELL = DestinationState(0, "", 0)
