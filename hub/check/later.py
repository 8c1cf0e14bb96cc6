"""What the contract has and this version does not do yet: accepted as YAML, refused by `hub check` and `hub run`.

Nothing of it is taken for something else: a subscription with `mode: latest` would be sent every version instead.
"""

from collections.abc import Iterator

from hub.errors import ProjectError
from hub.project import DeliveryPolicy, Place, Project, SubscriptionConfig
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
    for subscription in project.subscriptions.values():
        yield from _of_subscription(subscription)


def _of_subscription(subscription: SubscriptionConfig) -> Iterator[Found]:
    policy, default, places = subscription.delivery, DeliveryPolicy(), subscription.places
    if (policy.batch_size, policy.batch_wait) != (default.batch_size, default.batch_wait):
        yield places.get("delivery.batch"), "batches", "Delete it: each version is sent by itself."
