"""The values of templates and what may be done with them, each deed paid for in steps.

Values are JSON's: null, booleans, int and Decimal, text, lists (tuples too) and objects with text keys. They never
change. Whatever walks, copies or compares a value pays for its size first, so that the steps of a budget bound the
time and the memory of a rendering, however the template is written.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import LoopContext, Undefined
from jinja2.utils import Namespace

from hub.documents import encode

STEPS = 1_000_000  # of one rendering; a step is an operation, an element or some characters: about 0.1 µs
MAX_TEXT = 1 << 20  # characters of one text
MAX_BITS = 4096  # of a computed integer
MAX_DIGITS = 1000  # of a number made from text, and of a Decimal's exponent
MAX_NESTING = 100  # lists and objects inside each other
PRECISION = 50  # significant digits of decimal arithmetic

_CHARACTERS_A_STEP = 32
_COPIES_A_STEP = 4
_arithmetic = Context(prec=PRECISION, Emax=MAX_DIGITS * 10, Emin=-MAX_DIGITS * 10)


class SandboxError(TemplateRuntimeError):
    """What a template may not do, or can't with these values; one sentence."""


class Budget:
    """The steps that a rendering has left."""

    __slots__ = ("left",)

    def __init__(self, steps: int = STEPS) -> None:
        self.left = steps

    def pay(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise SandboxError("It takes too many steps: loop over less, or build smaller values.")

    def text(self, text: str) -> str:
        """A text that was made: paid for, and not too long."""
        check_length(len(text))
        self.pay(1 + len(text) // _CHARACTERS_A_STEP)
        return text


def check_length(characters: int) -> None:
    if characters > MAX_TEXT:
        raise SandboxError(f"It makes a text of more than {MAX_TEXT} characters.")


def kind_of(value: Any) -> str:
    """What a value is called in a message. SandboxError when it is no value: undefined, or a function."""
    if value is None:
        return "null"
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    if isinstance(value, Undefined):
        str(value)  # a strict one says what is undefined
    raise SandboxError(f"A {type(value).__name__.strip('_').lower()} is not a value.")


_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"),
    (int | Decimal, "a number"),
    (str, "a text"),
    (list | tuple | range, "a list"),
    (dict, "an object"),
)


def weigh(value: Any, budget: Budget) -> None:
    """Pay for all that a value holds."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > MAX_NESTING:
            raise SandboxError(f"It nests values more than {MAX_NESTING} levels deep.")
        if isinstance(item, str):
            budget.pay(1 + len(item) // _CHARACTERS_A_STEP)
        elif isinstance(item, list | tuple | range):
            budget.pay(1 + len(item))
            waiting.extend((part, depth + 1) for part in item)
        elif isinstance(item, dict):
            budget.pay(1 + len(item))
            waiting.extend((part, depth + 1) for part in item.values())
        else:
            budget.pay(1)


def plain(value: Any, budget: Budget) -> Any:
    """The value as JSON has it, all of it paid for."""
    if value is None or type(value) in (bool, int):
        return value
    weigh(value, budget)
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_object_key(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Decimal) and not value.is_finite():
        return str(value)
    kind_of(value)
    return value


def _object_key(name: Any) -> str:
    if not isinstance(name, str):
        raise SandboxError(f"The keys of an object are texts, not {kind_of(name)}.")
    return name


def text_of(value: Any, budget: Budget) -> str:
    """As it stands in a text: null is empty, booleans, lists and objects are JSON."""
    if isinstance(value, str):
        return budget.text(value)
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return budget.text(number_text(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return budget.text(str(value))
    return budget.text(encode(plain(value, budget)).decode())


def number_text(number: Decimal) -> str:
    """Without an exponent, unless it would be long."""
    return format(number, "f") if number.is_finite() and abs(number.adjusted()) < PRECISION else str(number)


def number(value: Any) -> int | Decimal:
    """A number that arithmetic takes."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        hint = " Use the filter decimal on it." if isinstance(value, str) else ""
        raise SandboxError(f"{kind_of(value).capitalize()} is not a number.{hint}")
    return check_number(value)


def check_number(value: int | Decimal) -> int | Decimal:
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise SandboxError(f"It makes an integer of more than {MAX_BITS} bits.")
    elif value.is_finite() and (abs(value.adjusted()) > MAX_DIGITS or len(value.as_tuple().digits) > MAX_DIGITS):
        raise SandboxError(f"It computes with a number of more than {MAX_DIGITS} digits.")
    return value


def parse_number(text: str) -> Decimal:
    if len(text) > MAX_DIGITS:
        raise SandboxError(f"It makes a number from a text of more than {MAX_DIGITS} characters.")
    try:
        made = Decimal(text.strip())
    except InvalidOperation:
        raise SandboxError(f'"{text[:40]}" is not a number.') from None
    check_number(made)
    return made


def elements(value: Any, budget: Budget, cost: int = 1) -> Sequence[Any]:
    """What a loop goes over, at `cost` steps each: a list's elements, an object's keys, a text's characters."""
    if not isinstance(value, list | tuple | range | dict | str):
        raise SandboxError(f"There is nothing to loop over in {kind_of(value)}.")
    budget.pay(1 + len(value) * cost)
    return value if isinstance(value, list | tuple | range) else list(value)


def compute(budget: Budget, left: Any, sign: str, right: Any) -> Any:
    """An arithmetic operation; `+` also joins two texts or two lists."""
    budget.pay(1)
    if sign == "+" and isinstance(left, str) and isinstance(right, str):
        check_length(len(left) + len(right))
        return budget.text(left + right)
    if sign == "+" and isinstance(left, list | tuple) and isinstance(right, list | tuple):
        budget.pay((len(left) + len(right)) // _COPIES_A_STEP)
        return [*left, *right]
    return check_number(_COMPUTED[sign](number(left), number(right)))


Number = int | Decimal


def _integers_or(
    whole: Callable[[int, int], int], exact: Callable[[Number, Number], Decimal]
) -> Callable[[Number, Number], Number]:
    def computed(left: Number, right: Number) -> Number:
        return whole(left, right) if isinstance(left, int) and isinstance(right, int) else exact(left, right)

    return computed


def _power(base: Number, exponent: Number) -> Number:
    if not isinstance(base, int) or not isinstance(exponent, int) or exponent < 0:
        return _arithmetic.power(Decimal(base), Decimal(exponent))
    if base.bit_length() * exponent > MAX_BITS:
        raise SandboxError(f"It makes an integer of more than {MAX_BITS} bits.")
    return int(base**exponent)


_COMPUTED: Mapping[str, Callable[[Number, Number], Number]] = {
    "+": _integers_or(lambda left, right: left + right, _arithmetic.add),
    "-": _integers_or(lambda left, right: left - right, _arithmetic.subtract),
    "*": _integers_or(lambda left, right: left * right, _arithmetic.multiply),
    "/": lambda left, right: _arithmetic.divide(Decimal(left), Decimal(right)),
    "//": _integers_or(lambda left, right: left // right, _arithmetic.divide_int),
    "%": _integers_or(lambda left, right: left % right, _arithmetic.remainder),
    "**": _power,
}


def compared(budget: Budget, left: Any, sign: str, right: Any) -> bool:
    """A comparison, paid for by the size of both sides."""
    weigh(left, budget)
    weigh(right, budget)
    if sign in ("in", "notin"):
        return contains(left, right) is (sign == "in")
    if sign in ("eq", "ne"):
        kind_of(left), kind_of(right)
        return bool(left == right) is (sign == "eq")
    if kind_of(left) != kind_of(right) or left is None or isinstance(left, dict):
        hint = (
            " Use the filter decimal on the text." if {"a text", "a number"} == {kind_of(left), kind_of(right)} else ""
        )
        raise SandboxError(f"It compares {kind_of(left)} with {kind_of(right)}.{hint}")
    return bool(_ORDERED[sign](left, right))


_ORDERED: Mapping[str, Callable[[Any, Any], Any]] = {
    "lt": lambda left, right: left < right,
    "lteq": lambda left, right: left <= right,
    "gt": lambda left, right: left > right,
    "gteq": lambda left, right: left >= right,
}


def contains(item: Any, whole: Any) -> bool:
    kind_of(item)
    if isinstance(whole, str | dict):
        if not isinstance(item, str):
            raise SandboxError(f"It looks for {kind_of(item)} in {kind_of(whole)}.")
        return item in whole
    if isinstance(whole, list | tuple | range):
        return item in whole
    raise SandboxError(f"It looks into {kind_of(whole)}.")


def joined(budget: Budget, parts: Sequence[Any], separator: str = "") -> str:
    texts = [text_of(part, budget) for part in parts]
    check_length(sum(map(len, texts)) + len(separator) * len(texts))
    return budget.text(separator.join(texts))


def literal(budget: Budget, made: Any) -> Any:
    """A list or object that the template writes: it may hold values alone."""
    for item in made.values() if isinstance(made, dict) else made:
        kind_of(item)
    for name in made if isinstance(made, dict) else ():
        _object_key(name)
    budget.pay(1 + len(made))
    return made


def sliced(budget: Budget, value: Any, start: Any, stop: Any, step: Any) -> Any:
    if not isinstance(value, list | tuple | str | range):
        raise SandboxError(f"It takes a slice of {kind_of(value)}.")
    if not all(part is None or type(part) is int for part in (start, stop, step)) or step == 0:
        raise SandboxError("The ends and the step of a slice are integers.")
    budget.pay(1 + len(value) // (_CHARACTERS_A_STEP if isinstance(value, str) else _COPIES_A_STEP))
    return value[start:stop:step]


LOOP_VALUES = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"})


def attribute(value: Any, name: str) -> Any:
    """A field of an object, or of what a loop and a namespace offer; KeyError when there is none."""
    if isinstance(value, dict):
        return value[name]
    if isinstance(value, LoopContext) and name in LOOP_VALUES:
        return getattr(value, name)
    if isinstance(value, Namespace) and not name.startswith("_"):
        try:
            return getattr(value, name)
        except AttributeError:
            raise KeyError(name) from None
    raise KeyError(name)


def item(value: Any, index: Any) -> Any:
    """An element of a list, a character of a text, a field of an object; LookupError when there is none."""
    if type(index) is int and isinstance(value, list | tuple | str | range):
        return value[index]
    if isinstance(index, str):
        return attribute(value, index)
    raise KeyError(index)
