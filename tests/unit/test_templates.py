"""Templates give values, refuse what is not theirs, and end within their steps."""

import contextlib
import random
import re
import sys
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from hub.documents import decode, encode
from hub.subscriptions.filters import FILTERS, FUNCTIONS, TESTS
from hub.subscriptions.sandbox import STEPS, Budget
from hub.subscriptions.templates import (
    BODY_NAMES,
    MAX_TEMPLATE,
    SET_NAMES,
    TemplateFailure,
    TemplateMistake,
    compile_expression,
    compile_template,
)

DOC = decode(
    b"""{"id": 7, "name": "Ann \\"A\\" O'Neil", "total": "12.50", "note": null, "big": 9007199254740993,
    "exact": 0.12345678901234567890123, "at": "2024-01-02T03:04:05.12Z", "day": "2024-01-02", "items": "field",
    "tags": ["b", "A", "b"], "attrs": {"x": "1", "y": "2"},
    "lines": [{"q": 2, "price": "1.10", "product": {"sku": "T1"}}, {"q": 3, "price": "2", "product": null}]}"""
)
VARIABLES: dict[str, Any] = {
    "doc": DOC,
    "before": {"total": "10"},
    "changed": ["total"],
    "event": "updated",
    "cause": "row",
    "key": "7",
    "version": 3,
    "meta": {"hub": "conference"},
}


def render(text: str, budget: Budget | None = None) -> Any:
    return compile_template(text, BODY_NAMES, "body").render(VARIABLES, budget)


VALUES: list[tuple[str, Any]] = [
    ("{{ doc.id }}", 7),
    ("  {{ doc.total }}\n", "12.50"),
    ("{{ doc.note }}", None),
    ("{{ doc.big }}", 9007199254740993),
    ("{{ doc.exact }}", Decimal("0.12345678901234567890123")),
    ("{{ doc.attrs }}", {"x": "1", "y": "2"}),
    ("{{ doc.total | decimal > before.total | decimal }}", True),
    ("{{ doc.lines | map(attribute='product.sku') | list }}", ["T1", None]),
    ("{{ doc.lines | selectattr('q', '>', 2) | map(attribute='q') | first }}", 3),
    ("{{ doc.lines | sum(attribute='price') }}", Decimal("3.10")),
    ("{{ 0.1 + 0.2 }}", Decimal("0.3")),
    ("{{ 6 / 4 }}", Decimal("1.5")),
    ("{{ 7 // 2 + 7 % 2 + 2 ** 3 - -1 }}", 13),
    ("{{ doc.total | round(1) }}", Decimal("12.5")),
    ("{{ doc.total | int }}", 12),
    ("{{ 1 < doc.id <= 7 }}", True),
    ("{{ doc.items }}", "field"),
    ("{{ doc.attrs.items() }}", [["x", "1"], ["y", "2"]]),
    ("{{ [doc.id, {'a': (1, 2)}] }}", [7, {"a": [1, 2]}]),
    ("{{ doc.tags | unique | sort }}", ["A", "b"]),
    ("{{ doc.tags[1:] }}", ["A", "b"]),
    ("{{ doc.tags[-1] ~ doc['id'] }}", "b7"),
    ("{{ doc.note | default('none') }}", "none"),
    ("{{ doc.note.deep | default('none') }}", "none"),
    ("{{ doc.nothing is defined }}", False),
    ("{{ 'b' in doc.tags and 'x' not in doc.attrs.values() }}", True),
    ("{{ doc.lines | groupby('q') | length }}", 2),
    ("{{ doc.at | date('%d/%m/%Y') }}", "02/01/2024"),
    ("{{ doc.at | epoch_ms }}", 1704164645120),
    ("{{ doc.day | epoch }}", 1704153600),
    ("{{ 'x' if doc.note }}", None),
    ("{{ doc.lines | batch(1) | length }}", 2),
    ("{{ doc.tags | map('upper') | join('-') }}", "B-A-B"),
    ("{{ doc.lines | max(attribute='q') }}", DOC["lines"][1]),
    ("{{ 'ann' | sha256 }}", "49915e0d7d4b402e3017d010bc1c0e83cac6c797d6c16e66340fe3268693a6a1"),
    (
        "<{{ doc.note }}|{{ doc.id == 7 }}|{{ doc.exact }}|{{ doc.tags }}>",
        '<|true|0.12345678901234567890123|["b","A","b"]>',
    ),
    ("{% for l in doc.lines if l.q > 2 %}{{ loop.index }}:{{ l.q }}{% else %}none{% endfor %}", "1:3"),
    (
        "{% set n = namespace(t=0) %}{% for l in doc.lines %}"
        "{% set n.t = n.t + l.q * l.price|decimal %}{% endfor %}{{ n.t }}",
        "8.20",
    ),
    ("{% for t in doc.tags %}{{ t }}{% if not loop.last %}, {% endif %}{% endfor %}", "b, A, b"),
    ("{% for i in [1, 2] %}{{ loop.cycle('a', 'b') }}{{ ','.join(doc.tags) }};{% endfor %}", "ab,A,b;bb,A,b;"),
    ("{{ doc.name | tojson }}!", '"Ann \\"A\\" O\'Neil"!'),
]


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[text for text, _ in VALUES])
def test_value(text: str, value: Any) -> None:
    """A single expression keeps its value's type, everything else is text."""

    found = render(text)
    assert found == value
    assert type(found) is type(value)


MISTAKES = [
    ("{{ dco.id }}", "Did you mean doc?", 1, 1),
    ("a\n b {{ doc.id | uper }}", "Did you mean upper?", 2, 4),
    ("{{ doc.id is onone }}", "Did you mean none?", 1, 1),
    ("{{ doc.id", "nexpected end", 1, 1),
    ("x {% if %}", "Expected an expression", 1, 3),
    ("{% include 'x' %}", "no include", 1, 1),
    ("{% extends 'x' %}", "no extends", 1, 1),
    ("{% import 'x' as y %}", "no import", 1, 1),
    ("{% macro m() %}{{ m() }}{% endmacro %}", "no macro", 1, 1),
    ("{% block b %}{% endblock %}", "no block", 1, 1),
    ("{% filter upper %}x{% endfilter %}", "no filterblock", 1, 1),
    ("{% for l in doc.lines recursive %}{{ loop(l) }}{% endfor %}", "recursive", 1, 1),
    ("{{ range(*doc.tags) }}", "written out", 1, 1),
    ("{{ lipsum() }}", "no lipsum", 1, 1),
    ("{{ self }}", "no self", 1, 1),
    ("{{ doc | attr('x') }}", "no filter attr", 1, 1),
    ("{{ doc | random }}", "no filter random", 1, 1),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deep", 1, 1),
    ("{{ " + "-" * 20000 + "1 }}", "nested too deep", 1, 1),
    ("{{ 1" + " < 1" * 10_000 + " }}", "operations and names", 1, 1),
    ("{{ '\\ud800' }}", "half a character", 1, 1),
    ("\ud800{{ doc.id }}", "half a character", 1, 2),
    ("{{ " + "9" * 5000 + " }}", "too long", 1, 1),
    ("x" * (MAX_TEMPLATE + 1), "at most", 1, 1),
]


@pytest.mark.parametrize(("text", "part", "line", "column"), MISTAKES, ids=[text[:40] for text, *_ in MISTAKES])
def test_mistake(text: str, part: str, line: int, column: int) -> None:
    """What is not well formed is refused before any document comes, with its place."""

    with pytest.raises(TemplateMistake) as caught:
        compile_template(text, BODY_NAMES, "body.name")
    assert part in str(caught.value)
    assert str(caught.value).startswith(f"body.name, line {line}, column {column}: ")
    assert (caught.value.line, caught.value.column) == (line, column)


FAILURES = [
    ("{{ doc.nmae }}", "There is no nmae in it. Did you mean name?"),
    ("{{ doc.nothing.deep }}", "There is no nothing in it."),
    ("{{ doc.note.deep }}", "It asks null for deep"),
    ("{{ doc.nothing | upper }}", "There is no nothing in it."),
    ("{{ doc.total > 5 }}", "It compares a text with a number. Use the filter decimal"),
    ("{{ doc.total + 5 }}", "Use the filter decimal"),
    ("{{ 'x' | decimal }}", '"x" is not a number.'),
    ("{{ doc.id / 0 }}", "It divides by zero."),
    ("{% for x in doc.note %}{% endfor %}", "nothing to loop over in null"),
    ("{% for a, b in doc.tags %}{% endfor %}", "It can't be computed"),
    ("{{ doc.id() }}", "A number can't be called."),
    ("{{ range }}", "A function is not a value."),
    ("{{ doc.items | sort(attribute='x') }}", "It sorts null."),
    ("{{ doc.lines | map('nope') }}", "no filter named nope"),
    ("{{ {1: 2} }}", "keys of an object are texts"),
    ("{{ doc.day | date('%1000Y') }}", "date has no %1"),
    ("{{ doc.name | date }}", "not a date or time"),
    ("{{ 'a' < none }}", "compares a text with null"),
]


@pytest.mark.parametrize(("text", "part"), FAILURES, ids=[text for text, _ in FAILURES])
def test_failure(text: str, part: str) -> None:
    """A template that fails on a document says why in one sentence, with its place."""

    with pytest.raises(TemplateFailure) as caught:
        compile_template(f"\n  {text}", BODY_NAMES, "body.x").render(VARIABLES)
    assert part in str(caught.value)
    assert str(caught.value).startswith("body.x, line 2, column 3: ")


INTERNALS = [
    "{{ doc.__class__ }}",
    "{{ doc['__class__'] }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ (1).bit_length }}",
    "{{ doc.tags.append('x') }}",
    "{{ doc.attrs.update({'x': 1}) }}",
    "{{ doc.attrs.pop('x') }}",
    "{{ 'x'.format(1) }}",
    "{{ 'x'.format_map }}",
    "{{ 'x'.encode() }}",
    "{{ range.call }}",
    "{{ range.__init__.__globals__ }}",
    "{{ namespace(x=1)._Namespace__attrs }}",
    "{{ namespace().__class__ }}",
    "{{ doc.attrs.items.__globals__ }}",
    "{% for x in [1] %}{{ loop._iterable }}{% endfor %}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in [1] %}{{ loop }}{% endfor %}",
    "{% for x in [1] %}{{ loop.changed(1) }}{% endfor %}",
    "{{ doc.tags | map(attribute='__class__') | map(attribute='__mro__') | first | length }}",
    "{% set n = namespace() %}{% set n.x = [n] %}",
    "{% set doc.id = 8 %}",
]


@pytest.mark.parametrize("text", INTERNALS)
def test_nothing_of_python_is_reachable(text: str) -> None:
    """Only fields, elements and the listed methods can be reached, and nothing can be changed."""

    with pytest.raises(TemplateFailure):
        compile_template(text, BODY_NAMES).render(VARIABLES)


GROW = "{% set n = namespace(x=START) %}{% for i in range(100000) %}{% set n.x = STEP %}{% endfor %}{{ n.x | length }}"


def grow(start: str, step: str) -> str:
    return GROW.replace("START", start).replace("STEP", step)


NEST = "{% for a in range(1000) %}" * 6 + "x" + "{% endfor %}" * 6
HOSTILE = [
    NEST,
    "{% for a in range(1000000000) %}{% endfor %}",
    "{{ range(10 ** 30) | length }}",
    "{{ range(0, -1000000000, -1) }}",
    "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
    "{{ 2 ** 100000000 }}",
    "{{ 2.5 ** 100000000 }}",
    "{{ (10 ** 1000) ** 1000 }}",
    "{{ '1e999999999' | decimal | int }}",
    "{{ '1e999999' | decimal | round(2) }}",
    "{{ ('9' * 100000000) }}",
    "{{ [0] * 100000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%s' | replace('', 'x' ~ doc) | replace('', doc) | replace('', doc | tojson) | replace('', doc | tojson) }}",
    grow("'x'", "n.x ~ n.x"),
    grow("'x'", "n.x + n.x"),
    grow("'x'", "n.x | replace('x', 'xx')"),
    grow("'xx'", "n.x | replace('', n.x)"),
    grow("'xx'", "n.x | join(n.x)"),
    grow("'x'", "n.x.join([n.x, n.x])"),
    grow("'ß'", "(n.x | upper) ~ n.x"),
    grow("'\"'", "n.x | tojson | tojson"),
    grow("'%'", "n.x | urlencode"),
    grow("'&'", "n.x | e"),
    grow("[1]", "n.x + n.x"),
    grow("[1]", "[n.x, n.x]"),
    grow("[1]", "[n.x]"),
    grow("{'a': 1}", "{'a': n.x, 'b': n.x}"),
    grow("[1]", "[n.x, n.x] if n.x == n.x else 0"),
    grow("[1]", "n.x | list + n.x | list"),
    grow("[1, 2]", "n.x | map('list') | list + n.x"),
    grow("2", "n.x * n.x"),
    grow("2", "n.x ** n.x"),
    grow("1.5", "n.x * n.x"),
    grow("1", "n.x + 1"),
    grow("doc", "[n.x, n.x] | tojson"),
    grow("[doc]", "(n.x + n.x) | sort(attribute='id') | unique(attribute='name') | list + n.x"),
    "{% set a = range(900) | list %}{% for i in a %}{{ a | sort | unique | reverse | join(',') | length }}{% endfor %}",
    "{% set a = range(3000) | list %}{{ a | select('in', a) | list | length }}",
    "{% set a = range(3000) | list %}{% for i in a %}{% if a == a %}{% endif %}{% endfor %}",
    "{% set a = range(9000) %}{% for i in a %}{% set b = a[::-1] %}{{ b | length }}{% endfor %}",
    "{% for i in range(100000) %}" + "lorem ipsum " * 200 + "{% endfor %}",
    "{{ ('x' ~ (range(100000) | join)) | trim(range(100000) | join) }}",
    "{{ range(300000) | batch(1) | map('map', 'string') | map('join') | join | length }}"
    "{{ range(300000) | batch(1) | map('map', 'string') | map('join') | join | length }}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:60] for text in HOSTILE])
def test_hostile_template_ends(text: str) -> None:
    """A hostile template fails, having run no more lines of Python than its steps allow."""

    template = compile_template(text, BODY_NAMES)
    lines = 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    budget = Budget(STEPS // 100)
    sys.settrace(count)
    try:
        with pytest.raises(TemplateFailure) as caught:
            template.render(VARIABLES, budget)
    finally:
        sys.settrace(None)
    assert "can't be computed" not in str(caught.value)
    assert lines < STEPS // 100 * 30


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:60] for text in HOSTILE])
def test_hostile_template_ends_at_the_full_budget(text: str) -> None:
    """The budget that deliveries get ends it too."""

    with pytest.raises(TemplateFailure):
        compile_template(text, BODY_NAMES).render(VARIABLES)


def test_a_loop_pays_for_its_body() -> None:
    """A step of a loop costs as much as there is in it."""

    small, large = Budget(), Budget()
    render("{% for i in range(10) %}{% endfor %}x", small)
    render("{% for i in range(10) %}" + "{% if doc.id %}{% endif %}" * 50 + "{% endfor %}x", large)
    assert small.left - large.left > 10 * 100


def test_expressions() -> None:
    """`where` and `when` are expressions, and see what they are given alone."""

    few = compile_expression("doc.lines | length < 100 and doc.total | decimal > 12.4", SET_NAMES, "where")
    assert few.evaluate({"doc": DOC}) is True
    assert few.names == {"doc"}
    for text, part in (("before.x", "no before here"), ("doc.id doc", "goes on"), ("{{ doc }}", "where, line 1")):
        with pytest.raises(TemplateMistake, match=part):
            compile_expression(text, SET_NAMES, "where")


def test_the_same_every_time() -> None:
    """There is nothing of time or chance in a template."""

    text = "{{ doc | tojson }}{{ doc.tags | unique }}{{ doc.attrs | dictsort }}"
    assert render(text) == render(text)


def test_docs_name_all() -> None:
    """docs/templates.md names every filter, test and function."""

    words = set(re.findall(r"[\w=!<>]+", (Path(__file__).parents[2] / "docs/templates.md").read_text()))
    assert {*FILTERS, *TESTS, *FUNCTIONS} - words == set()


@pytest.mark.parametrize("seed", range(20))
def test_mangled_templates(seed: int) -> None:
    """Whatever is written, it is a mistake, a failure, or gives JSON."""

    random_ = random.Random(seed)
    texts = [text for text, *_ in (*VALUES, *FAILURES)] + INTERNALS + HOSTILE
    for _ in range(100):
        text = random_.choice(texts)[:300]
        for _ in range(random_.randrange(1, 4)):
            start = random_.randrange(len(text) + 1)
            text = text[:start] + random_.choice(TOKENS) + text[start + random_.randrange(6) :]
        with contextlib.suppress(TemplateMistake, TemplateFailure):
            encode(render(text, Budget(20_000)))


TOKENS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    ":",
    "|",
    "~",
    "+",
    "-",
    "*",
    "**",
    "//",
    "%",
    "==",
    "<",
    ">=",
    "in",
    "not",
    "and",
    "if",
    "else",
    "endif",
    "for",
    "endfor",
    "set",
    "doc",
    "loop",
    "range",
    "namespace",
    "'a'",
    "0",
    "1",
    "2.5",
    "none",
    "x",
    "=",
    "_",
    "\\",
    "\n",
]
