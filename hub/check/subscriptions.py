"""A subscription judged before it runs: its pattern, paths and templates, against its documents' shape if known."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hub.check.templates import missing_fields
from hub.documents import Shape
from hub.errors import InputError
from hub.project import Place, SubscriptionConfig
from hub.project.problems import Problems
from hub.subscriptions.bodies import compile_body
from hub.subscriptions.diff import Each, Element, parse_path
from hub.subscriptions.match import Spot
from hub.subscriptions.match import problems as match_problems
from hub.subscriptions.templates import BODY_NAMES, SET_NAMES, WHEN_NAMES, compile_expression, compile_template


def check_subscription(subscription: SubscriptionConfig, shape: Shape | None, problems: Problems) -> None:
    """`shape` is None when the documents' fields are not known: offline, or of a derived entity."""
    _check_match(subscription, shape, problems)
    for index, text in enumerate(subscription.changed):
        place = subscription.places.get(f"changed[{index}]") or subscription.places.get("changed")
        reason = _path_fault(text, shape)
        if reason:
            problems.add(place, f"changed: {reason}", "Name a field as the document has it.")
    _check_expression(subscription, "where", subscription.where, SET_NAMES, shape, problems)
    _check_expression(subscription, "when", subscription.when, WHEN_NAMES, shape, problems)
    _check_body(subscription, shape, problems)
    _check_policy(subscription, problems)


def _check_match(subscription: SubscriptionConfig, shape: Shape | None, problems: Problems) -> None:
    pattern = subscription.match
    if pattern is None:
        return
    if not pattern:
        problems.note(subscription.places.get("match"), "'match' is empty, so every document fits.", "Delete it.")
    elif shape is not None:
        written = _places_without_indices(subscription)
        for path, what in match_problems(pattern, shape):
            problems.add(_nearest_place(written, f"match.{path}"), f"match: {what}")


def _places_without_indices(subscription: SubscriptionConfig) -> dict[str, Place]:
    """By path, list positions left out: `match.status[0]` and `match.status` are one spot of the document."""
    found: dict[str, Place] = {}
    for path, place in subscription.places.items():
        found.setdefault(re.sub(r"\[\d+\]", "", path), place)
    return found


def _nearest_place(places: Mapping[str, Place], path: str) -> Place | None:
    while path not in places and "." in path:
        path = path.rpartition(".")[0]
    return places.get(path)


def _path_fault(text: str, shape: Shape | None) -> str | None:
    """Why a path names nothing in documents of this shape; None when it does."""
    try:
        segments = parse_path(text)
    except ValueError as error:
        return str(error)
    spot: Spot | str = Spot("", shape=shape)
    for segment in segments if shape is not None else ():
        assert isinstance(spot, Spot)
        spot = spot.element() if isinstance(segment, Each | Element) else spot.field(segment)
        if isinstance(spot, str):
            return spot
    return None


def _check_expression(
    subscription: SubscriptionConfig,
    key: str,
    text: str,
    names: frozenset[str],
    shape: Shape | None,
    problems: Problems,
) -> None:
    if not text:
        return
    place = subscription.places.get(key)
    try:
        compile_expression(text, names, key)
    except InputError as error:
        problems.add(place, error.what, error.remedy)
        return
    _check_fields("{{ " + text + " }}", key, place, shape, problems)


def _check_body(subscription: SubscriptionConfig, shape: Shape | None, problems: Problems) -> None:
    before = len(problems.found)
    for path, text in _texts(subscription.body, "body"):
        place = subscription.places.get(path) or subscription.places.get("body")
        try:
            compile_template(text, BODY_NAMES, path)
        except InputError as error:
            problems.add(place, error.what, error.remedy)
        else:
            _check_fields(text, path, place, shape, problems)
    if len(problems.found) == before:
        try:
            compile_body(subscription.body)
        except InputError as error:
            problems.add(subscription.places.get("body"), error.what, error.remedy)


def _texts(body: Any, path: str) -> Iterator[tuple[str, str]]:
    """The body's templates and their paths."""
    if isinstance(body, str) and "{" in body:
        yield path, body
    elif isinstance(body, Mapping):
        for name, value in body.items():
            yield from _texts(value, f"{path}.{name}")
    elif isinstance(body, list):
        for index, value in enumerate(body):
            yield from _texts(value, f"{path}[{index}]")


def _check_fields(template: str, path: str, place: Place | None, shape: Shape | None, problems: Problems) -> None:
    if shape is not None:
        for what, remedy in missing_fields(template, shape):
            problems.add(place, f"{path}: {what}", remedy)


def _check_policy(subscription: SubscriptionConfig, problems: Problems) -> None:
    """Settings that are in each other's way."""
    delivery, places = subscription.delivery, subscription.places
    if "updated" not in subscription.on:
        for key in ("changed", "when"):
            if getattr(subscription, key):
                problems.note(
                    places.get(key), f"{key!r} is about updates, which 'on' leaves out.", "Delete one of them."
                )
    if delivery.batch_wait and delivery.batch_size == 1:
        problems.note(places.get("delivery.batch"), "A batch of one never waits.", "Give 'batch' a size above 1.")
    for key, seconds in (("delay", delivery.delay), ("batch.wait", delivery.batch_wait)):
        if seconds >= delivery.expire:
            problems.add(
                places.get(f"delivery.{key}"),
                f"{key!r} is not shorter than 'expire': nothing would be sent.",
                "Shorten it.",
            )
    if sum(delivery.retry) > delivery.expire:
        place = places.get("delivery.retry") or places.get("delivery.expire")
        problems.note(
            place, "'retry' goes on longer than 'expire': the last attempts are never made.", "Raise 'expire'."
        )
