"""Random damage to a valid project: reading it gives a project or problems with places, and nothing else."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hub.errors import ProjectError
from hub.project import Project
from hub.project.files import load
from tests.unit.test_project_files import ENVIRONMENT, FILES

ROUNDS = 50  # a seed
SCALARS: list[Any] = [None, True, False, 0, -1, 2**70, 1.5]
SCALARS += ["", " ", "x", "on", "5s", "${A}", "${", "$${", "a.b.c", "*", "é\n\t"]
BYTES = [b"\t", b"\x00", b"\xff", b": ", b"- ", b"{", b"]", b"'", b'"', b"&a ", b"*a", b"!!x "]
BYTES += [b"---\n", b"#", b"\r", b"${", b"| ", b"\xc2\x85"]


def spots(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    return [spot for key in keys for spot in [(tree, key), *spots(tree[key])]]


def delete(choose: random.Random, container: Any, key: Any) -> None:
    del container[key]


def retype(choose: random.Random, container: Any, key: Any) -> None:
    value = container[key]
    container[key] = choose.choice([*SCALARS, [value], {"x": value}, [], {}, [[value, value]], {"x": None}])


def duplicate(choose: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, list):
        container.insert(key, container[key])
    else:
        container[f"{key}{choose.choice(['', 's', ' ', '.', '_2'])}"] = container[key]


def rename(choose: random.Random, container: Any, key: Any) -> None:
    if isinstance(container, dict):
        container[choose.choice(SCALARS)] = container.pop(key)


def alias(choose: random.Random, container: Any, key: Any) -> None:
    """A value that is itself inside of it, or used twice."""
    container[key] = choose.choice([container, container[key]])


def damaged_tree(choose: random.Random, text: str, target: Path) -> None:
    """The file with some of its nodes changed."""
    tree = YAML(typ="safe").load(text.replace("${HUB_TOKEN:-}", "secret"))
    mutations: list[Callable[[random.Random, Any, Any], None]] = [delete, retype, duplicate, rename, alias]
    for _ in range(choose.randint(1, 3)):
        places = spots(tree)[:200] if choose.random() < 0.9 else []
        if places:
            choose.choice(mutations)(choose, *choose.choice(places))
    with target.open("w") as file:
        YAML(typ="safe").dump(tree, file)


def damaged_bytes(choose: random.Random, text: str, target: Path) -> None:
    """The file with some of its bytes changed."""
    content = bytearray(text.encode())
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(content) + 1)
        content[at : at + choose.choice([0, 0, 1, 5])] = choose.choice(BYTES)
    target.write_bytes(bytes(content))


def damage(choose: random.Random, directory: Path) -> None:
    for name, text in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    name = choose.choice(list(FILES))
    try:
        choose.choice([damaged_tree, damaged_bytes])(choose, FILES[name], directory / name)
    except RecursionError:  # the damage contains itself: the tool that writes it gives up, as it may
        (directory / name).write_text("a: &a [*a]")


def places_are_inside(directory: Path, error: ProjectError) -> bool:
    for problem in error.problems:
        path = directory / problem.file
        if problem.line:
            lines = path.read_bytes().decode("utf-8", "replace").splitlines() or [""]
            if not (1 <= problem.line <= len(lines) + 1 and problem.column >= 1):
                return False
        if not problem.what.endswith(".") or "\n" in str(problem):
            return False
    return bool(error.problems)


@pytest.mark.parametrize("seed", range(6))
def test_any_damage_is_a_project_or_problems(tmp_path: Path, seed: int) -> None:
    """No damage raises anything but ProjectError, whose places are in the file and whose lines are sentences."""
    choose = random.Random(seed)
    refused = 0
    for round_ in range(ROUNDS):
        directory = tmp_path / str(round_)
        damage(choose, directory)
        try:
            assert isinstance(load(directory, ENVIRONMENT), Project)
        except ProjectError as error:
            refused += 1
            assert places_are_inside(directory, error), f"seed {seed}, round {round_}: {error}"

    assert ROUNDS // 4 < refused <= ROUNDS
