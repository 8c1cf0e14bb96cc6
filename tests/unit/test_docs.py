"""What the pages show exists: every `hub` command line by click's own parser, every link, every file that is named."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.command_lines import parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _shown(page: Path) -> Iterator[str]:
    """Command lines of the shell blocks."""
    for block in re.findall(r"^```(?:sh|bash)?\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        yield from (line for line in block.replace("\\\n", " ").splitlines() if line.startswith("hub "))


def _mentioned(page: Path) -> Iterator[str]:
    """Those in the text, between backticks."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(line.split()) for line in re.findall(r"`(hub [^`]+)`", text))


SHOWN = sorted({(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in _shown(page)})
MENTIONED = sorted({(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in _mentioned(page)})


def _parse(line: str) -> None:
    parse(shlex.split(line.split(" | ")[0], comments=True)[1:])


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_command_lines_that_are_shown_parse(page: str, line: str) -> None:
    """Commands, arguments, options and their values are taken."""
    try:
        _parse(line)
    except click.UsageError as error:
        pytest.fail(f"{page}: {line}\n{error.format_message()}", pytrace=False)


@pytest.mark.parametrize(("page", "line"), MENTIONED)
def test_command_lines_that_are_mentioned_exist(page: str, line: str) -> None:
    """The same, but for arguments that are left out and names that stand for something."""
    if re.match(r"hub (\[|COMMAND)", line):
        return
    try:
        _parse(line.rstrip("…"))
    except click.MissingParameter:
        pass
    except click.UsageError as error:
        pytest.fail(f"{page}: {line}\n{error.format_message()}", pytrace=False)


def test_there_are_command_lines() -> None:
    """The pages have been read."""
    assert len(SHOWN) > 40 and len(MENTIONED) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading of it."""
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if target and "://" not in target:
            assert (page.parent / target).exists(), target
    headings = {_anchor(line) for line in re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", page.read_text("utf-8"))) <= headings


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


def test_the_index_has_every_page() -> None:
    """So that each can be found."""
    index = (ROOT / "docs/index.md").read_text("utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES[1:] if path.name != "index.md"]

    assert [page for page in pages if f"({page})" not in index] == []


def test_the_architecture_names_files_that_exist() -> None:
    """A module that is moved is moved there too."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = re.findall(r"`((?:hub|cdc|connectors|migrations)/[a-z_/]*(?:\.py)?)`", text)

    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []
