"""What `check` reports."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""From the worst to the mildest: surely wrong, usually wrong, worth knowing."""


@dataclass(frozen=True)
class Finding:
    """One mistake, or one thing worth knowing.

    Attributes:
        rule: the name of the check rule.
        severity: ``"error"`` (surely wrong), ``"warning"`` (usually) or ``"info"`` (worth knowing).
        path: the path of the module that it is about (``""`` is the root); a class's name where
            there is no module.
        message: what is there.
        why: what follows from it.
        mend: what to write instead.
        file: the source file, where it is known.
        line: the line in it, counted from 1.
    """

    rule: str
    severity: Severity
    path: str
    message: str
    why: str
    mend: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f" ({self.file}:{self.line})" if self.file else ""
        return (
            f"{self.severity} [{self.rule}] at {self.path or 'the root'}{place}\n"
            f"  {self.message}\n"
            f"  why:  {self.why}\n"
            f"  mend: {self.mend}"
        )


def in_order(findings: list[Finding]) -> list[Finding]:
    """The worst first; within a severity in the order in which they were found; each once."""
    return sorted(dict.fromkeys(findings), key=lambda found: SEVERITIES.index(found.severity))
