"""What the contract has and this version does not do yet: accepted as YAML, refused by `hub check` and `hub run`.

Nothing of it is taken for something else: a subscription with `mode: latest` would be sent every version instead.
"""

from collections.abc import Iterator

from hub.errors import ProjectError
from hub.project import DeliveryPolicy, Destination, EntityConfig, Place, Project, SubscriptionConfig
from hub.project.problems import Problems

Found = tuple[Place | None, str, str]  # where, what is not done yet, what to do instead


def check_later(project: Project, problems: Problems) -> None:
    """Report each thing that this version does not do yet, at its place."""
    for place, what, remedy in _found(project):
        problems.add(place, f"This version does not have {what} yet.", remedy)


def refuse_later(project: Project) -> None:
    """ProjectError, with all of them, when the project asks for what this version does not do yet."""
    problems = Problems()
    check_later(project, problems)
    if problems.found:
        raise ProjectError(problems.in_order())


def _found(project: Project) -> Iterator[Found]:
    for entity in project.entities.values():
        yield from _of_entity(entity)
    for destination in project.destinations.values():
        yield from _of_destination(destination)
    for subscription in project.subscriptions.values():
        yield from _of_subscription(subscription)


def _of_entity(entity: EntityConfig) -> Iterator[Found]:
    if entity.derived:
        yield entity.places.get("derived") or entity.place, "derived entities", "Take the entity out of the project."


def _of_destination(destination: Destination) -> Iterator[Found]:
    if destination.answers:
        place = destination.places.get("answers") or destination.place
        yield place, "'answers', so that a receiver could ask for nothing", "Delete the line."


def _of_subscription(subscription: SubscriptionConfig) -> Iterator[Found]:
    policy, default, places = subscription.delivery, DeliveryPolicy(), subscription.places
    if policy.mode != default.mode:
        yield places.get("delivery.mode"), f"delivery mode {policy.mode!r}", "Delete it: every version is sent."
    if (policy.batch_size, policy.batch_wait) != (default.batch_size, default.batch_wait):
        yield places.get("delivery.batch"), "batches", "Delete it: each version is sent by itself."
    if policy.delay != default.delay:
        yield places.get("delivery.delay"), "'delay'", "Delete it: versions are sent as they come."
