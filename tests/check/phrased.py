"""How `check` fares with phrasings that no rule was written for: found, and false alarms.

Each rule's mistake is written in three other ways, and two networks only look like it; a second
set, written after the rules were mended for the first, has one of each. The first look, before any
rule was changed for them, is kept in the ``first.json`` of each set; a phrasing that was missed
then was mended after, so only the first look tells of networks yet unseen. Run as a script it
writes the table ``docs/check/phrasings.md``:

    make phrasings
"""

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import chimera as ch
from chimera.check.rule import all_rules

sys.path.insert(0, str(Path(__file__).parent / "phrasings"))

from case import PHRASINGS, Phrasing

sys.path.pop(0)

HERE = Path(__file__).parent / "phrasings"
SETS = (HERE, HERE / "second")
PAGE = Path(__file__).parents[2] / "docs" / "check" / "phrasings.md"


@cache
def phrasings() -> dict[str, tuple[str, Phrasing]]:
    """Every phrasing by ``file:Name``, each with its rule."""
    found = {}
    sys.path.insert(0, str(HERE))
    try:
        for path in (path for folder in SETS for path in sorted(folder.glob("*.py"))):
            if path.stem == "case":
                continue
            name = f"phrasings_{path.parent.name}_{path.stem}"
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            rule = path.stem.partition("__")[0].replace("_", "-")
            for case in PHRASINGS[spec.name]:
                found[f"{path.stem}:{case.subject.__name__}"] = (case.rule or rule, case)
    finally:
        sys.path.pop(0)
    return found


def alarmed(name: str) -> bool:
    """Whether `check` finds in a phrasing what its file is of."""
    rule, case = phrasings()[name]
    findings = ch.check(case.subject, case.spec, loss=case.loss)
    return any(finding.rule == rule for finding in findings)


def counted(alarms: set[str], rule: str, *, second: bool = False) -> tuple[int, int]:
    """Of a rule: how many mistakes are found, and how many right networks."""
    named = {
        name: case
        for name, (of, case) in phrasings().items()
        if of == rule and (case.rule is not None) is second
    }
    found = [named[name].mistaken for name in named if name in alarms]
    return sum(found), len(found) - sum(found)


def page(now: set[str]) -> str:
    """The table of rules, in Markdown."""
    firsts = [set(json.loads((folder / "first.json").read_text())) for folder in SETS]
    rows, sums = [], [0] * 8
    for rule in all_rules():
        figures = [
            figure
            for second, first in enumerate(firsts)
            for alarms in (first, now)
            for figure in counted(alarms, rule, second=bool(second))
        ]
        sums = [one + other for one, other in zip(sums, figures, strict=True)]
        told = [*map(str, figures[:4]), *(map(str, figures[4:]) if rule in _seconds() else "----")]
        rows.append(f"| [{rule}]({rule}.md) | " + " | ".join(told) + " |")
    cases = [case for _, case in phrasings().values()]
    wrong, right = [
        [
            sum(c.mistaken is mistaken and (c.rule is not None) is second for c in cases)
            for second in (False, True)
        ]
        for mistaken in (True, False)
    ]
    table = "\n".join(rows)
    return f"""\
# Other words

Each rule's mistake is written in three ways that nobody had in mind when the rule was written, and
two networks only look like it (`tests/check/phrasings/`). They were written without a look at the
rules' fixtures, by one who knows the rules' texts, so that they are less strange to the rules than
a stranger's would be. The first look found {sums[0]} of {wrong[0]} mistakes
({sums[0] / wrong[0]:.1%}) and {sums[1]} of {right[0]} right networks. What was missed was mended
afterwards: now {sums[2]} and {sums[3]}, which tells of no other network.

A second set (`tests/check/phrasings/second/`) was written after that, by one who had seen the code
of a few rules: one mistake and one network that only looks like it for each rule but the two that
look at whole files. All of it stood before the first look, which found {sums[4]} of {wrong[1]}
mistakes ({sums[4] / wrong[1]:.1%}) and {sums[5]} of {right[1]} right networks. Two of them were not
what they were meant as, by the rules' own texts: weights of zero beside drawn biases, which learn,
and an output of `[N, 1]` with a loss that broadcasts. They count in the first look, and were
written anew. What was missed was mended: now {sums[6]} and {sums[7]}.

`make phrasings` looks again and writes this page.

| rule | found of 3 at first | false of 2 at first | found now | false now | \
second: found of 1 at first | false of 1 at first | found now | false now |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
{table}
"""


def _seconds() -> set[str]:
    """The rules of the second set."""
    return {case.rule for _, case in phrasings().values() if case.rule is not None}


if __name__ == "__main__":
    PAGE.write_text(page({name for name in phrasings() if alarmed(name)}))
