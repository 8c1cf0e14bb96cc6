"""When a stored document equals the live one."""

from decimal import Decimal

from hub.documents import decode, encode
from hub.operate.verify import plain


def test_equal_json_is_no_difference_however_it_is_written() -> None:
    """A double by Debezium and by SQL, and the keys of an hstore."""
    stored = (
        b'{"a":9007199254740992.0,"b":-0.0,"c":1.0E20,"d":1.0E-7,"e":[{"y":null,"x":0.10}],"f":1.7976931348623157E308}'
    )
    live = b'{"a":9007199254740992,"b":-0,"c":1e+20,"d":1e-07,"e":[{"x":0.1,"y":null}],"f":1.7976931348623157e+308}'

    assert encode(plain(decode(stored))) == encode(plain(decode(live)))


def test_every_digit_and_every_type_counts() -> None:
    digits = "0.1234567890123456789012345678901234567890"

    assert plain(Decimal(digits)) != plain(Decimal(digits[:-2]))
    assert plain(Decimal("1e999999999")) == Decimal("1e999999999")
    assert encode(plain([True, "1.0", 1])) == b'[true,"1.0",1]'
