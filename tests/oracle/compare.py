"""The judgement: is every version of the journal what SQL said at its own commit, and is none missing or too many?

A commit is named by its place in the history, 0 standing for the state that the snapshot read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

from tests.oracle.journal import Version, parse
from tests.oracle.truth import Documents
from tests.oracle.writer import Commit

Name = tuple[str, str]  # entity and key

LOST = "a commit changed it, and no version stands for it"


@dataclass(frozen=True)
class Change:
    """A commit at which a document was no longer what it had been."""

    commit: int
    document: str | None  # from here on; None: absent


@dataclass
class History:
    """The truth at every commit, kept as differences."""

    commits: list[Commit] = field(default_factory=lambda: [Commit(0, False, ("the snapshot",))])
    changes: dict[Name, list[Change]] = field(default_factory=dict)
    reach: list[int] = field(default_factory=lambda: [0])  # by commit: documents that it could have reached at most
    now: dict[Name, str] = field(default_factory=dict)
    hidden: int = 0  # root rows that count as absent, as of now

    def begin(self, state: Mapping[str, Documents], hidden: int = 0) -> None:
        """What the snapshot will find."""
        self._change(0, _flat(state))
        self.hidden = hidden

    def record(self, commit: Commit, state: Mapping[str, Documents], hidden: int = 0) -> None:
        """What SQL returns right after `commit`."""
        fresh = _flat(state)
        self.reach.append(len(self.now.keys() | fresh.keys()) + self.hidden + hidden)
        self.hidden = hidden
        self.commits.append(commit)
        self._change(len(self.commits) - 1, fresh)

    def _change(self, index: int, fresh: dict[Name, str]) -> None:
        for name in self.now.keys() | fresh.keys():
            if not same_text(self.now.get(name), fresh.get(name)):
                self.changes.setdefault(name, []).append(Change(index, fresh.get(name)))
        self.now = fresh

    def at(self, name: Name, commit: int) -> str | None:
        """The document as of a commit."""
        past = [change.document for change in self.changes.get(name, ()) if change.commit <= commit]
        return past[-1] if past else None

    def by_transaction(self) -> dict[int, int]:
        return {commit.transaction: index for index, commit in enumerate(self.commits) if commit.transaction}


@dataclass(frozen=True)
class Finding:
    """One way in which the journal differs from the truth."""

    name: Name
    what: str
    commit: int | None = None
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([f"{self.name[0]} {self.name[1]}: {self.what}", *self.details])


def judge(history: History, journal: Iterable[Version], fan_out: int = 1000) -> list[Finding]:
    """All findings.

    A commit may merge with later ones only if it truncates or could reach over `fan_out` documents, or if it is the
    snapshot. A version that stands for merged commits must name each of them that changed its document.
    """
    found: dict[Name, list[Version]] = {}
    for version in journal:
        found.setdefault((version.entity, version.key), []).append(version)
    commits = history.by_transaction()
    # The snapshot's own transaction stands for the state that it read.
    commits |= {one.transaction: 0 for own in found.values() for one in own if one.cause == "snapshot"}

    def wide(index: int) -> bool:
        return index == 0 or (history.commits[index].truncated or history.reach[index] > fan_out)

    findings: list[Finding] = []
    for name in sorted(history.changes.keys() | found.keys()):
        findings += _Trial(history, name, commits, wide).judge(found.get(name, []))
    return findings


def judge_end(end: Mapping[str, Documents], journal: Iterable[Version]) -> list[Finding]:
    """Whether the newest versions are the documents there are, and whether versions count 1, 2, 3 with differences."""
    found: dict[Name, list[Version]] = {}
    for version in journal:
        found.setdefault((version.entity, version.key), []).append(version)
    now = _flat(end)
    findings: list[Finding] = []
    for name in sorted(now.keys() | found.keys()):
        own = found.get(name, [])
        findings += _numbering(name, own)
        newest = own[-1].body if own else None
        if not same_text(now.get(name), newest):
            findings.append(Finding(name, "the newest version is not what is there", None, diff(now.get(name), newest)))
    return findings


@dataclass
class _Trial:
    """One document's versions before its history."""

    history: History
    name: Name
    commits: Mapping[int, int]  # place in the history by transaction id
    wide: Callable[[int], bool]
    findings: list[Finding] = field(default_factory=list)
    seen: int = -1  # the newest commit that a version has named
    body: str | None = None  # of the version before

    def judge(self, versions: Sequence[Version]) -> list[Finding]:
        self.findings += _numbering(self.name, versions)
        for version in versions:
            if named := self._named(version):
                self._one(version, named)
        self._nothing_after()
        return self.findings

    def _one(self, version: Version, named: set[int]) -> None:
        newest = max(named)
        if newest <= self.seen:
            self._find("one more version for a commit that has one already, or an older one", newest)
            return
        self._merging(version, named)
        truth = self.history.at(self.name, newest)
        if not same_text(truth, version.body):
            self._find(f"version {version.version} is not what SQL says", newest, diff(truth, version.body))
        if version.event != _event(self.body, version.body):
            self._find(f"version {version.version} is called {version.event}", newest)
        self._nothing_between(newest, named)
        self.seen, self.body = newest, version.body

    def _named(self, version: Version) -> set[int]:
        unknown = {version.transaction, *version.merged} - self.commits.keys()
        if unknown or version.cause not in ("row", "snapshot"):
            self._find(f"version {version.version} has cause {version.cause} and unknown transactions {unknown}")
            return set()
        return {self.commits[transaction] for transaction in (version.transaction, *version.merged)}

    def _merging(self, version: Version, named: set[int]) -> None:
        if self.commits[version.transaction] != max(named):
            self._find(f"version {version.version} names a later commit among those merged into it", max(named))
        if len(named) > 1 and not self.wide(min(named)):
            self._find(f"version {version.version} merges a commit that reaches few documents", min(named))

    def _nothing_between(self, before: int, named: set[int]) -> None:
        """Every difference since the last version is this one's, or cancelled by what was merged with it."""
        changes = self._differences(before)
        missed = [change for change in changes[self._cancelled(changes) :] if change.commit not in named]
        for change in missed:
            self._find(LOST, change.commit, diff(change.document, self.body))

    def _nothing_after(self) -> None:
        """The last version is what is there at the end."""
        changes = self._differences(len(self.history.commits))
        for change in changes[self._cancelled(changes) :]:
            self._find(LOST, change.commit, diff(change.document, self.body))

    def _differences(self, before: int) -> list[Change]:
        changes = self.history.changes.get(self.name, ())
        return [change for change in changes if self.seen < change.commit < before]

    def _cancelled(self, changes: Sequence[Change]) -> int:
        """How many of the first could be merged and together are no difference: the document is again as it was."""
        if not changes or not self.wide(changes[0].commit):
            return 0
        again = [count for count, change in enumerate(changes, 1) if same_text(change.document, self.body)]
        return again[-1] if again else 0

    def _find(self, what: str, commit: int | None = None, details: tuple[str, ...] = ()) -> None:
        if commit is not None:
            one = self.history.commits[commit]
            details = (*details, f"commit {commit}, transaction {one.transaction}:", *one.statements)
        self.findings.append(Finding(self.name, what, commit, details))


def _numbering(name: Name, versions: Sequence[Version]) -> Iterator[Finding]:
    numbers = [version.version for version in versions]
    if numbers != list(range(1, len(numbers) + 1)):
        yield Finding(name, f"versions are numbered {numbers}")
    for one, next_ in pairwise(versions):
        # Postgres prints a double's -0 as such, and so it is another document than 0.
        if same_text(one.body, next_.body) and not _differ_by_a_sign(one.body, next_.body):
            yield Finding(name, f"version {next_.version} does not differ from the one before")


def _event(before: str | None, after: str | None) -> str:
    return "created" if before is None else "deleted" if after is None else "updated"


def _flat(state: Mapping[str, Documents]) -> dict[Name, str]:
    return {(entity, key): text for entity, found in state.items() for key, text in found.items()}


def _differ_by_a_sign(one: str | None, other: str | None) -> bool:
    return (one or "").count("-0.0") != (other or "").count("-0.0")


def same_text(one: str | None, other: str | None) -> bool:
    """Whether two JSON texts hold the same value."""
    if one == other or one is None or other is None:
        return one == other
    return same(parse(one), parse(other))


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: numbers exactly, true is not 1, the order of an object's keys does not matter."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    return type(one) is type(other) and bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def diff(expected: str | None, actual: str | None) -> tuple[str, ...]:
    """One line for each place where two documents differ."""
    if expected is None or actual is None:
        return (f"SQL: {_cut(expected)}", f"hub: {_cut(actual)}")
    return tuple(_diff("", parse(expected), parse(actual)))[:12]


def _diff(path: str, expected: Any, actual: Any) -> Iterator[str]:
    if same(expected, actual):
        return
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted(expected.keys() | actual.keys()):
            yield from _diff(f"{path}.{key}", expected.get(key, "(missing)"), actual.get(key, "(missing)"))
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from _diff(f"{path}[{index}]", one, other)
    else:
        yield f"{path or 'document'}: SQL {_cut(repr(expected))}"
        yield f"{' ' * len(path or 'document')}  hub {_cut(repr(actual))}"


def _cut(text: str | None) -> str:
    return "absent" if text is None else text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"
