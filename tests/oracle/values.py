"""Column types: how each is declared, what random values it takes, and its row of the contract's value table.

A value is the text that Postgres reads, or None. `document` is the SQL expression of the contract's value table; the
truth is built with it, so it is written here once more and not taken from the hub.
"""

import json
import string
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

# U+FFFF and U+1F600 come in one order by code point and in the other by UTF-16.
WORDS = (
    "", "a", "A", "b", "Ab", "aB", "é", "z", "Z", "ß", "œuvre", "日本", "\U0001f600", "\uffff", "a b", " lead", "tail ",
    "O'Hara",
)  # fmt: skip
AWKWARD = ('"', "\\", "\n", "\t", "{x}", "%s", "null", "NULL", "\u0001", "\u2028", "é", "$1", "<a&b>", "[1,2]", "-0")


def plain(column: str) -> str:
    return f"to_json({column})"


def as_text(column: str) -> str:
    return f"to_json({column}::text)"


def as_texts(column: str) -> str:
    return f"to_json({column}::text[])"


def each(element: str) -> Callable[[str], str]:
    """The expression of a one-dimensional array, from that of its elements, where `{}` stands for one."""

    def expression(column: str) -> str:
        agg = f"select json_agg({element.format('e.v')} order by e.i) from unnest({column}) with ordinality as e(v, i)"
        return f"case when {column} is null then null else coalesce(({agg}), '[]'::json) end"

    return expression


TIMESTAMPTZ = (
    "case when isfinite({0}) then to_json((to_json({0} at time zone 'UTC') #>> '{{}}') || 'Z') "
    "else to_json({0}::text) end"
)


@dataclass(frozen=True)
class Type:
    """A column type, as an entity's author would meet it."""

    sql: str
    value: Callable[[Random], str]
    document: Callable[[str], str]  # from a column reference to the SQL of its JSON value
    key: bool = False  # fit for a primary, foreign or unique key
    orderable: bool = False  # fit for order_by: its SQL order is the contract's
    textual: bool = False  # ordered by code point
    contrib: str = ""  # the extension that it needs


def integers(low: int, high: int) -> Callable[[Random], str]:
    return lambda rng: str(rng.choice((rng.randint(0, 3), rng.randint(0, 3), rng.randint(low, high), low, high)))


def choice(*values: str) -> Callable[[Random], str]:
    return lambda rng: rng.choice(values)


def words(rng: Random) -> str:
    return "".join(rng.choice(WORDS if rng.random() < 0.8 else AWKWARD) for _ in range(rng.randint(1, 3)))


def decimals(rng: Random) -> str:
    digits = rng.choice((1, 3, 9, 30))
    return f"{rng.choice(('', '-'))}{rng.randrange(10**digits)}.{rng.randrange(1000):03d}"[: digits + 3].rstrip(".")


def floats(rng: Random) -> str:
    return rng.choice(("NaN", "Infinity", "-Infinity", "0", "-0", "0.1", "1e20", "1e-7", repr(rng.uniform(-1e6, 1e6))))


def doubles(rng: Random) -> str:
    return rng.choice((floats(rng), "1.7976931348623157e308", "5e-324", "9007199254740993", "0.30000000000000004"))


def dates(rng: Random) -> str:
    return f"20{rng.randint(10, 40)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def days(rng: Random) -> str:
    return rng.choice((dates(rng), dates(rng), dates(rng), "1582-10-10", "0001-01-01", "9999-12-31", "infinity"))


def clock(rng: Random) -> str:
    fraction = rng.choice(("", ".5", ".120", ".000001", f".{rng.randrange(10**6):06d}"))
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}{fraction}"


def times(rng: Random) -> str:
    return rng.choice((clock(rng), clock(rng), "00:00:00", "24:00:00"))


def moments(rng: Random) -> str:
    day = rng.choice((dates(rng), dates(rng), "1883-11-18", "0099-01-01", "9999-12-31"))
    return f"{day} {clock(rng)}" if rng.random() < 0.95 else rng.choice(("infinity", "-infinity"))


def offset(rng: Random) -> str:
    return rng.choice(("+00", "+02", "-05:30", "+14"))


def zoned(rng: Random) -> str:
    moment = moments(rng)
    return moment if "inf" in moment else moment + offset(rng)


def intervals(rng: Random) -> str:
    parts = (f"{rng.randint(-3, 14)} mons", f"{rng.randint(-40, 40)} days", rng.choice(("", "-")) + clock(rng))
    return rng.choice((" ".join(parts), *parts, "0", "1 year 2 mons"))


def json_value(rng: Random, depth: int = 2) -> str:
    """JSON text; numbers beyond any float among it."""
    leaf = (
        "null", "true", "false", "0", str(rng.randint(-5, 5)), "12345678901234567890123456789.123456789",
        "0.1", "1e400", "9007199254740993", json.dumps(rng.choice(WORDS), ensure_ascii=rng.random() < 0.5),
    )  # fmt: skip
    kind = rng.random() if depth else 1.0
    if kind < 0.4:
        names = rng.sample(("a", "b", "é", "Long name", "1", ""), rng.randint(0, 3))
        return "{" + ", ".join(f"{json.dumps(name)}: {json_value(rng, depth - 1)}" for name in names) + "}"
    if kind < 0.6:
        return "[" + ",".join(json_value(rng, depth - 1) for _ in range(rng.randint(0, 3))) + "]"
    return rng.choice(leaf)


def uuids(rng: Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def octets(rng: Random) -> str:
    return "\\x" + rng.randbytes(rng.choice((0, 1, 3, 57, 58, 200))).hex()


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def array(element: Callable[[Random], str], *, dimensions: int = 2) -> Callable[[Random], str]:
    def one(rng: Random) -> str:
        return "NULL" if rng.random() < 0.15 else quoted(element(rng))

    def value(rng: Random) -> str:
        width = rng.randint(0, 3)
        if dimensions > 1 and width and rng.random() < 0.25:
            rows = ("{" + ",".join(one(rng) for _ in range(width)) + "}" for _ in range(rng.randint(1, 2)))
            return "{" + ",".join(rows) + "}"
        return "{" + ",".join(one(rng) for _ in range(width)) + "}"

    return value


def pairs(rng: Random) -> str:
    names = rng.sample(("a", "b", "c d", "é", 'q"'), rng.randint(0, 3))
    return ", ".join(f"{quoted(name)}=>{'NULL' if rng.random() < 0.3 else quoted(words(rng))}" for name in names)


def bulk(rng: Random) -> str:
    """Text that no compression brings below the limit at which Postgres stores it out of line."""
    return "".join(rng.choices(string.ascii_letters + string.digits + "éß", k=rng.choice((2500, 6000))))


def bulk_json(rng: Random) -> str:
    return json.dumps({"bulk": bulk(rng), "n": rng.randint(0, 9)}, ensure_ascii=False)


def sometimes(rare: Callable[[Random], str], usual: Callable[[Random], str]) -> Callable[[Random], str]:
    return lambda rng: (rare if rng.random() < 0.5 else usual)(rng)


INTEGER = Type("integer", integers(-(2**31), 2**31 - 1), plain, key=True, orderable=True)
BIGINT = Type("bigint", integers(-(2**63), 2**63 - 1), plain, key=True, orderable=True)
TEXT = Type("text", words, as_text, key=True, orderable=True, textual=True)
UUID = Type("uuid", uuids, as_text, key=True, orderable=True)
DATE = Type("date", days, as_text, orderable=True)
KEY_DATE = Type("date", dates, as_text, key=True, orderable=True)
COUNTRY = Type("character(2)", choice("FR", "BE", "DE", "f", "é"), as_text, key=True, orderable=True, textual=True)
CODE = Type("character varying(20)", words, as_text, key=True, orderable=True, textual=True)
NUMBER = Type("numeric(9,2)", lambda rng: f"{rng.randint(-9, 999)}.{rng.choice(('00', '50', '07'))}", as_text, key=True,
              orderable=True)  # fmt: skip
TIMESTAMPTZ_TYPE = Type("timestamp with time zone", zoned, TIMESTAMPTZ.format, orderable=True)

DATA = (
    INTEGER, BIGINT, TEXT, UUID, DATE, CODE, NUMBER, TIMESTAMPTZ_TYPE,
    Type("smallint", integers(-(2**15), 2**15 - 1), plain, orderable=True),
    # to_json alone quotes an oid; the contract says number.
    Type("oid", integers(0, 2**32 - 1), lambda column: f"to_json({column}::bigint)"),
    Type("numeric", sometimes(decimals, choice("NaN", "1.0", "1.00", "0", "-0.50", "1e3")), as_text, orderable=True),
    Type("amount", lambda rng: f"{rng.randint(-999, 999)}.{rng.randint(0, 9)}", as_text, orderable=True),
    Type("label", words, as_text),
    Type("money", lambda rng: f"{rng.randint(-9999, 9999)}.{rng.randint(0, 99):02d}",
         lambda column: f"to_json({column}::numeric::text)"),
    Type("real", floats, plain),
    Type("double precision", doubles, plain, orderable=True),
    Type("boolean", choice("true", "false"), plain, orderable=True),
    Type("character(5)", choice("", "a", "abc", "12345", "é é"), as_text),
    Type("name", choice("n", "A name", "é"), as_text),
    Type("citext", words, as_text, contrib="citext"),
    Type("hstore", pairs, lambda column: f"hstore_to_json({column})", contrib="hstore"),
    Type("mood", choice("sad", "ok", "Happy day"), as_text),
    Type("inet", choice("10.0.0.1", "10.1.2.3/8", "::1", "2001:db8::/32"), as_text),
    Type("cidr", choice("10.0.0.0/8", "::/0"), as_text),
    Type("macaddr", choice("08:00:2b:01:02:03"), as_text),
    Type("int4range", choice("[1,5)", "(,3]", "empty", "[2,2]"), as_text),
    Type("daterange", choice("[2024-01-01,2024-02-01)", "empty", "[2024-01-01,)"), as_text),
    Type("bit(4)", choice("0000", "1010"), as_text),
    Type("bit varying(9)", choice("", "1", "010101010"), as_text),
    Type("xml", choice("<a>1</a>", "text", '<b x="é"/>'), as_text),
    Type("time", times, as_text),
    Type("time with time zone", lambda rng: clock(rng) + offset(rng),
         lambda column: f"to_json(({column} at time zone 'UTC')::time::text || 'Z')"),
    Type("timestamp", moments, plain, orderable=True),
    Type("interval", intervals, as_text),
    Type("json", json_value, lambda column: column),
    Type("jsonb", json_value, lambda column: column),
    Type("bytea", octets, lambda column: f"to_json(replace(encode({column}, 'base64'), E'\\n', ''))"),
    Type("integer[]", array(integers(-(2**31), 2**31 - 1)), plain),
    Type("text[]", array(words), as_texts),
    Type("numeric[]", array(decimals), as_texts),
    Type("boolean[]", array(choice("t", "f")), plain),
    Type("uuid[]", array(uuids), as_texts),
    Type("date[]", array(dates), as_texts),
    Type("double precision[]", array(doubles), plain),
    Type("jsonb[]", array(json_value, dimensions=1), plain),
    Type("timestamp with time zone[]", array(zoned, dimensions=1), each(TIMESTAMPTZ)),
)  # fmt: skip

# Values so long that Postgres stores them out of line: an update that leaves them alone does not log them again.
BULK = (
    Type("text", bulk, as_text),
    Type("jsonb", bulk_json, lambda column: column),
    Type("bytea", lambda rng: "\\x" + rng.randbytes(4000).hex(),
         lambda column: f"to_json(replace(encode({column}, 'base64'), E'\\n', ''))"),
    Type("text[]", lambda rng: "{" + bulk(rng) + "," + quoted(words(rng)) + "}", as_texts),
)  # fmt: skip

DECLARATIONS = (
    "create type mood as enum ('sad', 'ok', 'Happy day')",
    "create domain amount as numeric(10,2)",
    "create domain label as text",
)
