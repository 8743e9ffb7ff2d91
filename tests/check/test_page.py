"""Each check rule has its page in the documentation, and the page is current.

``CHIMERA_REWRITE=1 pytest tests/check/test_page.py`` writes the pages anew.
"""

import os
from pathlib import Path

import pytest

from chimera.check.page import index, page
from chimera.check.rule import all_rules

PAGES = Path(__file__).parents[2] / "docs" / "check"
EXPECTED = {f"{name}.md": page(rule) for name, rule in all_rules().items()}
EXPECTED["index.md"] = index(all_rules().values())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_page_is_current(name: str) -> None:
    if os.environ.get("CHIMERA_REWRITE"):
        PAGES.mkdir(exist_ok=True)
        (PAGES / name).write_text(EXPECTED[name])
    assert (PAGES / name).read_text() == EXPECTED[name]


def test_no_page_is_left_of_a_rule_that_is_gone() -> None:
    measured = {"false-alarms.md", "phrasings.md", "recall.md"}
    assert {path.name for path in PAGES.iterdir()} - measured == set(EXPECTED)
