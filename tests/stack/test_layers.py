"""Every public class of ``torch.nn`` with a forward, in a stack against its members alone.

Each test also holds the class's line of ``docs/coverage.md`` against what it found.
"""

import warnings

import pytest
import torch
from coverage_page import PAGE, kept, page, row_of
from layer_cases import CASES, layer_names
from layer_proof import ALONE, MEMBERS, given, prove, prove_training

import chimera as ch

SPEEDS = kept()


def lines() -> dict[str, str]:
    """The lines of the page's first table, by class."""
    first, _, _ = PAGE.read_text().partition("\n## ")
    return {line.split("`")[1]: line for line in first.splitlines() if line.startswith("| `")}


def test_every_class_that_torch_has_is_known():
    assert set(layer_names()) - set(CASES) == set(), "add a case to benchmarks/layer_cases.py"


@pytest.mark.parametrize("name", [name for name in layer_names() if name in CASES])
def test_a_member_is_itself(name):
    proof = prove(CASES[name])
    assert proof.wrong == {"float32": [], "float64": []}
    assert proof.reason == "", "no class of torch.nn runs one by one in its plain form"
    assert lines()[name] == row_of(name, proof, [], SPEEDS), (
        "run python benchmarks/coverage_page.py"
    )


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in layer_names() if name in CASES])
def test_twenty_steps_are_those_of_the_loop(name):
    assert prove_training(CASES[name]) == []


FAMILIES = [
    *("BatchNorm1d", "Conv2d", "ConvTranspose1d", "LayerNorm", "Embedding", "EmbeddingBag", "GRU"),
    *("MultiheadAttention", "RReLU", "Bilinear", "AdaptiveLogSoftmaxWithLoss", "CTCLoss"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_steps_of_a_class_of_each_family(name):
    assert prove_training(CASES[name]) == []


@pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="the page lists the classes of torch 2.13"
)
def test_the_page_holds_these_lines_and_the_kept_speeds_and_no_more():
    found = lines()
    assert set(found) == set(layer_names()) & set(CASES)
    rows = [found[name] for name in layer_names() if name in found]
    assert PAGE.read_text() == page(rows, SPEEDS), "run python benchmarks/coverage_page.py"


def test_every_speed_was_measured_and_none_loses_at_64_members():
    assert set(SPEEDS["layers"]) == set(CASES), "run python benchmarks/layers.py"
    ratios = {
        name: times["64"]["loop"] / times["64"]["stack"] for name, times in SPEEDS["layers"].items()
    }
    assert {name: round(ratio, 2) for name, ratio in ratios.items() if ratio <= 1} == {}


@pytest.mark.parametrize("what", ALONE)
def test_what_runs_one_by_one_is_exact_and_says_so(what):
    case = ALONE[what].case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack = ch.Stack(case.modules(MEMBERS))
        inputs = given(case, torch.float32)
        ch.verify(stack, inputs, raises=True)
        stack(*inputs.args, **inputs.kwargs)
    alone = ch.explain(stack).alone
    assert alone
    assert all(row.reason for row in alone)
