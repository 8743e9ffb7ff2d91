"""Recall: the mistake of each check rule, planted into five clean networks, is found there.

Nine in ten over all, four of five for each rule, at the right path.
"""

import sys
from pathlib import Path

import pytest

import chimera as ch
from chimera.check.rule import all_rules

sys.path.insert(0, str(Path(__file__).parent))

from recall import MISTAKES, NETWORKS, PAGE, is_found, page

sys.path.pop(0)


def test_every_rule_is_planted() -> None:
    assert set(MISTAKES) == set(all_rules())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_clean_networks_are_clean(network: str) -> None:
    factory, spec, _ = NETWORKS[network]
    assert [f for f in ch.check(factory, spec) if f.severity != "info"] == []


@pytest.mark.parametrize(("number", "rule"), list(enumerate(MISTAKES)))
def test_a_planted_mistake_is_found(number: int, rule: str) -> None:
    network = list(NETWORKS)[number % len(NETWORKS)]
    assert is_found(rule, network), network


def test_the_page_lists_every_rule() -> None:
    assert all(f"| [{rule}]({rule}.md) |" in PAGE.read_text() for rule in all_rules())


@pytest.mark.long
@pytest.mark.parametrize("rule", MISTAKES)
def test_a_planted_mistake_is_found_in_four_of_five(rule: str) -> None:
    missed = [network for network in NETWORKS if not is_found(rule, network)]
    assert len(missed) <= 1, f"{rule} misses {missed}"


@pytest.mark.long
def test_nine_in_ten_planted_mistakes_are_found() -> None:
    found = [is_found(rule, network) for rule in MISTAKES for network in NETWORKS]
    assert sum(found) >= 0.9 * len(found)


@pytest.mark.long
def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page()
