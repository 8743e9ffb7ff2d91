"""How `check` fares with phrasings that no rule was written for: found, and false alarms.

Each rule's mistake is written in three other ways, and two networks only look like it. The first
look, before any rule was changed for them, is kept in ``phrasings/first.json``; a phrasing that
was missed then was mended after, so only the first look tells of networks yet unseen. Run as a
script it writes the table ``docs/check/phrasings.md``:

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
FIRST = HERE / "first.json"
PAGE = Path(__file__).parents[2] / "docs" / "check" / "phrasings.md"


@cache
def phrasings() -> dict[str, tuple[str, Phrasing]]:
    """Every phrasing by ``file:Name``, each with its rule."""
    found = {}
    sys.path.insert(0, str(HERE))
    try:
        for path in sorted(HERE.glob("*.py")):
            if path.stem == "case":
                continue
            spec = importlib.util.spec_from_file_location(f"phrasings_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            rule = path.stem.partition("__")[0].replace("_", "-")
            for case in PHRASINGS[spec.name]:
                found[f"{path.stem}:{case.subject.__name__}"] = (rule, case)
    finally:
        sys.path.pop(0)
    return found


def alarmed(name: str) -> bool:
    """Whether `check` finds in a phrasing what its file is of."""
    rule, case = phrasings()[name]
    findings = ch.check(case.subject, case.spec, loss=case.loss)
    return any(finding.rule == rule for finding in findings)


def counted(alarms: set[str], rule: str) -> tuple[int, int]:
    """Of a rule: how many mistakes are found, and how many right networks."""
    named = {name: case for name, (of, case) in phrasings().items() if of == rule}
    found = [named[name].mistaken for name in named if name in alarms]
    return sum(found), len(found) - sum(found)


def page(now: set[str]) -> str:
    """The table of rules, in Markdown."""
    first = set(json.loads(FIRST.read_text()))
    rows, sums = [], [0, 0, 0, 0]
    for rule in all_rules():
        figures = [*counted(first, rule), *counted(now, rule)]
        sums = [one + other for one, other in zip(sums, figures, strict=True)]
        rows.append(f"| [{rule}]({rule}.md) | " + " | ".join(map(str, figures)) + " |")
    mistaken = sum(case.mistaken for _, case in phrasings().values())
    right = len(phrasings()) - mistaken
    table = "\n".join(rows)
    return f"""\
# Other words

Each rule's mistake is written in three ways that nobody had in mind when the rule was written, and
two networks only look like it (`tests/check/phrasings/`). They were written without a look at the
rules' fixtures, by one who knows the rules' texts, so that they are less strange to the rules than
a stranger's would be. The first look found {sums[0]} of {mistaken} mistakes
({sums[0] / mistaken:.1%}) and {sums[1]} of {right} right networks. What was missed was mended
afterwards: now {sums[2]} and {sums[3]}, which tells of no other network. `make phrasings` looks
again and writes this page.

| rule | found of 3 at first | false of 2 at first | found now | false now |
| --- | ---: | ---: | ---: | ---: |
{table}
"""


if __name__ == "__main__":
    PAGE.write_text(page({name for name in phrasings() if alarmed(name)}))
