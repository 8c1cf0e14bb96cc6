"""What people do at the conference, through the legacy application's web API and nothing else.

    python -m examples.conference.traffic http://127.0.0.1:8090 [--calls 100]

Every call here changes something: one call, one transaction at the source.
"""

import argparse
import random
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import httpx

# What the seed holds.
COMPANIES = range(1, 13)
SESSIONS = range(1, 21)
CUSTOMERS = tuple(number for number in range(1, 51) if number not in (13, 26, 39))  # those three have left
TAGS = ("early-bird", "group", "press", "vip")

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One changing call to the API."""

    says: str  # what somebody does, for people
    method: str
    path: str
    body: dict[str, Any] | None = None


# A script yields calls and is sent their answers.
Script = Generator[Call, Answer, None]


class Refusal(Exception):
    """The application did not do what it was asked."""


class Front:
    """The front end: one connection to the API."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def make(self, call: Call) -> Answer:
        """The answer of a call that was done; Refusal otherwise."""
        response = self._client.request(call.method, call.path, json=call.body)
        if response.is_error:
            raise Refusal(f"{call.method} {call.path} was answered {response.status_code}: {response.text[:200]}")
        answer: Answer = response.json()
        return answer


def play(script: Script, make: Callable[[Call], Answer]) -> int:
    """Run a script to its end; the number of calls it made."""
    calls = 0
    try:
        call = next(script)
        while True:
            calls += 1
            call = script.send(make(call))
    except StopIteration:
        return calls


def showcase() -> Script:
    """A day at the conference: every way in which a document can change, once."""
    ada = (yield Call("Ada signs up", "POST", "/attendees", newcomer("Ada Quince", 3)))["id"]
    bob = (yield Call("and so does her colleague Bob", "POST", "/attendees", newcomer("Bob Quince", 3)))["id"]
    seat = yield Call("Ada takes a seat in session 4", "POST", "/registrations", seat_of(ada, 4))
    lines = [{"session_id": 5, "quantity": 3}, {"session_id": 10, "quantity": 1}]
    basket = {"attendee_id": ada, "lines": lines, "tags": ["early-bird"], "billing_address": {"city": "Gent"}}
    order = (yield Call("Ada orders tickets", "POST", "/orders", basket))["id"]
    yield Call("and pays: the CRM gets the order", "POST", f"/orders/{order}/payment")
    basket = {"attendee_id": bob, "lines": [{"session_id": 11, "quantity": 1}]}
    other = (yield Call("Bob orders one more", "POST", "/orders", basket))["id"]
    yield Call("a line moves to Bob's order: both change", "POST", f"/orders/{order}/lines/2/move", {"order_id": other})
    yield Call("the order gets a tag", "PUT", f"/orders/{order}/tags/vip")
    yield Call("Bob takes over Ada's seat", "POST", f"/registrations/{seat['id']}/transfer", {"attendee_id": bob})
    yield Call("Ada asks for the newsletter", "PATCH", f"/attendees/{ada}", {"newsletter": True})
    yield Call("her company is renamed, wherever it shows", "PATCH", "/companies/3", {"name": "Quince & Sons"})
    yield Call("Ada has had enough of newsletters", "PATCH", f"/attendees/{ada}", {"newsletter": False})
    yield Call("session 4 moves to the big hall", "PATCH", "/sessions/4", {"room": "Big hall"})
    yield Call("and gets one more speaker", "PUT", "/sessions/4/speakers/9")
    yield Call("Ada's order is cancelled: the CRM drops it", "POST", f"/orders/{order}/cancellation")
    yield Call("Bob's order is deleted with its lines", "DELETE", f"/orders/{other}")
    yield Call("attendee 8 leaves (a soft delete)", "DELETE", "/attendees/8")


def newcomer(name: str, company: int | None = None, newsletter: bool = False) -> dict[str, Any]:
    email = name.lower().replace(" ", ".") + "@example.com"
    return {"name": name, "email": email, "company_id": company, "newsletter": newsletter, "interests": ["data"]}


def seat_of(attendee: int, session: int) -> dict[str, int]:
    return {"attendee_id": attendee, "session_id": session}


def visitor(number: int, calls: int) -> Script:
    """Somebody busy: `calls` calls drawn at random, the same for the same number. Each one changes something."""
    draw = random.Random(number)
    unpaid: list[int] = []
    for turn in range(calls):
        kind = draw.choice(("sign up", "order", "order", "pay", "pay", "cancel", "rename", "reschedule", "interest"))
        if kind in ("pay", "cancel") and unpaid:
            order = unpaid.pop(draw.randrange(len(unpaid)))
            step = "payment" if kind == "pay" else "cancellation"
            yield Call(f"{kind} an order", "POST", f"/orders/{order}/{step}")
        elif kind in ("order", "pay", "cancel"):
            unpaid.append((yield Call("order tickets", "POST", "/orders", _basket(draw)))["id"])
        else:
            yield _change(kind, draw, f"{number}.{turn}")


def _basket(draw: random.Random) -> dict[str, Any]:
    lines = [{"session_id": draw.choice(SESSIONS), "quantity": draw.randint(1, 4)} for _ in range(draw.randint(1, 4))]
    return {"attendee_id": draw.choice(CUSTOMERS[10:]), "lines": lines, "tags": draw.sample(TAGS, draw.randint(0, 2))}


def _change(kind: str, draw: random.Random, unique: str) -> Call:
    """One of the smaller changes; `unique` makes sure that it leaves nothing as it was."""
    if kind == "sign up":
        someone = newcomer(f"Visitor {unique}", draw.choice(COMPANIES), draw.random() < 0.5)
        return Call("sign up", "POST", "/attendees", someone)
    if kind == "rename":
        return Call("rename a company", "PATCH", f"/companies/{draw.choice(COMPANIES)}", {"name": f"Company {unique}"})
    if kind == "interest":
        new = {"interests": ["data", unique], "newsletter": draw.random() < 0.5}
        return Call("change interests", "PATCH", f"/attendees/{draw.choice(CUSTOMERS[10:])}", new)
    start = datetime(2027, 3, 1, 9, tzinfo=UTC) + timedelta(seconds=float(unique) * 1000)
    new = {"starts_at": start.isoformat(), "room": f"Room {unique}"}
    return Call("reschedule a session", "PATCH", f"/sessions/{draw.choice(SESSIONS)}", new)


def crowd(url: str, visitors: int, calls: int, first: int = 1) -> int:
    """Several visitors at once, `calls` calls each; how many were done. Refusal when one was not."""

    def visit(number: int) -> int:
        with Front(url) as front:
            return play(visitor(number, calls), front.make)

    with ThreadPoolExecutor(visitors) as pool:
        return sum(pool.map(visit, range(first, first + visitors)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Traffic for the conference's web API.")
    parser.add_argument("url", help="the API's address")
    parser.add_argument("--calls", type=int, default=100, help="how many calls each of the four visitors makes")
    options = parser.parse_args()
    number = random.SystemRandom().randrange(1000, 10**6)  # e-mail addresses must be new
    print(f"{crowd(options.url, 4, options.calls, number)} calls were made.")


if __name__ == "__main__":
    main()
