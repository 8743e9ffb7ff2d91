"""What ``chimera check`` does once its options are read: network, inputs, findings."""

import contextlib
import dataclasses
import difflib
import itertools
import json
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from chimera.build.construct import Factory, construct_without_data
from chimera.check import check as find
from chimera.check.finding import SEVERITIES, Finding
from chimera.check.rule import all_rules
from chimera.cli.annotations import annotation
from chimera.cli.check_settings import CheckSettings, project_settings
from chimera.cli.input_shapes import given_inputs
from chimera.cli.mistake import Mistake
from chimera.cli.module_source import load_factory, source_file
from chimera.cli.settings import check_settings, read_settings
from chimera.cli.verdict import never_ending, verdict

_MOST, _FIRST = 5, 3
"""Of more findings of one kind than the one number, the other is printed in full."""

_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


def run(
    source: str,
    shapes: Sequence[str],
    settings: Sequence[str],
    ignore: Sequence[str],
    form: str | None,
    fail_on: str | None,
) -> int:
    """Print the findings of the network; 1 if one is at or above ``fail_on``, else 0.

    What is None is as the project sets it, else ``"text"`` and ``"error"``.
    """
    # What the file or the network prints must not stand among the findings.
    with contextlib.redirect_stdout(sys.stderr), never_ending(source):
        network = load_factory(source)
        project = project_settings(source_file(source).parent)
        arguments = check_settings(network, read_settings(settings))
        given = given_inputs(shapes)
        made = _made(source, network, arguments)
        found = find(made, given, ignore=_known(ignore, project))
    findings = [_nearby(finding) for finding in found]
    # ":A:" is a name to rich, and becomes a picture, unless it is told.
    console = Console(emoji=False)
    form = form or project.format or "text"
    if form == "json":
        content = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps(content, indent=2))  # noqa: T201
    elif form == "github":
        for finding in findings:
            print(annotation(finding))  # noqa: T201
    else:
        _print(console, source, findings)
    limit = fail_on or project.fail_on or "error"
    if limit == "never":
        return 0
    failing = SEVERITIES[: SEVERITIES.index(limit) + 1]
    return int(any(finding.severity in failing for finding in findings))


def _known(ignore: Sequence[str], project: CheckSettings) -> list[str]:
    """The rules to leave out, of the command line and of the project."""
    for where, names in (("--ignore", ignore), ("[tool.chimera.check] ignore", project.ignore)):
        for name in names:
            if name not in all_rules():
                raise Mistake(f"{where}: there is no check rule {name!r}; near it: {_near(name)}")
    return [*ignore, *project.ignore]


def _near(name: str) -> str:
    close = difflib.get_close_matches(name, all_rules(), n=3, cutoff=0.0)
    return ", ".join(close)


def _nearby(finding: Finding) -> Finding:
    """The finding with its file named from the working directory, where it is in it."""
    if finding.file is None or not Path(finding.file).is_relative_to(Path.cwd()):
        return finding
    return dataclasses.replace(finding, file=str(Path(finding.file).relative_to(Path.cwd())))


def _made(source: str, network: Factory, arguments: dict[str, Any]) -> Factory:
    """What makes the network: ``check`` looks at its constructor, too. One that does not take its
    settings is no network with mistakes: it is told."""
    if not arguments:
        return network
    factory = partial(network, **arguments)
    try:
        construct_without_data(factory)
        return factory
    except Exception as error:
        raise Mistake(f"{source} cannot be made: {verdict(error)[0]}") from error


def _print(console: Console, source: str, findings: Sequence[Finding]) -> None:
    for _, alike in itertools.groupby(findings, lambda finding: (finding.severity, finding.rule)):
        group = list(alike)
        shown = group if len(group) <= _MOST else group[:_FIRST]
        for finding in shown:
            _print_one(console, finding)
        rest = group[len(shown) :]
        if rest:
            places = ", ".join(dict.fromkeys(finding.path or "the root" for finding in rest))
            heading = f"{rest[0].severity} [{rest[0].rule}] {len(rest)} more of this kind"
            console.print(Text(heading, f"bold {_COLOURS[rest[0].severity]}"), soft_wrap=True)
            listed = textwrap.shorten(places, 240, placeholder=" ... (--format json has all)")
            _print_lines(console, [f"  at {listed}"])
            console.print()
    counts = dict.fromkeys(SEVERITIES, 0)
    for finding in findings:
        counts[finding.severity] += 1
    told = ", ".join(_counted(severity, count) for severity, count in counts.items() if count)
    console.print(
        f"{source}: {told or 'nothing found'}", markup=False, highlight=False, soft_wrap=True
    )


def _print_one(console: Console, finding: Finding) -> None:
    heading, *lines = str(finding).splitlines()
    console.print(Text(heading, f"bold {_COLOURS[finding.severity]}"), soft_wrap=True)
    _print_lines(console, lines)
    console.print()


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        blanks = " " * (8 if line.startswith(("  why:", "  mend:")) else 2)
        wrapped = textwrap.fill(line, console.width, subsequent_indent=blanks)
        console.print(wrapped, markup=False, highlight=False, soft_wrap=True)


def _counted(severity: str, count: int) -> str:
    plural = "s" if count > 1 and severity != "info" else ""
    return f"{count} {severity}{plural}"
