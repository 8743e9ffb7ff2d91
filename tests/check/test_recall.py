"""Recall: the mistake of each check rule, planted into five clean networks, is found there.

Nine in ten over all, four of five for each rule, at the right path.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

import chimera as ch
from chimera.build.inputs import Inputs
from chimera.build.spec import Spec
from chimera.check.rule import all_rules

sys.path.insert(0, str(Path(__file__).parent / "planting"))

from mistakes import MISTAKES, ROWS, IgnoresInput, Mistake
from networks import NETWORKS

sys.path.pop(0)


def planted(network: str, mistake: Mistake) -> tuple[Callable[[], nn.Module], Inputs, str]:
    """A network with the mistake in it, its inputs, and where the mistake stands."""
    factory, spec, place = NETWORKS[network]
    inputs = spec if isinstance(spec, Inputs) else ch.inputs(spec)
    if mistake.fixed:
        inputs = inputs.map(lambda s: Spec((ROWS, *s.shape[1:]), s.dtype))
    if mistake.make is IgnoresInput:
        inputs = ch.inputs(*inputs.args, ch.spec("batch", 3))

    def make() -> nn.Module:
        net = factory()
        if mistake.whole:
            return mistake.make(net)
        above, _, name = place.rpartition(".")
        holder = net.get_submodule(above)
        holder._modules[name] = mistake.make(holder._modules[name])
        return net

    if mistake.whole:
        return make, inputs, mistake.below or ""
    return make, inputs, f"{place}.{mistake.below}".strip(".")


@functools.cache
def is_found(rule: str, network: str) -> bool:
    make, inputs, path = planted(network, MISTAKES[rule])
    findings = ch.check(make, inputs, loss=MISTAKES[rule].loss)
    return path in [finding.path for finding in findings if finding.rule == rule]


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


@pytest.mark.long
@pytest.mark.parametrize("rule", MISTAKES)
def test_a_planted_mistake_is_found_in_four_of_five(rule: str) -> None:
    missed = [network for network in NETWORKS if not is_found(rule, network)]
    assert len(missed) <= 1, f"{rule} misses {missed}"


@pytest.mark.long
def test_nine_in_ten_planted_mistakes_are_found() -> None:
    found = [is_found(rule, network) for rule in MISTAKES for network in NETWORKS]
    assert sum(found) >= 0.9 * len(found)
