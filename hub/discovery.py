"""How a connector is found by its name: in the project, in the hub itself, in an installed package.

    connectors/NAME.yaml    a declarative definition                  } of the project directory,
    connectors/NAME.py      a module with CONNECTOR, a ConnectorKind  } and of the hub's own package
    entry point NAME of the group `hub.connectors`: a ConnectorKind, or a module that has it as CONNECTOR

A name is given once: who brings another `http` is told so, instead of one of the two being taken silently.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from hub.connector import ConnectorKind
from hub.errors import InputError, Problem, ProjectError
from hub.project.suggestions import did_you_mean
from hub.project.yaml_fields import NAME

GROUP = "hub.connectors"  # of entry points
FOLDER = "connectors"  # of a project

ReadDefinition = Callable[[str, bytes], ConnectorKind[Any]]  # of the file's name and content; ProjectError


class UnknownConnector(InputError):
    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"There is no connector {name!r}.", did_you_mean(name, known))


@dataclass(frozen=True, slots=True)
class Found:
    """A connector that has not been loaded yet."""

    name: str
    origin: str  # "hub", "project", or the package that brings it
    place: str  # the file as messages name it, or the entry point
    load: Callable[[], ConnectorKind[Any]]


class Connectors:
    """All connectors of a project, each loaded when it is first asked for."""

    def __init__(self, package: ModuleType, read_definition: ReadDefinition, directory: Path | None) -> None:
        """`package`: the hub's own; `directory`: the project's, None without one."""
        self._package = package
        self._folder = Path(package.__path__[0]).resolve()
        self._read_definition = read_definition
        self._directory = directory
        self._loaded: dict[str, ConnectorKind[Any]] = {}

    def __call__(self, name: str) -> ConnectorKind[Any]:
        """InputError when there is none of that name, or when it cannot be loaded."""
        if name not in self._loaded:
            found = self.found()
            if name not in found:
                raise UnknownConnector(name, sorted(found))
            self._loaded[name] = found[name].load()
        return self._loaded[name]

    def found(self) -> dict[str, Found]:
        """By name. InputError when a name is given twice, or is none."""
        found: dict[str, Found] = {}
        for one in (*self._of_hub(), *self._of_project(), *self._of_packages()):
            if not NAME.fullmatch(one.name):
                raise _wrong(one.place, f"{one.name!r} is not a name for a connector.", "Use letters, digits, - and _.")
            if one.name in found:
                first = found[one.name]
                what = f"The connector {one.name!r} is already given by {first.place} ({first.origin})."
                raise _wrong(one.place, what, "Rename it.")
            found[one.name] = one
        return found

    def _of_hub(self) -> list[Found]:
        paths = sorted(self._folder.glob("*.yaml"))
        found = [self._definition("hub", path, f"{FOLDER}/{path.name}") for path in paths]
        for path in sorted(self._folder.glob("*.py")):
            if "\nCONNECTOR = " in path.read_text("utf-8"):  # asked of the text: importing all of them takes a second
                load = _Module(f"{self._package.__name__}.{path.stem}", f"{FOLDER}/{path.name}", None)
                found.append(Found(path.stem, "hub", f"{FOLDER}/{path.name}", load))
        return found

    def _of_project(self) -> list[Found]:
        if self._directory is None or (folder := (self._directory / FOLDER).resolve()) == self._folder:
            return []  # without a project, or in the hub's own working copy
        found = []
        for path in sorted(folder.glob("*")):
            place = f"{FOLDER}/{path.name}"
            if path.suffix == ".yml":
                raise _wrong(place, "Files of a project end in .yaml.", f"Rename it to {path.stem}.yaml.")
            if path.suffix == ".yaml":
                found.append(self._definition("project", path, place))
            elif path.suffix == ".py" and not path.name.startswith("_"):
                load = _Module(f"hub_project_connectors_{path.stem}", place, path)
                found.append(Found(path.stem, "project", place, load))
        return found

    def _definition(self, origin: str, path: Path, place: str) -> Found:
        def load() -> ConnectorKind[Any]:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise _wrong(place, f"The file cannot be read: {error.strerror}.", "Make it readable.") from None
            return self._read_definition(place, content)

        return Found(path.stem, origin, place, load)

    def _of_packages(self) -> list[Found]:
        return [
            Found(point.name, point.dist.name if point.dist else "a package", point.value, _EntryPoint(point))
            for point in entry_points(group=GROUP)
        ]


@dataclass(frozen=True, slots=True)
class _Module:
    """Loads a Python connector."""

    name: str  # as it is imported
    place: str
    path: Path | None  # of a file that is in no package

    def __call__(self) -> ConnectorKind[Any]:
        try:
            module = importlib.import_module(self.name) if self.path is None else _execute(self.name, self.path)
        except Exception as error:  # it is the integrator's code: whatever it raises is said with its place
            raise _not_loaded(self.place, self.path, error) from error
        return _kind_of(module, self.place)


@dataclass(frozen=True, slots=True)
class _EntryPoint:
    """Loads a connector of an installed package."""

    point: EntryPoint

    def __call__(self) -> ConnectorKind[Any]:
        try:
            loaded = self.point.load()
        except Exception as error:
            raise _not_loaded(self.point.value, None, error) from error
        return loaded if isinstance(loaded, ConnectorKind) else _kind_of(loaded, self.point.value)


def _execute(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # msgspec looks a class's annotations up there
    spec.loader.exec_module(module)
    return module


def _kind_of(module: Any, place: str) -> ConnectorKind[Any]:
    kind = getattr(module, "CONNECTOR", None)
    if not isinstance(kind, ConnectorKind):
        what = "It has no CONNECTOR, which is how a Python connector is offered."
        raise _wrong(place, what, "End it with CONNECTOR = ConnectorKind(Settings, Connector).")
    return kind


def _not_loaded(place: str, path: Path | None, error: Exception) -> ProjectError:
    if isinstance(error, SyntaxError):
        return _wrong(place, f"This is not Python: {error.msg}.", "Correct the line.", error.lineno or 0)
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    said = str(error).rstrip(".") or type(error).__name__
    remedy = "Install what it imports, or correct the line."
    return _wrong(place, f"It cannot be loaded: {type(error).__name__}: {said}.", remedy, lines[-1] if lines else 0)


def _wrong(place: str, what: str, remedy: str, line: int = 0) -> ProjectError:
    return ProjectError([Problem(place, line, 0, what, remedy)])
