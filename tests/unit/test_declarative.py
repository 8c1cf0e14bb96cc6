"""Declarative connectors: what is wrong with a definition, how batches are cut, how answers are read."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.declarative import read_definition
from connectors.declarative.answers import Named, by_item, read
from connectors.declarative.connector import Item, grouped
from connectors.declarative.definition import parse_definition
from connectors.declarative.rendering import cleared
from connectors.declarative.waits import parse_wait
from connectors.transport import Answer
from hub.connector import Reply, read_settings
from hub.delivery import Message
from hub.errors import ProjectError
from hub.kit.bench import Bench, deliver
from hub.kit.server import Asked, Behaviour, Server, says, write
from hub.project import Destination

SMALL = """\
connector: acme
about: Acme
settings:
  url: {type: url}
  size: {type: integer, default: 2, choices: [1, 2]}
upsert:
  request: POST {{ settings.url }}/contacts
  body: "{{ body }}"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ProjectError) as raised:
        parse_definition("connectors/acme.yaml", text.encode())
    return [str(problem) for problem in raised.value.problems]


def test_a_small_definition_is_enough() -> None:
    kind = read_definition("connectors/acme.yaml", SMALL.encode())

    assert (kind.about, kind.side_effects, kind.trial) == ("Acme", False, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("connector: acme", "connector: other", "acme.yaml:1:12: 'connector' of the connector is 'other'"),
        ("about: Acme", "abuot: Acme", "acme.yaml:2:1: The connector has no key 'abuot'. Did you mean 'about'"),
        ("type: url", "type: uri", "acme.yaml:4:15: 'type' of the setting 'url' cannot be 'uri'."),
        ("default: 2", "default: two", "acme.yaml:5:34: 'default' of the setting 'size' is no integer."),
        (
            "POST {{ settings.url }}",
            "SEND {{ settings.url }}",
            "acme.yaml:7:12: 'request' of 'upsert' must be a method",
        ),
        ("{{ settings.url }}", "{{ setting.url }}", "There is no setting here. Did you mean settings?"),
        ("{{ body }}", "{{ body | uper }}", "acme.yaml:8:9: The template is wrong: There is no filter uper."),
        ('"{{ body }}"', '"{{ body }"', "Two braces stand on each side, as {{ body.email }}"),
        ("  body:", "  batch: 5\n  body:", "'batch' of 'upsert' needs 'item'"),
        (
            "POST {{ settings.url }}/contacts",
            '"{{ settings.verb }} {{ settings.url }}"',
            "'request' of 'upsert' must be a method, which is no template, and a URL. Begin with one of GET, POST,",
        ),
        (
            '  body: "{{ body }}"\n',
            "  batch: 5\n  item: {id: 1}\n  create: none\n  find: {request: GET http://x}\n",
            "'find' of 'upsert' and the request proper are not for as many documents. Give both a 'batch', or neither.",
        ),
        (
            '  body: "{{ body }}"\n',
            "  find: {request: GET http://x}\n  create: {request: POST http://x, batch: 5, item: {id: 1}}\n",
            "'create' of 'upsert' and the request proper are not for as many documents.",
        ),
        (
            '  body: "{{ body }}"\n',
            "  find: {request: GET http://x}\n",
            "acme.yaml:7:3: 'upsert' has no 'create'. Add 'create: {request: POST …, body: …}', or, where nobody is to "
            "be created, 'create: none'.",
        ),
        (
            '  body: "{{ body }}"\n',
            "  create: {request: POST http://x}\n",
            "acme.yaml:8:11: 'create' of 'upsert' is for what 'find' does not find, and there is no 'find'.",
        ),
        (
            '  body: "{{ body }}"\n',
            '  find: {request: GET http://x}\n  create: {request: POST http://x, body: "{{ found }}"}\n',
            "There is no found here",
        ),
        (
            '  body: "{{ body }}"\n',
            "  find: {request: GET http://x}\n  create: none\ntest: {body: {}}\n",
            "acme.yaml:10:7: 'test' of the connector has no 'nothing_found': what the API answers when 'find' finds "
            "nobody. Add 'nothing_found: {body: …}'.",
        ),
    ],
)
def test_mistakes_have_their_place(old: str, new: str, message: str) -> None:
    """File, line, column, and what to do."""

    assert any(message in problem for problem in problems(SMALL.replace(old, new))), problems(SMALL.replace(old, new))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{status: 6xx9, outcome: retry}", "cannot hold '6xx9'"),
        ("{status: 429, outcome: throttel}", "cannot be 'throttel'"),
        ("{status: 429, outcome: throttle, wait: soon}", "says no time"),
        ("{status: 429, outcome: throttle, wait: day Mars/Base}", "says no time"),
        ("{status: 400, outcome: refused, wait: 5s}", "is not for 'refused'"),
        ("{status: 400, when: 'answer.', outcome: refused}", "is no expression"),
        ("{when: 'body.x', outcome: refused}", "There is no body here"),
    ],
)
def test_mistakes_in_outcomes_have_their_place(rule: str, message: str) -> None:
    found = problems(SMALL + f"outcomes:\n  - {rule}\n")

    assert any(message in problem and "acme.yaml:10:" in problem for problem in found), found


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("{each: done}", "acme.yaml:10:7: A result has no 'outcome' and no 'outcomes'"),
        ("{each: done, outcome: results}", "acme.yaml:10:29: 'outcome' of a result cannot be 'results'"),
        ("{outcomes: [{outcome: results}]}", "acme.yaml:10:29: 'outcome' of an outcome cannot be 'results'"),
        # It is the entry that tells the document.
        ('{for: "{{ key }}", outcome: delivered}', "acme.yaml:10:13: The template is wrong: There is no key here."),
    ],
)
def test_a_result_says_what_it_means(result: str, message: str) -> None:
    found = problems(SMALL + f"  results:\n    - {result}\n")

    assert any(message in problem for problem in found), found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs 'url'"),
        ({"url": "acme.example"}, "`url`"),
        ({"url": "https://acme.example?a=b"}, "without a query"),
        ({"url": "https://acme.example", "size": 3}, "`size` must be one of 1, 2"),
        ({"url": "https://acme.example", "sise": 1}, "Did you mean 'size'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    kind = read_definition("connectors/acme.yaml", SMALL.encode())

    with pytest.raises(ProjectError, match=message):
        read_settings(kind, Destination("crm", "acme", settings=settings))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("events: [update]", "'events' of a case cannot hold 'update'. There is: created, updated, deleted."),
        ("outcomes: [delivred]", "'outcomes' of a case cannot hold 'delivred'. There is: delivered, retry"),
        ("bodies: {a: 1}", "'bodies' of a case is no list. Write the body of each request, in order; null where"),
        ("wait: soon", "'wait' of a case must be a duration, but is 'soon'."),
        ("requests: [contacts/9]", "'requests' of a case cannot hold 'contacts/9'. Write a method and a path"),
    ],
)
def test_words_of_a_case_are_checked(case: str, message: str) -> None:
    found = problems(SMALL + f"test: {{cases: [{{name: one, answer: {{}}, {case}}}]}}\n")

    assert any(message in problem and "acme.yaml:9:" in problem for problem in found), found


# Finding


@pytest.mark.parametrize(
    ("answer", "kind", "what"),
    [
        ({"contacts": []}, "DELIVERED", "It is not there"),
        ({"contacts": [{"mail": "other@example.com", "id": 9}]}, "DELIVERED", "It is not there"),
        ({}, "RETRY", "no entry of `results` (contacts) has an outcome for the document"),
        ({"contacts": None}, "RETRY", "no entry of `results`"),
        ({"contacts": [{"mail": "kitdoc0001", "id": 9, "busy": True}]}, "RETRY", "no entry of `results`"),
        ({"contacts": [{"mail": "kitdoc0001"}]}, "RETRY", "It is found, and `receiver_id` gives no id"),
    ],
)
def test_what_a_list_of_what_was_found_lacks_is_not_there(answer: Any, kind: str, what: str) -> None:
    """A list that is missing, or an entry that has no outcome or no id, says no such thing."""

    text = (
        SMALL.replace("type: url}", 'type: url, default: "http://acme.example"}')
        + """\
delete:
  find:
    request: GET {{ settings.url }}/contacts
    name: "{{ key }}"
    results:
      - each: contacts
        for: "{{ result.mail }}"
        receiver_id: "{{ result.id }}"
        outcomes: [{when: result.busy is undefined, outcome: delivered}]
  request: DELETE {{ settings.url }}/contacts/{{ found }}
"""
    )
    delete = parse_definition("connectors/acme.yaml", text.encode()).delete
    assert delete and delete.find
    content = msgspec.json.encode(answer)
    reading = read(Answer(200, [(b"content-type", b"application/json")], content), {})

    [outcome] = by_item(reading, delete.find, [Named("kitdoc0001", {})], time.time())

    assert (outcome.kind.name, outcome.receiver_id) == (kind, "")
    assert what in outcome.detail


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["AB", "ab"], {"ab": "1", "AB": "0"}),
        (["ab", "AB"], {"ab": "0", "AB": "1"}),
        (["Ab"], {"ab": "0"}),
        (["AB", "ab"], {"ab": "1"}),
        (["ab", "cd"], {"ab": "0", "Ab": "", "CD": "1"}),
        ([["old", "AB"], ["cd", "ab"], []], {"ab": "1", "OLD": "0"}),
        ([None, ["", None, "ab"]], {"ab": "1"}),
    ],
)
def test_the_very_name_comes_before_one_in_another_case(names: list[Any], ids: dict[str, str]) -> None:
    """Of two documents whose names differ in case alone each has its own."""

    upsert = parse_definition("connectors/acme.yaml", BATCH.encode()).upsert
    content = msgspec.json.encode({"done": [{"key": name, "id": id} for id, name in enumerate(names)]})
    reading = read(Answer(200, [(b"content-type", b"application/json")], content), {})

    outcomes = by_item(reading, upsert, [Named(name, {}) for name in ids], time.time())

    assert [outcome.receiver_id for outcome in outcomes] == list(ids.values())


def test_documents_of_one_name_have_one_result() -> None:
    """Else the first of them would count as one that the answer says nothing of."""

    outcomes, _ = _run(
        BATCH.replace('  name: "{{ key }}"', '  name: "{{ entity }}"'), _json({"done": [{"key": "contact"}]})
    )

    assert [outcome.kind.name for outcome in outcomes] == ["DELIVERED"] * 3


# Creating

CREATING = """\
connector: acme
about: Acme
settings: {url: {type: url}}
upsert:
  batch: 10
  find:
    request: POST {{ settings.url }}/find
    batch: 10
    item: "{{ key }}"
    body: "{{ items }}"
    name: "{{ key }}"
    results: [{each: found, for: "{{ result.key }}", receiver_id: "{{ result.id }}"}]
  request: POST {{ settings.url }}/update
  item: {id: "{{ found }}", "*": "{{ body }}"}
  body: "{{ items }}"
  create:
    request: POST {{ settings.url }}/create
    batch: 10
    item: {key: "{{ key }}", "*": "{{ body }}"}
    body: "{{ items }}"
    name: "{{ key }}"
    results: [{each: made, for: "{{ result.key }}", receiver_id: "{{ result.id }}", outcome: delivered}]
    outcomes: [{status: 409, outcome: retry}]
test:
  settings: {url: "{server}"}
  body: {name: "{key}"}
  find: {body: {found: []}}
  nothing_found: {body: {found: []}}
"""


class Acme:
    """It knows the third document, and makes the others."""

    def __init__(self) -> None:
        self.create = _json({"made": [{"key": f"kitdoc{n:04}", "id": f"new{n}"} for n in (1, 2, 99)]})
        self.found = _json({"found": [{"key": "kitdoc0003", "id": "old3"}, {"key": "other", "id": "old9"}]})

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        replies = {"/find": self.found, "/update": Reply(204), "/create": self.create}
        await write(replies[asked.path], writer)


def test_what_is_not_found_is_created_and_the_rest_updated() -> None:
    """One request each for a batch; each has its receiver's id, the found one where the answer gives none."""

    outcomes, asked = _run(CREATING, Acme(), 3)

    assert [(one.kind.name, one.receiver_id) for one in outcomes] == [
        *(("DELIVERED", "new1"), ("DELIVERED", "new2"), ("DELIVERED", "old3"), ("DELIVERED", "new99")),
    ]
    assert [(one.path, msgspec.json.decode(one.body)) for one in asked[:3]] == [
        ("/find", ["kitdoc0001", "kitdoc0002", "kitdoc0003"]),
        ("/update", [{"id": "old3", "name": "kitdoc0003"}]),
        ("/create", [{"key": "kitdoc0001", "name": "kitdoc0001"}, {"key": "kitdoc0002", "name": "kitdoc0002"}]),
    ]
    assert [one.path for one in asked[3:]] == ["/find", "/create"]


def test_what_another_has_created_since_is_tried_again() -> None:
    """The next attempt finds it; what was found is updated all the same."""

    acme = Acme()
    acme.create = Reply(409)
    outcomes, _ = _run(CREATING, acme, 3)

    assert [one.kind.name for one in outcomes] == ["RETRY", "RETRY", "DELIVERED", "RETRY"]


def test_nobody_is_created_where_it_is_not_known_who_is_there() -> None:
    """After a `find` that fails, or that is to be tried again, nothing is sent."""

    acme = Acme()
    for reply, kind in ((Reply(500), "RETRY"), (Reply(403), "HELD"), (_json({"error": "busy"}), "RETRY")):
        acme.found = reply
        outcomes, asked = _run(CREATING, acme, 3)

        assert {one.kind.name for one in outcomes} == {kind}
        assert {one.path for one in asked} == {"/find"}


def test_a_search_may_say_that_it_is_missing() -> None:
    """As well as by a list that lacks it: it is created, or done."""

    acme = Acme()
    acme.found = Reply(404)
    outcomes = "    outcomes: [{status: 404, outcome: missing}]\n"
    one_each = CREATING.replace("batch: 10", "batch: 1").replace("    batch: 1\n", "    batch: 1\n" + outcomes, 1)
    create = one_each[one_each.index("  create:") : one_each.index("test:")]

    for text, paths in ((one_each, ["/find", "/create"]), (one_each.replace(create, "  create: none\n"), ["/find"])):
        told, asked = _run(text, acme, 1)
        assert [one.kind.name for one in told] == ["DELIVERED", "DELIVERED"]
        assert [one.path for one in asked] == paths * 2


def test_nobody_is_created_where_none_is_to_be() -> None:
    """It is done."""

    create = CREATING[CREATING.index("  create:") : CREATING.index("test:")]
    outcomes, asked = _run(CREATING.replace(create, "  create: none\n"), Acme(), 3)

    assert [(one.kind.name, one.receiver_id) for one in outcomes[:3]] == [
        *(("DELIVERED", ""), ("DELIVERED", ""), ("DELIVERED", "old3")),
    ]
    assert [one.path for one in asked] == ["/find", "/update", "/find"]


# An id that is remembered

PUT_BY_ID = """\
connector: acme
about: Acme
settings: {url: {type: url}}
upsert:
  request: PUT {{ settings.url }}/contacts/{{ known or key }}
  body: "{{ body }}"
  results: [{receiver_id: "{{ result.id }}", outcome: delivered}]
delete:
  request: DELETE {{ settings.url }}/contacts/{{ known or key }}
test: {settings: {url: "{server}"}, body: {name: "{key}"}}
"""
UPDATED = """\
  name: "{{ found }}"
  results:
    - {each: done, for: "{{ result.id }}", outcomes: [{when: result.gone, outcome: missing}, {outcome: delivered}]}
"""
REMEMBERING = CREATING.replace("  find:\n", "  find:\n    remember: true\n", 1).replace(
    "  create:", f"{UPDATED}  create:"
)


class Merging(Acme):
    """Whose id begins with `gone` is not there any more."""

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path != "/update":
            await super().__call__(asked, writer)
            return
        ids = [one["id"] for one in msgspec.json.decode(asked.body)]
        await write(_json({"done": [{"id": id, "gone": id.startswith("gone")} for id in ids]}), writer)


def _run_known(text: str, behaviour: Behaviour, *ids: str, event: str = "created") -> tuple[list[Any], list[Asked]]:
    """Outcomes of a batch of messages with these ids, and what the server was asked."""

    def messages(bench: Bench) -> list[Message]:
        numbered = enumerate(ids, start=1)
        return [msgspec.structs.replace(bench.message(number, event), receiver_id=id) for number, id in numbered]

    return _delivered(text, behaviour, lambda bench: [messages(bench)])


def test_only_a_connector_that_goes_by_ids_is_given_them() -> None:
    async def remembers(text: str) -> bool:
        kind = read_definition("connectors/acme.yaml", text.encode())
        assert kind.trial
        return bool(getattr(Bench("acme", kind, kind.trial, Path()).open("http://127.0.0.1:9"), "remembers", False))

    told = [asyncio.run(remembers(text)) for text in (CREATING, REMEMBERING, PUT_BY_ID)]
    assert told == [False, True, True]


def test_what_is_remembered_is_not_looked_for() -> None:
    """Of a batch the others are, in one request; all that is there is updated in another."""

    outcomes, asked = _run_known(REMEMBERING, Merging(), "old1", "", "")

    assert [(one.kind.name, one.receiver_id) for one in outcomes] == [
        *(("DELIVERED", "old1"), ("DELIVERED", "new2"), ("DELIVERED", "old3")),
    ]
    assert [(one.path, msgspec.json.decode(one.body)) for one in asked] == [
        ("/find", ["kitdoc0002", "kitdoc0003"]),
        ("/update", [{"id": "old1", "name": "kitdoc0001"}, {"id": "old3", "name": "kitdoc0003"}]),
        ("/create", [{"key": "kitdoc0002", "name": "kitdoc0002"}]),
    ]


def test_what_is_remembered_and_gone_is_looked_for() -> None:
    """In the same attempt: one of a batch is found by another id, one is created, and the rest is not sent again."""

    outcomes, asked = _run_known(REMEMBERING, Merging(), "gone1", "old2", "gone3")

    assert [(one.kind.name, one.receiver_id) for one in outcomes] == [
        *(("DELIVERED", "new1"), ("DELIVERED", "old2"), ("DELIVERED", "old3")),
    ]
    assert [(one.path, len(msgspec.json.decode(one.body))) for one in asked] == [
        *(("/update", 3), ("/find", 2), ("/update", 1), ("/create", 1)),
    ]


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize(("id", "kind", "asked"), [("old1", "DELIVERED", 3), ("", "RETRY", 2)])
def test_what_a_rule_says_of_404_is_for_what_was_found(status: int, id: str, kind: str, asked: int) -> None:
    """By an id that is remembered it is looked for, whatever the rule; without one, what was found is tried again."""

    class Gone(Acme):
        async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
            if asked.path == "/update":
                await write(Reply(status), writer)
            else:
                await super().__call__(asked, writer)

    acme = Gone()
    acme.found = _json({"found": [] if id else [{"key": "kitdoc0001", "id": "old1"}]})
    text = REMEMBERING.replace("batch: 10", "batch: 1")
    ruled = text.replace("  create:", "  outcomes: [{status: [404, 410], outcome: refused}]\n  create:")

    outcomes, requests = _run_known(text, acme, id)
    assert ([one.kind.name for one in outcomes], len(requests)) == ([kind], asked)
    outcomes, _ = _run_known(ruled, acme, id)
    assert [one.kind.name for one in outcomes] == (["DELIVERED"] if id else ["REFUSED"])


@pytest.mark.parametrize("event", ["created", "deleted"])
def test_a_batch_that_is_not_there_as_a_whole_names_no_culprit(event: str) -> None:
    """One that was found and one that is remembered: it is halved, until each meets its own 404."""
    delete = REMEMBERING[REMEMBERING.index("  batch:") : REMEMBERING.index("  create:")]
    text = REMEMBERING.replace("test:", f"delete:\n{delete}test:")

    class Nobody(Acme):
        async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
            if asked.path != "/update":
                await super().__call__(asked, writer)
                return
            await write(Reply(404), writer)

    outcomes, _ = _run_known(text, Nobody(), "gone1", "", "", event=event)
    assert [(one.kind.name, one.whole) for one in outcomes if one.kind.name != "DELIVERED"] == [("REFUSED", True)] * 2
    alone, _ = _run_known(text, Nobody(), "gone1", event=event)
    assert [one.kind.name for one in alone] == ["DELIVERED"]


@pytest.mark.parametrize(
    ("event", "there", "kind", "paths"),
    [
        ("created", {"known", "kitdoc0001"}, "DELIVERED", ["known"]),
        ("created", {"kitdoc0001"}, "DELIVERED", ["known", "kitdoc0001"]),
        ("created", set(), "REFUSED", ["known", "kitdoc0001"]),
        ("deleted", {"known"}, "DELIVERED", ["known"]),
        ("deleted", {"kitdoc0001"}, "DELIVERED", ["known", "kitdoc0001"]),
        ("deleted", set(), "REFUSED", ["known", "kitdoc0001"]),  # what its 404 means for a key is the file's to say
    ],
)
def test_without_a_search_it_is_asked_for_as_if_nothing_were_remembered(
    event: str, there: set[str], kind: str, paths: list[str]
) -> None:
    async def contacts(asked: Asked, writer: asyncio.StreamWriter) -> None:
        name = asked.path.removeprefix("/contacts/")
        await write(_json({"id": "9"}) if name in there else Reply(404), writer)

    outcomes, asked = _run_known(PUT_BY_ID, contacts, "known", event=event)

    assert [one.kind.name for one in outcomes] == [kind]
    assert [one.path.removeprefix("/contacts/") for one in asked] == paths


# Batches


def _items(*sames: str) -> list[Item]:
    request = parse_definition("connectors/acme.yaml", SMALL.encode()).upsert
    return [Item(place, request, same, {"known": ""}) for place, same in enumerate(sames)]


@pytest.mark.parametrize(
    ("sames", "size", "groups"),
    [
        (("a", "b", "c"), 2, [[0, 1], [2]]),
        (("a", "b", "a", "c"), 10, [[0, 1], [2, 3]]),
        (("", "", ""), 10, [[0, 1, 2]]),
        ((), 10, []),
    ],
)
def test_items_of_one_key_are_in_different_requests(sames: Sequence[str], size: int, groups: list[list[int]]) -> None:
    """And the later one is sent later. What has no key shares with all."""

    cut = grouped(_items(*sames), lambda _: size)

    assert [[item.place for item in group] for group in cut] == groups


def test_items_of_one_id_are_in_different_requests() -> None:
    """Two documents may have become one contact."""
    items = [item.by(known=id) for item, id in zip(_items("", "", "", ""), ("7", "", "7", ""), strict=True)]

    assert [[item.place for item in group] for group in grouped(items, lambda _: 10)] == [[0, 1], [2, 3]]


def test_null_clears() -> None:
    """At any depth, or is left out."""

    body = {"a": None, "b": {"c": None, "d": 1}, "e": [None, {"f": None}]}

    assert cleared(body, "") == {"a": "", "b": {"c": "", "d": 1}, "e": [None, {"f": ""}]}
    assert cleared(body, "leave out") == {"b": {"d": 1}, "e": [None, {}]}
    assert cleared(body, None) == body


# Waits


@pytest.mark.parametrize(
    ("ways", "headers", "seconds"),
    [
        (["10s"], {}, 10.0),
        (["header retry-after", "10s"], {}, 10.0),
        (["header Retry-After", "10s"], {"retry-after": "7"}, 7.0),
        (["header x-reset"], {"x-reset": "1800000000"}, 1_800_000_000 - 43_200.0),
        (["header retry-after"], {"retry-after": "Thu, 01 Jan 1970 12:00:30 GMT"}, 30.0),
        (["epoch x-reset"], {"x-reset": "43260"}, 60.0),
        (["epoch x-reset"], {"x-reset": "100"}, 0.0),
        (["day UTC"], {}, 43200.0),
        (["day Asia/Tokyo"], {}, 3 * 3600.0),
        (["header retry-after"], {}, None),
    ],
)
def test_waits(ways: list[str], headers: dict[str, str], seconds: float | None) -> None:
    """At noon of 1970-01-01, UTC."""

    wait = parse_wait(ways)

    assert wait is not None and wait.seconds(headers, 12 * 3600) == seconds


# Against a server


def _run(text: str, reply: Reply | Behaviour, count: int = 2) -> tuple[list[Any], list[Asked]]:
    """Outcomes of a batch of `count`, then of one message, and what the server was asked."""
    behaviour = says(reply) if isinstance(reply, Reply) else reply

    def batches(bench: Bench) -> list[list[Message]]:
        return [[bench.message(number) for number in range(1, count + 1)], [bench.message(99)]]

    return _delivered(text, behaviour, batches)


def _delivered(
    text: str, behaviour: Behaviour, batches: Callable[[Bench], Sequence[Sequence[Message]]]
) -> tuple[list[Any], list[Asked]]:
    """Outcomes of batches, one after the other, and what the server was asked."""
    kind = read_definition("connectors/acme.yaml", text.encode())

    async def run() -> tuple[list[Any], list[Asked]]:
        assert kind.trial
        bench = Bench("acme", kind, kind.trial, Path())
        async with Server(behaviour) as there:
            connector = bench.open(there.url)
            try:
                outcomes = [one for batch in batches(bench) for one in await deliver(connector, batch)]
            finally:
                await connector.close()
            return outcomes, there.asked

    return asyncio.run(run())


BATCH = """\
connector: acme
about: Acme
settings: {url: {type: url}}
upsert:
  request: POST {{ settings.url }}/contacts
  batch: 10
  item: {key: "{{ key }}", "*": "{{ body }}"}
  body: {contacts: "{{ items }}"}
  name: "{{ key }}"
  results:
    - {each: done, for: "{{ result.key }}", receiver_id: "{{ result.id }}", outcome: delivered}
    - each: failed
      for: "{{ result.key }}"
      outcomes: [{when: result.code == 1, outcome: expected}, {outcome: refused}]
quota:
  - {remaining: "{{ headers['x-left'] }}", wait: header x-reset}
test: {settings: {url: "{server}"}, body: {name: "{key}"}}
"""


def _json(tree: Any, **headers: str) -> Reply:
    return Reply(207, {"content-type": "application/json", **headers}, msgspec.json.encode(tree))


def test_results_are_read_by_name() -> None:
    """In any order; one that is not named is tried again, one that nobody asked about is nobody's."""

    answer = {"done": [{"key": "kitdoc0003", "id": 77}, {"key": "other"}], "failed": [{"key": "KITDOC0001", "code": 1}]}
    outcomes, asked = _run(BATCH, _json(answer), 3)

    assert [outcome.kind.name for outcome in outcomes[:3]] == ["REFUSED", "RETRY", "DELIVERED"]
    assert (outcomes[0].expected, outcomes[2].receiver_id) == (True, "77")
    assert msgspec.json.decode(asked[0].body)["contacts"][0] == {"key": "kitdoc0001", "name": "kitdoc0001"}


def test_the_first_result_of_a_document_counts() -> None:
    """Of several entries in their order; of one entry's in the answer's. One that has no outcome for it counts not."""

    text = BATCH.replace(
        "  results:\n", "  results:\n    - {outcomes: [{when: result.done is undefined, outcome: retry}]}\n"
    )
    answer = {
        "done": [{"key": "kitdoc0001", "id": 1}, {"key": "kitdoc0001", "id": 2}],
        "failed": [{"key": "kitdoc0001"}, {"key": "kitdoc0002"}],
    }
    outcomes, _ = _run(text, _json(answer))

    assert [(one.kind.name, one.receiver_id) for one in outcomes[:2]] == [("DELIVERED", "1"), ("REFUSED", "")]


def test_a_batch_that_is_refused_names_no_culprit() -> None:
    """Dispatch finds it; one that is refused alone is to blame."""

    outcomes, asked = _run(BATCH, Reply(409), 10)

    assert {(one.kind.name, one.whole) for one in outcomes[:10]} == {("REFUSED", True)}
    assert (outcomes[10].kind.name, outcomes[10].whole, len(asked)) == ("REFUSED", False, 2)


def test_a_used_quota_is_waited_for() -> None:
    """Nothing is sent before its time, and no attempt is burnt."""

    outcomes, asked = _run(BATCH, _json({"done": []}, **{"x-left": "0", "x-reset": "60"}))

    assert len(asked) == 1
    assert (outcomes[-1].kind.name, 55 < outcomes[-1].after <= 60) == ("RETRY", True)


def test_a_document_that_no_request_can_be_made_of_costs_no_other() -> None:
    """It is refused with the template's place; the others go."""

    text = BATCH.replace('key: "{{ key }}", "*"', 'key: "{{ 1 / (key[-1] | int - 1) and key }}", "*"')
    answer = {"done": [{"key": "kitdoc0002"}]}
    outcomes, asked = _run(text, _json(answer))

    assert [outcome.kind.name for outcome in outcomes[:2]] == ["REFUSED", "DELIVERED"]
    assert "divides by zero" in outcomes[0].detail
    assert len(msgspec.json.decode(asked[0].body)["contacts"]) == 1


def test_midnight_is_the_zones_own() -> None:
    """Also where a day has 23 hours: 2024-03-31 in Berlin, at 00:30."""

    wait = parse_wait(["day Europe/Berlin"])
    now = 1711841400.0

    assert time.gmtime(now)[:5] == (2024, 3, 30, 23, 30)
    assert wait is not None and wait.seconds({}, now) == 22.5 * 3600
