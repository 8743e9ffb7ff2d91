"""What a project has set for ``chimera check``: the table ``[tool.chimera.check]``."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chimera.cli.mistake import Mistake

FORMATS = ("text", "json", "github")
LIMITS = ("error", "warning", "info", "never")


@dataclass(frozen=True)
class CheckSettings:
    """The table: ``ignore``, ``fail-on`` and ``format``; None is not set."""

    ignore: tuple[str, ...] = ()
    fail_on: str | None = None
    format: str | None = None


def project_settings(start: Path) -> CheckSettings:
    """The table of the first ``pyproject.toml`` in the directory ``start`` or above it.

    Raises:
        Mistake: the file is no TOML, or the table holds something that is unknown.
    """
    for directory in (start.resolve(), *start.resolve().parents):
        file = directory / "pyproject.toml"
        if file.is_file():
            return _read(file)
    return CheckSettings()


def _read(file: Path) -> CheckSettings:
    try:
        content = tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Mistake(f"{file}: {error}") from error
    table: Any = content
    for name in ("tool", "chimera", "check"):
        table = table.get(name, {}) if isinstance(table, dict) else table
    where = f"{file}: [tool.chimera.check]"
    if not isinstance(table, dict):
        raise Mistake(f"{where} must be a table; got {table!r}")
    for key in table:
        if key not in ("ignore", "fail-on", "format"):
            raise Mistake(f"{where} has no key {key!r}; there are: ignore, fail-on, format")
    ignore = table.get("ignore", [])
    if not isinstance(ignore, list) or not all(isinstance(name, str) for name in ignore):
        raise Mistake(f"{where} ignore must be a list of names of rules; got {ignore!r}")
    return CheckSettings(
        tuple(ignore),
        _one_of(table, "fail-on", LIMITS, where),
        _one_of(table, "format", FORMATS, where),
    )


def _one_of(table: dict[str, Any], key: str, allowed: tuple[str, ...], where: str) -> str | None:
    value = table.get(key)
    if value is not None and value not in allowed:
        raise Mistake(f"{where} {key} must be one of {', '.join(allowed)}; got {value!r}")
    return value
