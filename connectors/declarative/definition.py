"""A connector's YAML as frozen nouns: `read_definition` takes a file to pieces, compiles its templates, and says what
is wrong with it by line and column. docs/connectors/declarative.md describes every key.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from connectors.declarative.waits import Wait, parse_wait
from hub.errors import ProjectError
from hub.project.problems import Problems
from hub.project.yaml_fields import NAME, Fields
from hub.project.yaml_source import Map, Node, Scalar, plain, read_yaml
from hub.project.yaml_source import Sequence as Listing
from hub.subscriptions.templates import Expression, TemplateMistake, compile_expression, compile_template

SETTING_TYPES: Mapping[str, Any] = {"text": str, "url": str, "integer": int, "number": float, "flag": bool}
CASE_OUTCOMES = ("delivered", "retry", "throttle", "refused", "expected", "held", "dead")  # of a document
RESULT_OUTCOMES = (*CASE_OUTCOMES, "missing")  # of a single result: there is nothing by the id that was asked for
OUTCOMES = (*RESULT_OUTCOMES, "results")
EVENTS = ("created", "updated", "deleted")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ITEMS = "{{ items }}"  # where a request's body has the list of its items
SPREAD = "*"  # a key whose value's fields are put in the map that it stands in

# What templates see, by where they stand.
SETTINGS_NAMES = frozenset({"settings"})
ITEM_NAMES = frozenset({"settings", "body", "event", "entity", "key", "version", "id", "known"})
FOUND_NAMES = ITEM_NAMES | {"found"}
ANSWER_NAMES = frozenset({"settings", "status", "headers", "answer"})
FOR_NAMES = ANSWER_NAMES | {"result", "index"}  # it is the entry that tells the document
RESULT_NAMES = FOR_NAMES | ITEM_NAMES | {"found"}
REPLY_NAMES = frozenset({"id", "key", "event", "index", "found", "now"})

_REQUEST = ("request", "headers", "batch", "item", "body", "name", "results", "outcomes")
KEYS: Mapping[str, tuple[str, ...]] = {
    "connector": (
        *("connector", "about", "side_effects", "settings", "authentication", "required", "clear", "same"),
        *("upsert", "delete", "outcomes", "quota", "test"),
    ),
    "setting": ("type", "default", "secret", "choices", "about"),
    "authentication": ("bearer", "header", "basic", "oauth2"),
    "header": ("name", "value"),
    "basic": ("user", "password"),
    "oauth2": ("token_url", "client_id", "client_secret", "scope", "credentials"),
    "upsert": (*_REQUEST, "find", "create"),
    "delete": (*_REQUEST, "find"),
    "find": (*_REQUEST, "remember"),
    "create": _REQUEST,
    "result": ("each", "for", "receiver_id", "outcome", "outcomes"),
    "rule": ("status", "when", "outcome", "wait", "detail"),
    "quota": ("remaining", "wait"),
    "test": (*("settings", "body", "upsert", "create", "delete", "find", "nothing_found", "nothing_written", "cases"),),
    "reply": ("status", "headers", "item", "body"),
    "case": ("name", "events", "body", "find", "answer", "outcomes", "wait", "requests", "bodies", "headers", "known"),
}


class Setting(msgspec.Struct, frozen=True):
    name: str
    type: str  # of SETTING_TYPES
    default: Any  # msgspec.NODEFAULT: it must be given
    secret: bool
    choices: tuple[Any, ...]
    about: str


class Authentication(msgspec.Struct, frozen=True):
    kind: str  # bearer, header, basic, oauth2
    values: Mapping[str, Any]  # by key: a template or a text


class Rule(msgspec.Struct, frozen=True):
    """When it fits, its outcome is the answer's, or the item's."""

    outcome: str  # of OUTCOMES
    statuses: tuple[range, ...] = ()  # any of them; () fits all
    when: Expression | None = None
    wait: Wait | None = None  # of `throttle`
    detail: Any = None


class Reading(msgspec.Struct, frozen=True):
    """Where an answer says what became of single items."""

    each: tuple[str, ...] | None  # path to a list, or to a map by index; None: the answer itself, of a single item
    name: Any  # template: the item that a result is about, or a list of them; None: by index
    receiver_id: Any
    rules: tuple[Rule, ...]


class Request(msgspec.Struct, frozen=True):
    method: str
    url: Any
    headers: Mapping[str, Any]
    batch: Any  # items of one request
    item: Any  # None: the request has none
    body: Any  # None: the request has none
    name: Any  # template: what a result calls an item by
    readings: tuple[Reading, ...]
    rules: tuple[Rule, ...]  # before those of the connector
    find: "Request | None" = None  # what is asked first, for the system's own ids
    create: "Request | None" = None  # what is sent instead when `find` finds nobody; None: nothing is
    finding: bool = False  # it is itself what is asked first: what its answer's list doesn't have is not there
    remember: bool = False  # of `find`: it is not asked for what the hub knows the id of already


class Quota(msgspec.Struct, frozen=True):
    remaining: Any  # template: requests that are left
    wait: Wait
    header: str  # that `remaining` reads, in lower case; "" when it is not one alone


class Example(msgspec.Struct, frozen=True):
    """How the system answers in a test."""

    status: int
    headers: Mapping[str, Any]
    item: Any
    body: Any


class ExampleCase(msgspec.Struct, frozen=True):
    name: str
    events: tuple[str, ...]
    find: Example | None  # to what is asked first; None: `answer` is to that too
    answers: tuple[Example, ...]  # to each request about a document, in order; the last one to all that follow
    outcomes: tuple[str, ...]
    wait: float | None  # seconds; None means any
    requests: tuple[str, ...]  # as "GET /path?query"; () means any
    bodies: tuple[Any, ...]  # of the requests, None where there is none; () means any
    headers: Mapping[str, str]  # of each request
    body: Any  # what a subscription gives; None: as elsewhere
    known: str  # the id that the hub remembers; "": none


class Examples(msgspec.Struct, frozen=True):
    settings: Mapping[str, Any]
    body: Any
    answers: Mapping[str, Example]  # of ANSWERED
    nothing_written: Example | None
    cases: tuple[ExampleCase, ...]


class Definition(msgspec.Struct, frozen=True):
    name: str
    about: str
    side_effects: bool
    settings: tuple[Setting, ...]
    authentication: Authentication | None
    required: tuple[str, ...]  # fields that a body must have
    clear: Any  # what stands for null in a body; LEAVE_OUT: nothing does
    same: Any  # template: items of one value don't share a request
    upsert: Request
    delete: Request | None
    rules: tuple[Rule, ...]
    quotas: tuple[Quota, ...]
    examples: Examples | None


ANSWERED = ("upsert", "create", "delete", "find", "nothing_found")  # in `test`: what the system answers
HEADER = re.compile(r"""headers\[\s*['"]([\w-]+)['"]\s*\]""")
LEAVE_OUT = "leave out"  # of `clear`
NO_CREATE = "none"  # of `create`


def parse_definition(file: str, content: bytes) -> Definition:
    """ProjectError with everything that is wrong in the file."""
    problems = Problems()
    tree = read_yaml(content, file, {}, problems)
    definition = _Reader(problems).definition(tree, file) if tree is not None else None
    if definition is None or problems.found:
        raise ProjectError(problems.in_order())
    return definition


class _Reader:
    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def definition(self, tree: Node, file: str) -> Definition:
        fields = Fields(tree, "the connector", KEYS["connector"], self.problems)
        name = fields.name("connector", "hubspot")
        stem = file.rpartition("/")[2].removesuffix(".yaml")
        if name and name != stem:
            fields.wrong("connector", f"is {name!r}, but the file is {stem}.yaml.", "Give both the same name.")
        fields.require("upsert", "{request: POST {{ settings.url }}/contacts, body: …}")
        upsert = self.request(fields, "upsert", "upsert", ITEM_NAMES)
        delete = self.request(fields, "delete", "delete", ITEM_NAMES)
        examples = self.examples(fields)
        finding = [step for step, request in (("upsert", upsert), ("delete", delete)) if request and request.find]
        if examples and finding:
            self.check_finding(fields, examples, finding)
        return Definition(
            name=name,
            about=fields.text("about", example="What it delivers to."),
            side_effects=fields.flag("side_effects", False),
            settings=self.settings(fields),
            authentication=self.authentication(fields),
            required=fields.names("required"),
            clear=fields.tree("clear") if fields.has("clear") and not _is_null(fields, "clear") else None,
            same=self.template(fields, "same", ITEM_NAMES),
            upsert=upsert or _NO_REQUEST,
            delete=delete,
            rules=self.rules(fields, "outcomes", ANSWER_NAMES),
            quotas=tuple(self.quota(one) for one in self.maps(fields, "quota", "a quota", KEYS["quota"])),
            examples=examples,
        )

    def check_finding(self, fields: Fields, examples: Examples, finding: Sequence[str]) -> None:
        """`finding`: the requests that have a `find`."""
        if "find" not in examples.answers:
            whose = " and ".join(f"'{step}'" for step in finding)
            remedy = "Add 'find: {body: …}', with {{ found }} where the API gives its id."
            fields.wrong("test", f"has no 'find': what the API answers to the 'find' of {whose}.", remedy)
        if "upsert" in finding and "nothing_found" not in examples.answers:
            remedy = "Add 'nothing_found: {body: …}'."
            fields.wrong("test", "has no 'nothing_found': what the API answers when 'find' finds nobody.", remedy)

    # Settings and authentication

    def settings(self, fields: Fields) -> tuple[Setting, ...]:
        below = fields.map("settings", None, "'settings'")
        return tuple(self.setting(name, below) for name in below.entries) if below else ()

    def setting(self, name: str, below: Fields) -> Setting:
        if not name.isidentifier() or not NAME.fullmatch(name):
            self.problems.add(below.at(name), f"{name!r} is not a name for a setting.", "Use letters, digits and _.")
        fields = below.map(name, KEYS["setting"], f"the setting {name!r}")
        if fields is None:
            return Setting(name, "text", msgspec.NODEFAULT, False, (), "")
        type_ = fields.choice("type", tuple(SETTING_TYPES), "text")
        default = fields.tree("default", float) if fields.has("default") else msgspec.NODEFAULT
        if default is not msgspec.NODEFAULT and not _is_of(default, SETTING_TYPES[type_]):
            fields.wrong("default", f"is no {type_}.", "Write one, or leave it out.")
        return Setting(
            name=name,
            type=type_,
            default=default,
            secret=fields.flag("secret", False),
            choices=tuple(fields.tree("choices") or ()),
            about=fields.text("about"),
        )

    def authentication(self, fields: Fields) -> Authentication | None:
        below = fields.map("authentication", KEYS["authentication"], "'authentication'")
        if below is None:
            return None
        if len(below.entries) != 1:
            fields.wrong("authentication", "must name one way.", f"Write one of {', '.join(KEYS['authentication'])}.")
            return None
        kind = next(iter(below.entries))
        if kind == "bearer":
            return Authentication(kind, {"token": self.template(below, kind, SETTINGS_NAMES)})
        values = below.map(kind, KEYS.get(kind, ()), f"'{kind}'")
        if values is None:
            return None
        for key in KEYS.get(kind, ()):
            if key not in ("scope", "credentials"):
                values.require(key, "…")
        if kind == "oauth2":
            values.choice("credentials", ("basic", "body"), "body")
        return Authentication(kind, {key: self.template(values, key, SETTINGS_NAMES) for key in values.entries})

    # Requests

    def request(self, fields: Fields, key: str, kind: str, names: frozenset[str]) -> Request | None:
        below = fields.map(key, KEYS[kind], f"'{key}'")
        if below is None:
            return None
        has_find = below.has("find") and "find" in KEYS[kind]
        names = names | {"found"} if has_find else names
        batch = self.part(below, "batch", SETTINGS_NAMES) if below.has("batch") else 1
        many = batch != 1
        if many and not below.has("item"):
            below.wrong("batch", "needs 'item': what the request has for each document.", "Add 'item: {…}'.")
        line = below.text("request", example="POST {{ settings.url }}/contacts")
        method, _, url = line.partition(" ")
        if line and (method not in METHODS or not url.strip()):
            remedy = f"Begin with one of {', '.join(METHODS)}, written out: POST {{{{ settings.url }}}}/contacts."
            below.wrong("request", "must be a method, which is no template, and a URL.", remedy)
        outer = SETTINGS_NAMES if many else names
        find = self.request(below, "find", "find", ITEM_NAMES) if has_find else None
        create = self.create(below) if "create" in KEYS[kind] else None
        for other, asked in (("find", find), ("create", create)):
            if asked and many != (asked.batch != 1):
                below.wrong(
                    other, "and the request proper are not for as many documents.", "Give both a 'batch', or neither."
                )
        place = below.entries["request"].value if below.has("request") else None
        return Request(
            method=method,
            url=self.text(url.strip(), place, outer) if place is not None else "",
            headers=self.texts(below, "headers", outer),
            batch=batch,
            item=self.part(below, "item", names),
            body=self.part(below, "body", outer),
            name=self.template(below, "name", names),
            readings=tuple(
                self.reading(one, kind == "find") for one in self.maps(below, "results", "a result", KEYS["result"])
            ),
            rules=self.rules(below, "outcomes", ANSWER_NAMES),
            find=find,
            create=create,
            finding=kind == "find",
            remember=kind == "find" and below.flag("remember", False),
        )

    def create(self, fields: Fields) -> Request | None:
        """What an upsert sends when its `find` finds nobody: it has to say, be it that nothing is sent."""
        if not fields.has("find"):
            if fields.has("create"):
                fields.wrong("create", "is for what 'find' does not find, and there is no 'find'.", "Add one.")
            return None
        fields.require("create", "{request: POST …, body: …}', or, where nobody is to be created, 'create: none")
        node = fields.entries["create"].value if fields.has("create") else None
        if isinstance(node, Scalar) and node.value == NO_CREATE:
            return None
        return self.request(fields, "create", "create", ITEM_NAMES)

    def reading(self, fields: Fields, found: bool) -> Reading:
        """`found`: of `find`, where a result is one that is there, unless it says otherwise."""
        each = fields.text("each") if fields.has("each") else None
        rules = self.rules(fields, "outcomes", RESULT_NAMES, RESULT_OUTCOMES)
        if fields.has("outcome") or (found and not rules):
            rules = (*rules, Rule(fields.choice("outcome", RESULT_OUTCOMES, "delivered")))
        elif not rules and not fields.has("outcomes") and not {"outcome", "outcomes"} & fields.misspelt:
            remedy = "Add 'outcome: delivered', or 'outcomes: [{when: …, outcome: delivered}, …]'."
            self.problems.add(fields.place, "A result has no 'outcome' and no 'outcomes': what does it mean?", remedy)
        return Reading(
            each=None if each is None else tuple(part for part in each.split(".") if part),
            name=self.template(fields, "for", FOR_NAMES),
            receiver_id=self.template(fields, "receiver_id", RESULT_NAMES),
            rules=rules,
        )

    # Outcomes

    def rules(
        self, fields: Fields, key: str, names: frozenset[str], outcomes: tuple[str, ...] = OUTCOMES
    ) -> tuple[Rule, ...]:
        return tuple(self.rule(one, names, outcomes) for one in self.maps(fields, key, "an outcome", KEYS["rule"]))

    def rule(self, fields: Fields, names: frozenset[str], outcomes: tuple[str, ...]) -> Rule:
        fields.require("outcome", "refused")
        outcome = fields.choice("outcome", outcomes, "retry")
        wait = self.wait(fields) if fields.has("wait") else None
        if outcome == "throttle" and wait is None:
            wait = parse_wait(["header retry-after", "10s"])
        if wait is not None and outcome not in ("throttle", "retry"):
            fields.wrong("wait", f"is not for {outcome!r}.", "Delete it, or make the outcome 'throttle'.")
        return Rule(
            outcome=outcome,
            statuses=self.statuses(fields),
            when=self.expression(fields, "when", names),
            wait=wait,
            detail=self.template(fields, "detail", names),
        )

    def statuses(self, fields: Fields) -> tuple[range, ...]:
        tree = fields.tree("status")
        if tree is None:
            return ()
        found = []
        for one in tree if isinstance(tree, list) else [tree]:
            text = str(one)
            if len(text) == 3 and text[0] in "12345" and text[1:] == "xx":
                found.append(range(int(text[0]) * 100, int(text[0]) * 100 + 100))
            elif len(text) == 3 and text.isascii() and text.isdigit():
                found.append(range(int(text), int(text) + 1))
            else:
                fields.wrong("status", f"cannot hold {text!r}.", "Write 429, 4xx, or a list of them.")
        return tuple(found)

    def wait(self, fields: Fields) -> Wait | None:
        wait = parse_wait(fields.names("wait"))
        if wait is None and fields.node("wait") is not None:
            remedy = "Write 10s, 'header NAME', 'epoch NAME', 'day ZONE', or a list of them."
            fields.wrong("wait", "says no time.", remedy)
        return wait

    def quota(self, fields: Fields) -> Quota:
        fields.require("remaining", "\"{{ headers['x-ratelimit-remaining'] }}\"")
        fields.require("wait", "header x-ratelimit-reset")
        remaining = self.template(fields, "remaining", ANSWER_NAMES)
        header = HEADER.search(fields.text("remaining")) if remaining is not None else None
        return Quota(
            remaining, self.wait(fields) or parse_wait(["10s"]) or Wait(()), header[1].lower() if header else ""
        )

    # Tests

    def examples(self, fields: Fields) -> Examples | None:
        below = fields.map("test", KEYS["test"], "'test'")
        if below is None:
            return None
        answers = {key: self.example(below, key) for key in ANSWERED if below.has(key)}
        return Examples(
            settings=below.tree("settings", float) or {},
            body=below.tree("body"),
            answers={key: answer for key, answer in answers.items() if answer},
            nothing_written=self.example(below, "nothing_written"),
            cases=tuple(self.case(one) for one in self.maps(below, "cases", "a case", KEYS["case"])),
        )

    def example(self, fields: Fields, key: str) -> Example | None:
        below = fields.map(key, KEYS["reply"], f"'{key}'")
        return None if below is None else self.reply(below)

    def reply(self, fields: Fields) -> Example:
        return Example(
            status=fields.integer("status", 200, 100, 599),
            headers=self.texts(fields, "headers", REPLY_NAMES),
            item=self.part(fields, "item", REPLY_NAMES),
            body=self.part(fields, "body", REPLY_NAMES),
        )

    def case(self, fields: Fields) -> ExampleCase:
        fields.require("answer", "{status: 207, body: …}")
        return ExampleCase(
            name=fields.text("name", example="what it shows"),
            events=self.words(fields, "events", EVENTS),
            find=self.example(fields, "find"),
            answers=tuple(self.reply(one) for one in self.maps(fields, "answer", "'answer'", KEYS["reply"])) or _WELL,
            outcomes=self.words(fields, "outcomes", CASE_OUTCOMES),
            wait=fields.seconds("wait", 0.0) if fields.has("wait") else None,
            requests=self.requests(fields),
            bodies=self.bodies(fields),
            headers={str(name).lower(): str(value) for name, value in (fields.tree("headers") or {}).items()},
            body=fields.tree("body", float),
            known=fields.text("known"),
        )

    def bodies(self, fields: Fields) -> tuple[Any, ...]:
        bodies = fields.tree("bodies", float)
        if bodies is not None and not isinstance(bodies, list):
            fields.wrong("bodies", "is no list.", "Write the body of each request, in order; null where there is none.")
            return ()
        return tuple(bodies or ())

    def requests(self, fields: Fields) -> tuple[str, ...]:
        requests = self.words(fields, "requests")
        for request in requests:
            method, _, path = request.partition(" ")
            if method not in METHODS or not path.startswith("/"):
                fields.wrong(
                    "requests", f"cannot hold {request!r}.", "Write a method and a path, as DELETE /contacts/9."
                )
        return requests

    # Templates

    def words(self, fields: Fields, key: str, known: Sequence[str] = ()) -> tuple[str, ...]:
        """`known`: the words that there are; () allows any."""
        tree = fields.tree(key)
        words = tuple(str(one) for one in (tree if isinstance(tree, list) else [tree])) if tree else ()
        for word in words:
            if known and word not in known:
                fields.wrong(key, f"cannot hold {word!r}.", f"There is: {', '.join(known)}.")
        return words

    def maps(self, fields: Fields, key: str, where: str, known: Sequence[str]) -> list[Fields]:
        """The maps of a list."""
        node = fields.node(key)
        if node is None:
            return []
        return [Fields(one, where, known, self.problems) for one in _items(node)]

    def texts(self, fields: Fields, key: str, names: frozenset[str]) -> dict[str, Any]:
        below = fields.map(key, None, f"'{key}'")
        return {name.lower(): self.template(below, name, names) for name in below.entries} if below else {}

    def template(self, fields: Fields, key: str, names: frozenset[str]) -> Any:
        """A text with or without templates; None when it is not there."""
        node = fields.node(key)
        return None if node is None else self.text(fields.text(key), node, names)

    def expression(self, fields: Fields, key: str, names: frozenset[str]) -> Expression | None:
        text = fields.text(key)
        if not text:
            return None
        try:
            return compile_expression(text, names, key)
        except TemplateMistake as error:
            fields.wrong(key, f"is no expression: {_said(error)}")
            return None

    def part(self, fields: Fields, key: str, names: frozenset[str]) -> Any:
        """Maps, lists and scalars, texts as templates; None when it is not there."""
        node = fields.node(key)
        return None if node is None else self._compiled(node, names)

    def _compiled(self, node: Node, names: frozenset[str]) -> Any:
        if isinstance(node, Map):
            return {name: self._compiled(entry.value, names) for name, entry in node.entries.items()}
        if isinstance(node, Listing):
            return [self._compiled(item, names) for item in node.items]
        value = plain(node)
        return self.text(value, node, names) if isinstance(value, str) else value

    def text(self, text: str, node: Node, names: frozenset[str]) -> Any:
        if "{" not in text or text.strip() == ITEMS:
            return text
        try:
            return compile_template(text, names, "template")
        except TemplateMistake as error:
            remedy = "Two braces stand on each side, as {{ body.email }}; docs/templates.md has the rest."
            self.problems.add(node.place, f"The template is wrong: {_said(error)}", remedy)
            return text


_WELL = (Example(200, {}, None, None),)
_NO_REQUEST = Request("POST", "", {}, 1, None, None, None, (), ())


def _said(error: TemplateMistake) -> str:
    return error.what.partition(": ")[2]


def _items(node: Node) -> Sequence[Node]:
    return node.items if isinstance(node, Listing) else (node,)


def _is_null(fields: Fields, key: str) -> bool:
    node = fields.entries[key].value
    return isinstance(node, Scalar) and node.value is None


def _is_of(value: Any, type_: type) -> bool:
    if type_ is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type_) and (type_ is bool or not isinstance(value, bool))
