"""Durations as YAML has them, read and said."""

import pytest

from hub.project.yaml_fields import duration, duration_text


@pytest.mark.parametrize("text", ["30d", "1h", "36h", "90m", "5s", "0.5s", "36500d", "0s"])
def test_a_duration_is_said_as_it_is_written(text: str) -> None:
    """And read back as it is said."""
    seconds = duration(text)

    assert seconds is not None
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(3600.0, "1h"), (86400.0, "1d"), (5400.0, "90m"), (129600.0, "36h")])
def test_a_duration_is_said_without_a_fraction(seconds: float, text: str) -> None:
    """In the largest unit that needs none."""
    assert duration_text(seconds) == text
