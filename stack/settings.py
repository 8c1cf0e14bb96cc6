"""The versions and settings that the local stack and the containers share."""

from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent


def versions() -> dict[str, str]:
    """By name, such as KAFKA_VERSION."""
    return read_properties(HERE / "versions.env")


def read_properties(file: Path) -> dict[str, str]:
    """`name=value` lines; `#` begins a comment line. No continuation lines or escapes, which none of ours has."""
    lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def write_properties(file: Path, values: Mapping[str, str]) -> None:
    file.write_text("".join(f"{name}={value}\n" for name, value in values.items()), "utf-8")
