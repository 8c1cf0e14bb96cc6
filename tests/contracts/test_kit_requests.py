"""The conformance kit looks at each request of a declarative connector: one fault, one check that fails."""

import asyncio
from contextlib import nullcontext
from pathlib import Path

import pytest

from connectors.declarative import read_definition
from hub.connector import NotTried
from hub.kit import answers, checks, requests
from hub.kit.bench import Bench, Check, stages
from hub.kit.running import run_case, run_kit

CREATING = """\
connector: elm
about: Contacts of Elm, found by their external id, created, updated and deleted by Elm's own
settings: {url: {type: url}}
clear: null
upsert:
  find: &find
    request: POST {{ settings.url }}/contacts/search
    body: {external_id: "{{ key }}"}
    name: "{{ key }}"
    results:
      - {each: data, for: "{{ result.external_id }}", receiver_id: "{{ result.id }}"}
  request: PUT {{ settings.url }}/contacts/{{ found | urlencode }}
  body: {"*": "{{ body }}", external_id: "{{ key }}"}
  results: &written
    - {receiver_id: "{{ result.id }}", outcomes: [{when: result.id is defined, outcome: delivered}]}
  outcomes:
    - {status: 404, outcome: retry}
  create:
    request: POST {{ settings.url }}/contacts
    body: {"*": "{{ body }}", external_id: "{{ key }}", role: user}
    results: *written
    outcomes:
      - {status: 409, outcome: retry}
delete:
  find: *find
  request: DELETE {{ settings.url }}/contacts/{{ found | urlencode }}
  outcomes:
    - {status: 404, outcome: delivered}
outcomes:
  - {status: 429, outcome: throttle, wait: [epoch x-reset, 10s]}
quota:
  - {remaining: "{{ headers['x-left'] }}", wait: epoch x-reset}
test:
  settings: {url: "{server}"}
  body: {email: "{key}@example.com", phone: null, plan: {level: 3}}
  upsert: {body: {id: "{{ found }}"}}
  find: {body: {data: [{id: "{{ found }}", external_id: "{{ key }}"}]}}
  nothing_found: {body: {data: []}}
  delete: {status: 204}
  nothing_written: {body: {}}
"""


BATCHES = """\
connector: elm
about: Contacts of Elm, in batches
settings: {url: {type: url}}
same: "{{ body.email | lower }}"
clear: ""
upsert:
  batch: 10
  find: &find
    request: POST {{ settings.url }}/find
    batch: 10
    item: "{{ body.email }}"
    body: "{{ items }}"
    name: "{{ body.email }}"
    results: [{each: found, for: "{{ result.email }}", receiver_id: "{{ result.id }}"}]
  request: POST {{ settings.url }}/update
  item: {id: "{{ found }}", "*": "{{ body }}"}
  body: "{{ items }}"
  name: "{{ found }}"
  results: [{each: done, for: "{{ result.id }}", outcome: delivered}]
  create:
    request: POST {{ settings.url }}/create
    batch: 10
    item: {"*": "{{ body }}"}
    body: "{{ items }}"
    name: "{{ body.email }}"
    results: [{each: made, for: "{{ result.email }}", receiver_id: "{{ result.id }}", outcome: delivered}]
    outcomes: [{status: 409, outcome: retry}]
delete:
  batch: 10
  find: *find
  request: POST {{ settings.url }}/delete
  item: "{{ found }}"
  body: "{{ items }}"
outcomes:
  - {status: 429, outcome: throttle, wait: [header retry-after, 10s]}
test:
  settings: {url: "{server}"}
  body: {email: "{key}@x.org", name: null}
  find: {item: {email: "{{ key }}@x.org", id: "{{ found }}"}, body: {found: "{{ items }}"}}
  nothing_found: {body: {found: []}}
  upsert: {item: {id: "{{ found }}"}, body: {done: "{{ items }}"}}
  create: {item: {id: "{{ found }}", email: "{{ key }}@x.org"}, body: {made: "{{ items }}"}}
  nothing_written: {body: {done: [], made: []}}
"""


def bench_of(text: str, request: str = "") -> Bench:
    """At that request; at the first one of an upsert by default."""
    kind = read_definition("connectors/elm.yaml", text.encode())
    assert kind.trial
    bench = Bench("elm", kind, kind.trial, Path())
    return next((bench.at(stage) for stage in stages(kind.trial) if stage.name == request), bench)


def changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def test_a_connector_that_finds_and_then_creates_or_updates_passes() -> None:
    """Everything of it is tried but batches."""
    verdicts = asyncio.run(run_kit("elm", read_definition("connectors/elm.yaml", CREATING.encode())))

    assert [f"{one.check} ({one.request}): {one.fault}" for one in verdicts if one.fault] == []
    assert {one.request for one in verdicts if not one.not_tried} == {
        *("", "find of the upsert", "update", "create", "find of the delete", "delete"),
    }
    assert {one.not_tried for one in verdicts if one.not_tried} == {
        *("it takes one message at a time", "no header of a 429 tells it so"),
    }


def test_batches_that_are_found_and_then_created_or_updated_pass() -> None:
    """Those of one key too, which don't share a request. What a status says of several is nobody's."""
    verdicts = asyncio.run(run_kit("elm", read_definition("connectors/elm.yaml", BATCHES.encode())))

    assert [f"{one.check} ({one.request}): {one.fault}" for one in verdicts if one.fault] == []
    assert {one.request for one in verdicts if one.not_tried == "one request is about several documents"} == {
        *("update", "create", "delete"),
    }


def test_two_of_one_key_in_a_request_fail_after_a_find_too() -> None:
    text = changed(BATCHES, ('same: "{{ body.email | lower }}"\n', ""))

    with pytest.raises(AssertionError, match="Two documents of one key are in one request"):
        asyncio.run(checks.sends_no_key_twice(bench_of(text)))


PUT = 'body: {"*": "{{ body }}", external_id: "{{ key }}"}'
POST = 'body: {"*": "{{ body }}", external_id: "{{ key }}", role: user}'
FOR = 'for: "{{ result.external_id }}", '
THROTTLE = "{status: 429, outcome: throttle, wait: [epoch x-reset, 10s]}"
QUOTA = """{remaining: "{{ headers['x-left'] }}", wait: epoch x-reset}"""
SPARING = """body: {email: "{{ body.email }}", "*": "{{ {'phone': body.phone} if body.phone else {} }}"}"""
GONE = "    - {status: 404, outcome: retry}"
GONE_TOO = "    - {status: 404, outcome: delivered}"


@pytest.mark.parametrize(
    ("old", "new", "check", "stage", "fault"),
    [
        (PUT, 'body: {external_id: "{{ key }}"}', requests.sends_what_it_is_given, "update",
         "`email` of the body makes no difference to what is sent. Send it, as by `body: "),
        (POST, 'body: {email: "{{ body.email }}", external_id: "{{ key }}"}', requests.sends_what_it_is_given, "create",
         "`phone` of the body makes no difference"),
        (PUT, SPARING, requests.clears_nulls, "update",
         "`phone` of the body is null, and `phone` is left out of what is sent: it would stay as it was."),
        (POST, POST.replace(', external_id: "{{ key }}"', ""), requests.writes_what_it_looks_for, "create",
         "`find` asks by the document's key, and `create` sends none: nobody would find what it creates"),
        (POST, POST.replace("{{ key }}", "{{ id }}"), requests.writes_what_it_looks_for, "create",
         "each delivery would create another"),
        ("found | urlencode", "found", requests.quotes_what_is_found, "update", "it needs the filter urlencode"),
        ("DELETE {{ settings.url }}/contacts/{{ found | urlencode }}", "DELETE {{ settings.url }}/contacts/{{ found }}",
         requests.quotes_what_is_found, "delete", "it needs the filter urlencode"),
        ("/contacts\n", "/contacts/{{ key }}\n", requests.lets_nothing_in, "create", "it needs the filter urlencode"),
        (GONE, "    - {status: 404, outcome: refused}", requests.bears_that_it_is_gone,
         "update", "It should be retry, and is refused: 404 Not Found. Add {status: 404, outcome: missing} to the"),
        (GONE_TOO, "    - {status: 404, outcome: refused}",
         requests.bears_that_it_is_gone, "delete", "Add {status: 404, outcome: missing} to the `outcomes` of"),
        ("  results: &written\n", "  results: &written\n    - {outcome: delivered}\n",
         requests.sees_that_nothing_was_written, "update", "It should be retry or refused, and is delivered"),
        ("    results: *written\n", "", requests.sees_that_nothing_was_written, "create", "and is delivered"),
        (FOR, "", requests.leaves_others_alone, "find of the upsert", "It updates what is found, whosever it is"),
        ("    results:\n      - {each: data",
         "    outcomes: [{when: not answer.data, outcome: retry}]\n    results:\n      - {each: data",
         requests.creates_what_is_not_found, "create", "It should be delivered, and is retry"),
        ("    results:\n      - {each: data",
         "    outcomes: [{when: not answer.data, outcome: refused}]\n    results:\n      - {each: data",
         requests.leaves_what_is_not_found, "find of the delete", "It should be delivered, and is refused"),
        ("{status: 409, outcome: retry}", "{status: 409, outcome: refused}", requests.bears_that_it_is_there, "create",
         "and is refused: 409 Conflict. Add {status: 409, outcome: retry} to the `outcomes` of `create`: the next"),
        ("{status: 409, outcome: retry}", "{status: 4xx, outcome: delivered}", answers.refuses_conflicts, "create",
         "It should be refused or retry, and is delivered"),
        (GONE, "    - {status: 5xx, outcome: refused}", answers.retries_faults, "update",
         "It should be retry or held, and is refused"),
        (GONE_TOO, "    - {status: 5xx, outcome: refused}", answers.retries_faults,
         "delete", "It should be retry or held, and is refused"),
        (THROTTLE, "{status: 423, outcome: throttle}", answers.slows_down, "create",
         "Each 429 burns an attempt, until the document is parked. Add {status: 429, outcome: throttle, wait: 10s} to"),
        (THROTTLE, "{status: 429, outcome: throttle, wait: [10s, epoch x-reset]}", answers.waits_for_a_moment, "update",
         r"`x-reset: \d+` asks for 120 seconds, and it waits for 10. Read that header, in YAML by the `wait:`"),
        (QUOTA, QUOTA.replace("epoch x-reset", "[10s, epoch x-reset]"), checks.keeps_to_quotas, "",
         r"`x-left: 0, x-reset: \d+` asks for 120 seconds, and it waits for 10."),
        (QUOTA, QUOTA.replace("'] }}", "'] | int + 1 }}"), checks.keeps_to_quotas, "",
         "An answer has `x-left: 0, x-reset: .*`, and it goes on sending."),
    ],
)  # fmt: skip
def test_a_fault_fails_its_check(old: str, new: str, check: Check, stage: str, fault: str) -> None:
    """At the request that has it; without the fault it passes."""
    asyncio.run(check(bench_of(CREATING, stage)))

    with pytest.raises(AssertionError, match=fault):
        asyncio.run(check(bench_of(changed(CREATING, (old, new)), stage)))


def test_an_update_of_nobody_fails() -> None:
    """Neither the id that was found nor the key is in it."""
    text = changed(CREATING, ("/contacts/{{ found | urlencode }}", "/contacts"), (PUT, 'body: {role: "{{ event }}"}'))

    with pytest.raises(AssertionError, match="kitdoc0001 is delivered, it says, and no request has the id"):
        asyncio.run(requests.acts_on_what_is_found(bench_of(text, "update")))


def test_nulls_that_are_left_out_on_purpose_are_named() -> None:
    """As a check that is not tried, with the reason."""
    text = changed(CREATING, ("clear: null", "clear: leave out"))
    verdicts = asyncio.run(run_kit("elm", read_definition("connectors/elm.yaml", text.encode())))

    reasons = {(one.request, one.not_tried) for one in verdicts if one.check == "a null of the body clears its field"}
    assert reasons == {(request, "`clear: leave out` clears nothing") for request in ("update", "create")}


def test_whom_to_create_nobody_of_is_said() -> None:
    """Then nothing is sent after a find that finds nobody, and the kit looks that it isn't."""
    create = CREATING[CREATING.index("  create:") : CREATING.index("delete:")]
    text = changed(CREATING, (create, "  create: none\n"))
    verdicts = asyncio.run(run_kit("elm", read_definition("connectors/elm.yaml", text.encode())))

    assert [f"{one.check} ({one.request}): {one.fault}" for one in verdicts if one.fault] == []
    looked_at = {(one.check, one.request) for one in verdicts}
    assert ("what is not found is done, and nothing more is sent", "find of the upsert") in looked_at
    assert "create" not in {one.request for one in verdicts}


def test_a_404_of_its_own_is_a_case() -> None:
    """An API whose 404 may mean something else is asked about by its own answer."""
    rule = "{status: 404, when: answer.code == 'none', outcome: delivered}\n    - {status: 404, outcome: refused}"
    case = """\
  cases:
    - name: gone
      events: [deleted]
      find: {body: {data: [{id: 9, external_id: kitdoc0001}]}}
      answer: {status: 404, body: {code: none}}
      outcomes: [delivered]
"""
    text = changed(CREATING, ("{status: 404, outcome: delivered}", rule))

    with pytest.raises(AssertionError, match="Or add a case with the API's own 404"):
        asyncio.run(requests.bears_that_it_is_gone(bench_of(text, "delete")))
    with pytest.raises(NotTried, match="a case of its own shows it"):
        asyncio.run(requests.bears_that_it_is_gone(bench_of(text + case, "delete")))


# Deletes alone


FINDING = """\
connector: elm
about: Contacts of Elm, deleted by Elm's own id
settings: {url: {type: url}}
upsert: {request: "PUT {{ settings.url }}/contacts/{{ body.email | urlencode }}", body: "{{ body }}"}
delete:
  find:
    request: GET {{ settings.url }}/contacts?email={{ body.email | urlencode }}
    name: "{{ body.email }}"
    results:
      - {each: contacts, for: "{{ result.email }}", receiver_id: "{{ result.id }}", outcome: delivered}
  request: DELETE {{ settings.url }}/contacts/{{ found | urlencode }}
test:
  settings: {url: "{server}"}
  body: {email: "{key}@example.com"}
  find: {body: {contacts: [{id: "{{ found }}", email: "{{ key }}@EXAMPLE.com"}]}}
"""
ENTRY = '{each: contacts, for: "{{ result.email }}", receiver_id: "{{ result.id }}", outcome: delivered}'
CATCH_ALL = "{outcome: delivered}"


def finding(old: str, new: str, request: str = "delete") -> Bench:
    return bench_of(changed(FINDING, (old, new)), request)


NO_OUTCOME = ENTRY.replace(", outcome: delivered", "")  # of `find`: then it is there


@pytest.mark.parametrize("entries", [ENTRY, f"{ENTRY}\n      - {CATCH_ALL}", f"{NO_OUTCOME}\n      - {CATCH_ALL}"])
def test_a_connector_that_finds_and_deletes_passes(entries: str) -> None:
    asyncio.run(requests.acts_on_what_is_found(finding(ENTRY, entries)))
    asyncio.run(requests.leaves_others_alone(finding(ENTRY, entries, "find of the delete")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ENTRY, ENTRY.replace("outcome: delivered", "outcomes: [{when: result.no, outcome: delivered}]")
         + f"\n      - {CATCH_ALL}"),
        (f'name: "{{{{ body.email }}}}"\n    results:\n      - {ENTRY}',
         f"name: nobody\n    results:\n      - {ENTRY}\n      - {CATCH_ALL}"),
        (ENTRY, f"{CATCH_ALL}\n      - {ENTRY}"),
    ],
    ids=["no outcome fits", "no such name", "a catch-all that comes first"],
)  # fmt: skip
def test_a_delete_that_only_asks_fails(old: str, new: str) -> None:
    """It finds, and never sends the request proper."""
    with pytest.raises(AssertionError, match="kitdoc0001 is deleted, it says, and no request has the id"):
        asyncio.run(requests.acts_on_what_is_found(finding(old, new)))


@pytest.mark.parametrize(
    "entry",
    [
        '{each: contacts, receiver_id: "{{ result.id }}", outcome: delivered}',
        '{receiver_id: "{{ result.contacts[0].id }}", outcome: delivered}',
    ],
)
def test_a_delete_of_whoever_comes_first_fails(entry: str) -> None:
    """It is right as long as nobody else is found."""
    asyncio.run(requests.acts_on_what_is_found(finding(ENTRY, entry)))
    with pytest.raises(AssertionError, match="It deletes what is found, whosever it is"):
        asyncio.run(requests.leaves_others_alone(finding(ENTRY, entry, "find of the delete")))


def test_an_example_without_the_kits_id_is_said() -> None:
    with pytest.raises(AssertionError, match=r"Write \{\{ found \}\} where the API gives its own"):
        asyncio.run(requests.acts_on_what_is_found(finding("{{ found }}", "47")))


def test_an_update_that_creates_again_is_seen() -> None:
    """The entry is not taken for the document's, and `create` has its key: each delivery would create another."""
    text = changed(CREATING, ("result.external_id", "result.externalId"))

    with pytest.raises(AssertionError, match="no request has the id that was found for it"):
        asyncio.run(requests.acts_on_what_is_found(bench_of(text, "update")))


def test_a_null_in_the_place_of_a_wrapped_value_clears_it() -> None:
    """`phone: null` where a value stands in a list of maps; an empty list would not say so."""
    plain = 'body: {"*": "{{ body }}", external_id:'
    wrapped = (
        """body: {"*": "{{ body }}", phone: "{{ [{'value': body.phone}] if body.phone else none }}", external_id:"""
    )
    asyncio.run(requests.clears_nulls(bench_of(changed(CREATING, (plain, wrapped)), "update")))

    with pytest.raises(AssertionError, match="`phone` of the body is null"):
        asyncio.run(
            requests.clears_nulls(bench_of(changed(CREATING, (plain, wrapped.replace("none", "[]"))), "update"))
        )


# Cases


CASES = """\
  cases:
    - name: gone since it was found
      events: [deleted]
      find: {body: {data: [{id: 9, external_id: kitdoc0001}]}}
      answer: {status: 404}
      outcomes: [delivered]
      requests: [POST /contacts/search, DELETE /contacts/9]
      bodies: [{external_id: kitdoc0001}, null]
      headers: {Accept: application/json}
    - name: created
      find: {body: {data: []}}
      answer: {body: {id: 9}}
      outcomes: [delivered]
      requests: [POST /contacts/search, POST /contacts]
      bodies:
        - {external_id: kitdoc0001}
        - {email: kitdoc0001@example.com, phone: null, plan: {level: 3}, external_id: kitdoc0001, role: user}
    - name: too many requests
      answer: {status: 429, headers: {x-reset: "{{ now + 300 }}"}}
      outcomes: [throttle]
      wait: 5m
    - name: no request is left
      find: {headers: {x-left: "0", x-reset: "{{ now + 300 }}"}, body: {data: []}}
      answer: {body: {id: 9}}
      outcomes: [throttle]
      wait: 5m
    - name: one that is known was merged, and is found by its key
      events: [updated]
      known: "17"
      answer:
        - {status: 410}
        - {body: {data: [{id: 18, external_id: kitdoc0001}]}}
        - {body: {id: 18}}
      outcomes: [delivered]
      requests: [PUT /contacts/17, POST /contacts/search, PUT /contacts/18]
    - name: a null of its own
      body: {email: null, phone: "+{key}"}
      find: {body: {data: []}}
      answer: {body: {id: 9}}
      outcomes: [delivered]
      bodies: [{external_id: kitdoc0001}, {email: null, phone: +kitdoc0001, external_id: kitdoc0001, role: user}]
    - name: no request is left after the last one
      find: {body: {data: []}}
      answer: {headers: {x-left: "0", x-reset: "{{ now + 300 }}"}, body: {id: 9}}
      outcomes: [delivered]
      wait: 5m
"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", ""),
        ("DELETE /contacts/9", "DELETE /contacts/8", r"It should send .*/8, and sends .*, DELETE /contacts/9"),
        ("answer: {status: 404}", "answer: {status: 409}",
         "It should be delivered, and is refused; it sent POST /contacts/search, DELETE /contacts/9"),
        ("- {body: {data: [{id: 18,", "- {body: {data: [{id: 19,", "It should send .*/18, and sends .*/19"),
        ("known: \"17\"", "known: \"18\"", "It should send PUT /contacts/17, POST .*, and sends PUT /contacts/18"),
        ("{email: null, phone:", "{email: none, phone:", 'sends {"email":"none"'),
        ('answer: {headers: {x-left: "0", x-reset: "{{ now + 300 }}"}, body: {id: 9}}', "answer: {body: {id: 9}}",
         "It should wait for 300 seconds, and does not"),
        ("[{external_id: kitdoc0001}, null]", "[{external_id: kitdoc0002}, null]",
         "POST /contacts/search should send {.*0002.}, and sends {.*0001.}"),
        ("[{external_id: kitdoc0001}, null]", "[{external_id: kitdoc0001}]", "It should send 1 bodies, and sends"),
        ("[{external_id: kitdoc0001}, null]", "[{external_id: kitdoc0001}, {}]",
         "DELETE /contacts/9 should send {}, and sends nothing"),
        ("role: user}", "role: lead}", 'POST /contacts should send .*"lead".*, and sends .*"user"'),
        ("Accept: application/json", "X-Version: 2", "should have the header `x-version: 2`, and has none"),
        ("wait: 5m", "wait: 4m", r"It should wait for 240 seconds, and waits for (299|300)"),
        ("{status: 429, headers: {x-reset: \"{{ now + 300 }}\"}}\n      outcomes: [throttle]",
         "{status: 500}\n      outcomes: [retry]", "It should wait for 300 seconds, and does not"),
        ("outcomes: [delivered]\n      wait: 5m", "outcomes: [delivered]\n      wait: 10m", r"and waits for (299|300)"),
    ],
)  # fmt: skip
def test_a_case_says_what_is_sent_and_how_long_is_waited(old: str, new: str, fault: str) -> None:
    remembering = changed(CREATING, ("  find: &find\n", "  find: &find\n    remember: true\n"))
    bench = bench_of(remembering + changed(CASES, (old, new)))

    async def run() -> None:
        for case in bench.trial.cases:
            await run_case(bench, case)

    with pytest.raises(AssertionError, match=fault) if fault else nullcontext():
        asyncio.run(run())
