"""Deliveries become messages, just ahead of the attempt, from what the store has of them by then.

One that has none to send is dealt with here: it is gone, too old, has no version or no body any more, or its receiver
has what it would bring.
"""

from collections.abc import Mapping, Sequence

import msgspec

from hub.changes import lsn_text
from hub.delivery import Held, Message, Origin, Receiver
from hub.dispatch.lanes import Lane, Queue
from hub.dispatch.merging import due_at
from hub.dispatch.outcomes import expires_at, expiry_reason
from hub.dispatch.routes import Route
from hub.dispatch.steps import Steps
from hub.dispatch.unchanged import content_of, is_unchanged
from hub.project import Project
from hub.store.deliveries import Loaded
from hub.subscriptions import delivery_id
from hub.subscriptions.bodies import BodyInputs, render_body
from hub.subscriptions.templates import TemplateFailure


class Messages:
    def __init__(self, identity: str, project: Project, routes: Mapping[Queue, Route], steps: Steps) -> None:
        """`identity`: the store's, which every id of a delivery is made of."""
        self._identity = identity
        self._project = project
        self._routes = routes
        self._steps = steps

    def of(
        self,
        lanes: Sequence[Lane],
        loaded: Mapping[int, Loaded],
        held: Mapping[Receiver, Held | None],
        now: int,
    ) -> list[tuple[Lane, Message]]:
        """Of the lanes' first deliveries, those that are sent.

        `loaded`: by seq; `held`: what is known of receivers, where it makes a difference; `now`: microseconds since
        1970.
        """
        found = [(lane, self._prepare(lane, loaded, held, now)) for lane in lanes]
        return [(lane, message) for lane, message in found if message is not None]

    def _prepare(
        self, lane: Lane, loaded: Mapping[int, Loaded], held: Mapping[Receiver, Held | None], now: int
    ) -> Message | None:
        route = self._routes[lane.queue]
        if lane.queue.lanes.get(lane.key) is not lane or route.stands(lane):
            return None
        if route.merges and due_at(lane.head, route.policy) > now:  # its quiet time began anew
            route.wait(lane)
            return None
        message = self._message(route, lane, loaded.get(lane.head.seq), now)
        has = held.get(route.receiver(lane))
        if message is None or has is None:
            return message
        if route.policy.skip_unchanged and _has_already(route, lane, has):
            self._steps.skip(route, lane, has, now)
            return None
        if route.worker.remembers and has.account == route.worker.account:
            return msgspec.structs.replace(message, receiver_id=has.receiver_id)
        return message

    def _message(self, route: Route, lane: Lane, loaded: Loaded | None, now: int) -> Message | None:
        delivery = lane.head
        if loaded is None:
            route.lose(lane)
        elif expires_at(delivery.created_at, route.policy) <= now:
            self._steps.park(route, lane, delivery.attempts, expiry_reason(route.policy))
        elif not loaded.found:
            reason = f"The journal no longer has version {delivery.version}."
            self._steps.park(route, lane, delivery.attempts, reason)
        else:
            lane.origin = Origin(loaded.lsn, loaded.transaction, loaded.hops)
            try:
                return self._render(route, lane, loaded)
            except TemplateFailure as failure:
                self._steps.park(route, lane, delivery.attempts, f"body: {failure}")
        return None

    def _render(self, route: Route, lane: Lane, loaded: Loaded) -> Message:
        config, delivery = route.subscription.config, lane.head
        id = delivery_id(self._identity, config.name, config.entity, delivery.key, delivery.version, delivery.turn)
        inputs = BodyInputs(
            hub=self._project.name,
            source=self._project.entities[config.entity].source,
            delivery_id=id,
            entity=config.entity,
            key=delivery.key,
            version=delivery.version,
            event=loaded.event,
            cause=loaded.cause,
            lsn=lsn_text(loaded.lsn),
            transaction=loaded.transaction,
            committed_at=loaded.committed_at,
            document=loaded.document,
            before=loaded.before,
        )
        body = render_body(route.subscription, inputs)
        lane.content = content_of(config.to, loaded.event, body)
        return Message(
            id=id,
            subscription=config.name,
            entity=config.entity,
            key=delivery.key,
            version=delivery.version,
            event=loaded.event.value,
            content=body.content,
            content_type=body.content_type,
            attempt=delivery.attempts + 1,
        )


def _has_already(route: Route, lane: Lane, held: Held) -> bool:
    return is_unchanged(lane.head, lane.content, held, begun=route.queue.may_have_begun(lane.head.seq))
