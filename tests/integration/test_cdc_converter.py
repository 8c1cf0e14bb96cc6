"""Debezium's converter is compiled from its source, without a JDK; what its values are, test_cdc_values.py says."""

import zipfile
from pathlib import Path

import pytest

from cdc import converter
from hub.errors import OutsideError

pytestmark = pytest.mark.integration


def test_the_same_source_gives_the_same_jar(tmp_path: Path) -> None:
    """Whole, with its one class, for Java 8 and later: Kafka Connect's runtime may be older than the engine's."""
    made = [tmp_path / "one.jar", tmp_path / "two.jar"]
    for target in made:
        converter.make(converter.SOURCE, target)
    with zipfile.ZipFile(made[0]) as archive:
        (name,) = archive.namelist()
        magic = archive.read(name)[:8]

    assert made[0].read_bytes() == made[1].read_bytes()
    assert name == "hub/DocumentValues.class"
    assert magic == bytes.fromhex("cafebabe00000034")
    assert sorted(tmp_path.iterdir()) == sorted(made)


def test_a_source_that_is_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    """The compiler's words are in the error."""
    broken = tmp_path / "DocumentValues.java"
    broken.write_text(converter.SOURCE.read_text("utf-8").replace("return unavailable;", "return nonsense;"), "utf-8")

    with pytest.raises(OutsideError, match=r"(?s)could not be compiled: .*nonsense"):
        converter.make(broken, tmp_path / "made.jar")
    assert list(tmp_path.iterdir()) == [broken]
