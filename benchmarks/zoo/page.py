"""The page ``docs/check/false-alarms.md``: what was found, with the judgement of each finding."""

import collections
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
JUDGED = HERE / "judged.json"
FIRST = HERE / "first.jsonl"
PAGE = HERE.parents[1] / "docs" / "check" / "false-alarms.md"

Row = dict[str, Any]


def judgement(judged: list[dict[str, Any]], network: str, rule: str) -> tuple[str, str]:
    """``real``, ``false`` or ``unjudged``, and why: the first entry that fits."""
    for entry in judged:
        if entry["rule"] == rule and any(network.startswith(name) for name in entry["networks"]):
            return entry["judgement"], entry["why"]
    return "unjudged", ""


def counted(row: Row) -> dict[tuple[str, str], int]:
    """The errors and warnings of a network by rule and severity."""
    return dict(collections.Counter((f["rule"], f["severity"]) for f in row["findings"]))


def alarms(rows: Iterable[Row], judged: list[dict[str, Any]]) -> list[str]:
    """The networks with an error or warning that is not judged real."""
    return [
        row["network"]
        for row in rows
        if any(judgement(judged, row["network"], rule)[0] != "real" for rule, _ in counted(row))
    ]


def told(row: Row, judged: list[dict[str, Any]]) -> str:
    """The errors and warnings of a network, each with its judgement."""
    parts = []
    for (rule, severity), number in sorted(counted(row).items()):
        verdict, why = judgement(judged, row["network"], rule)
        times = f" ({number} times)" if number > 1 else ""
        parts.append(f"{severity} {rule}{times}, **{verdict}**: {why}")
    return "; ".join(parts) or "none"


def listed(row: Row, judged: list[dict[str, Any]]) -> str:
    """The line of a network."""
    info = ", ".join(f"{rule} {number}" for rule, number in sorted(row["info"].items())) or "none"
    size = f"{row['parameters'] / 1e6:.1f}"
    cells = (row["network"], size, told(row, judged), info, f"{row['seconds']:.0f}", row["rules"])
    return f"| {' | '.join(cells)} |"


def write_page(rows: list[Row]) -> None:
    """Write the page and print what it says."""
    judged = json.loads(JUDGED.read_text())
    first = [json.loads(line) for line in FIRST.open()] if FIRST.exists() else []
    tried = [row for row in first if row["failed"] is None]
    checked = [row for row in rows if row["failed"] is None]
    failed = [f"`{row['network']}` ({row['failed']})" for row in rows if row["failed"]]
    wrong, wrong_first = alarms(checked, judged), alarms(tried, judged)
    lines = [listed(row, judged) for row in sorted(checked, key=lambda row: row["network"])]
    surprises = [
        f"| {row['network']} | {told(row, judged)} |"
        for row in sorted(tried, key=lambda row: row["network"])
        if row["findings"]
    ]
    (newest, of_newest), *_ = collections.Counter(row["rules"] for row in checked).most_common(1)
    others = (
        "; others, which took more memory than a run had, keep the row of an earlier one"
        if of_newest < len(checked)
        else ""
    )
    torchvision = sum(row["network"].startswith("torchvision/") for row in checked)
    text = f"""\
# False alarms

`ch.check` over networks that others wrote and published: {torchvision} of torchvision's classifiers
and {len(checked) - torchvision} small networks of timm, chosen by name and size alone
(`benchmarks/zoo/networks.py`: of each of timm's files the first, then the second). `make zoo`
runs it (batch named, images of random numbers, no loss, one thread; a run goes on with the networks
that are not yet in `benchmarks/zoo/found.jsonl`). A network counts as a false alarm if it shows one
error or warning that is judged not to be real. What is only worth knowing (`info`) is not judged.

| | networks | with a false alarm |
| --- | ---: | ---: |
| first look, at networks that no rule had seen | {len(tried)} | {share(wrong_first, tried)} |
| the table below | {len(checked)} | {share(wrong, checked)} |

The first line is the one to expect of networks that are not in the table: rules were mended by what
it showed, and by earlier runs over {len(checked) - len(tried)} others. `rules` names the commit
whose rules a row is of, at the first look, too: {of_newest} of the {len(checked)} rows of the table
are of {newest}{others}.

## The first look

{len(tried) - len(surprises)} of the {len(tried)} networks showed no error or warning. The others:

| network | errors and warnings |
| --- | --- |
{chr(10).join(surprises)}

## Every network

| network | million parameters | errors and warnings | info | seconds | rules |
| --- | ---: | --- | --- | ---: | --- |
{chr(10).join(lines)}
"""
    if failed:
        text += f"\nNot checked: {'; '.join(failed)}.\n"
    PAGE.write_text(text)
    print(f"first look: {share(wrong_first, tried)}; now: {share(wrong, checked)}: {PAGE}")


def share(wrong: list[str], of: list[Row]) -> str:
    """``"3 (2.0%)"``."""
    return f"{len(wrong)} ({len(wrong) / max(len(of), 1):.1%})"
