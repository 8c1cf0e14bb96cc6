"""Templates: Jinja2 in a sandbox that bounds what a template may cost."""

from collections.abc import Mapping
from typing import Any

from hub.errors import FaultError, InputError

SET_NAMES = frozenset({"doc"})
WHEN_NAMES = frozenset({"doc", "before", "changed", "event", "cause", "key", "version"})
BODY_NAMES = WHEN_NAMES | {"meta"}


class TemplateFailure(FaultError):
    """A template failed on one document; the message says where in it."""


class Budget:
    """What is left of the steps that one rendering may take."""


class Expression:
    names: frozenset[str]

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        raise NotImplementedError


class Template:
    names: frozenset[str]

    def render(self, variables: Mapping[str, Any], budget: Budget) -> Any:
        raise NotImplementedError


def compile_expression(text: str, names: frozenset[str], place: str = "") -> Expression:
    raise InputError("Expressions are not built in yet.")


def compile_template(text: str, names: frozenset[str], place: str = "") -> Template:
    raise InputError("Templates are not built in yet.")


def plain_json(value: Any, place: str) -> Any:
    return value
