"""A check rule: one kind of mistake, as data. Each stands in a file of its own in ``rules/``."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from chimera.check.context import Context
from chimera.check.finding import Finding, Severity


@dataclass(frozen=True)
class Rule:
    """One kind of mistake.

    Attributes:
        name: what a finding and ``# chimera: ignore[...]`` call it.
        severity: of its findings, unless one says another.
        what: what is looked for, in a sentence.
        why: what follows from it.
        mend: what to write instead, in general.
        before: a file with a class ``Net`` that makes the mistake.
        after: the same, mended.
        find: from a context to the places where the mistake is made.
    """

    name: str
    severity: Severity
    what: str
    why: str
    mend: str
    before: str
    after: str
    find: "Callable[[Context], Iterable[Place]]"

    def findings(self, context: Context) -> Iterable[Finding]:
        """What the rule finds."""
        for place in self.find(context):
            yield Finding(
                rule=self.name,
                severity=place.severity or self.severity,
                path=place.path,
                message=place.message,
                why=place.why or self.why,
                mend=place.mend or self.mend,
                file=place.file,
                line=place.line,
            )


@dataclass(frozen=True)
class Place:
    """Where a mistake was found. What is None is as the rule says in general."""

    path: str
    message: str
    file: str | None = None
    line: int | None = None
    severity: Severity | None = None
    why: str | None = None
    mend: str | None = None


@cache
def all_rules() -> Mapping[str, Rule]:
    """Every rule by name: the ``RULE`` of each file in ``rules/``."""
    from chimera.check import rules

    found = {}
    for entry in pkgutil.iter_modules(rules.__path__):
        rule = importlib.import_module(f"{rules.__name__}.{entry.name}").RULE
        assert isinstance(rule, Rule)
        assert rule.name == entry.name.replace("_", "-")
        found[rule.name] = rule
    return MappingProxyType(found)
