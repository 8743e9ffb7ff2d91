"""Each rule finds its mistake in words that it was not written for, and not where there is none."""

import sys
from pathlib import Path

import pytest

from chimera.check.rule import all_rules

sys.path.insert(0, str(Path(__file__).parent))

from phrased import PAGE, alarmed, page, phrasings

sys.path.pop(0)


@pytest.mark.parametrize("name", phrasings())
def test_a_phrasing_is_what_it_is(name: str) -> None:
    assert alarmed(name) is phrasings()[name][1].mistaken


@pytest.mark.parametrize("rule", all_rules())
def test_each_rule_has_five_and_two(rule: str) -> None:
    cases = [case for of, case in phrasings().values() if of == rule]
    mistaken = [case.mistaken for case in cases if case.rule is None]
    assert (mistaken.count(True), mistaken.count(False)) == (3, 2)
    second = [case.mistaken for case in cases if case.rule is not None]
    assert second.count(True) == second.count(False) <= 1


def test_the_page_is_current() -> None:
    """As the test before holds, the page says that all mistakes are found, and nothing else."""
    found = {name for name, (_, case) in phrasings().items() if case.mistaken}
    assert PAGE.read_text() == page(found)
