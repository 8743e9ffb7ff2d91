"""The flow of the data, folding, and how figures are written."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chimera as ch
from chimera.summary.flow import Flow
from chimera.summary.fold import folded
from chimera.summary.node import Node
from chimera.summary.wording import percent, short, size


def named(flow: Flow) -> set[tuple[str, str]]:
    """The edges by the paths of calls and the names of operations."""
    names = [cell.name if cell.path is None else cell.path for cell in flow.cells]
    return {(names[edge.source], names[edge.target]) for edge in flow.edges}


def test_branches_and_residual_arcs(branched: nn.Module) -> None:
    edges = named(ch.summary(branched, ch.spec(2, 3, 16, 16)).flow)
    assert {("1", "2.0"), ("1", "2.1.0"), ("1", "2.2.0"), ("1", "2.3")} <= edges
    assert {("2.0", "cat"), ("2.1.2", "cat"), ("2.2.1", "cat"), ("2.3", "cat")} <= edges
    assert {("cat", "3.body"), ("cat", "add"), ("3.body", "add"), ("add", "4")} <= edges
    assert ("6", "output") in edges


@pytest.mark.parametrize("training", [True, False])
def test_what_gives_its_input_back_is_passed_and_the_input_keeps_its_maker(training) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.drop = nn.Linear(4, 4), nn.Dropout(0.0)
            self.same, self.last = nn.Identity(), nn.Linear(4, 4)

        def forward(self, x):
            x = self.first(x)
            return x + self.last(self.same(self.drop(x)))

    edges = named(ch.summary(Net().train(training), ch.spec(2, 4)).flow)
    assert edges == {
        ("x", "first"),
        ("first", "drop"),
        ("drop", "same"),
        ("same", "last"),
        ("first", "add"),
        ("last", "add"),
        ("add", "output"),
    }


def test_writing_in_place_makes_the_tensor_anew() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = torch.zeros(2, 8)
            y[:, :4] = self.one(x)
            y[:, 4:] = self.two(x)
            y += 1
            return y

    edges = named(ch.summary(Net(), ch.spec(2, 4)).flow)
    assert {("one", "setitem"), ("two", "setitem"), ("setitem", "setitem")} <= edges
    assert [source for source, target in edges if target == "output"] in (["iadd"], ["add"])


def test_views_are_left_out_and_several_inputs_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, parts, *, scale):
            return self.layer(parts["a"].transpose(0, 1).flatten(1).unsqueeze(0)) * scale

    spec = ch.inputs({"a": ch.spec(2, 3, 2)}, scale=ch.spec())
    edges = named(ch.summary(Net(), spec).flow)
    assert edges == {("parts['a']", "layer"), ("layer", "mul"), ("scale", "mul"), ("mul", "output")}


def test_a_layer_that_runs_again_has_a_cell_each_time() -> None:
    layer = nn.Linear(4, 4)
    flow = ch.summary(ch.Sequential(layer, nn.ReLU(), layer), ch.spec(2, 4)).flow
    assert [cell.path for cell in flow.cells if cell.kind == "call"] == ["", "0", "1", "0"]
    assert flow.complete


def looks(report: ch.Summary) -> list[tuple[str, int]]:
    return [(fold.label, fold.times) for fold in folded(report.root.children)]


def test_equal_neighbours_fold() -> None:
    pair = [layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.ReLU())]
    net = nn.Sequential(nn.Flatten(), *pair, *(nn.Tanh() for _ in range(3)), nn.Linear(4, 2))
    found = looks(ch.summary(net, ch.spec(2, 4)))
    assert found == [
        ("1x Flatten", 1),
        ("5x (Linear, ReLU)", 5),
        ("3x Tanh", 3),
        ("1x Linear", 1),
    ]


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.LayerNorm(4, bias=False),
        lambda: nn.LayerNorm(4, eps=1e-3),
        lambda: nn.LayerNorm(4).requires_grad_(False),
        lambda: nn.Sequential(nn.LayerNorm(4)),
    ],
    ids=["parameters", "settings", "frozen", "children"],
)
def test_what_differs_does_not_fold(other) -> None:
    net = nn.Sequential(*(nn.LayerNorm(4) for _ in range(3)), other(), nn.LayerNorm(4))
    found = looks(ch.summary(net, ch.spec(2, 4)))
    assert [times for _, times in found] == [3, 1, 1]


@given(st.lists(st.sampled_from(["Linear", "ReLU", "Tanh"]), max_size=12))
def test_folding_keeps_every_node_in_order(kinds) -> None:
    made = {"Linear": lambda: nn.Linear(2, 2), "ReLU": nn.ReLU, "Tanh": nn.Tanh}
    root = node_of(nn.Sequential(*(made[kind]() for kind in kinds)))
    folds = folded(root)
    assert [node.kind for fold in folds for node in fold.nodes] == kinds
    for fold in folds:
        shown = [node.kind for node in fold.shown]
        assert [node.kind for node in fold.nodes] == shown * fold.times


def node_of(net: nn.Sequential) -> tuple[Node, ...]:
    figures = dict.fromkeys(
        ("own", "parameters", "frozen", "shared", "buffers", "multiply_adds", "activations"), 0
    )
    return tuple(
        Node(name, type(child).__name__, "", 1, None, None, **figures, seconds=None, tied_to=None)
        for name, child in net.named_children()
    )


def test_figures_in_few_characters() -> None:
    cases = {0: "0", 999: "999", 1000: "1.00k", 11_689_512: "11.7M", 999_950: "1.00M"}
    assert {number: short(number) for number in cases} == cases
    assert [size(n) for n in (0, 1023, 1024, 46_758_048)] == [
        "0 B",
        "1023 B",
        "1.00 KiB",
        "44.6 MiB",
    ]
    assert [percent(share) for share in (0.0, 0.001, 0.005, 0.42, 1.0)] == [
        "0%",
        "<1%",
        "<1%",
        "42%",
        "100%",
    ]


@given(st.integers(min_value=0, max_value=10**18))
def test_short_figures_are_near(number) -> None:
    text = short(number)
    scale = 1000 ** ("kMGTPE".index(text[-1]) + 1) if text[-1].isalpha() else 1
    assert len(text) <= 5
    assert float(text.rstrip("kMGTPE")) * scale == pytest.approx(number, rel=6e-3)


def test_outputs_are_told_apart():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            return {"mean": self.a(x), "more": (self.b(x), x)}

    cells = ch.summary(Two(), ch.spec(2, 4)).flow.cells
    assert [cell.name for cell in cells if cell.kind == "output"] == [
        "output['mean']",
        "output['more'][0]",
        "output['more'][1]",
    ]


def test_an_operation_may_be_called_as_an_output_is():
    class Net(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x)

    cells = ch.summary(Net(), ch.spec(2, 4)).flow.cells
    assert [(cell.name, cell.kind) for cell in cells][-1] == ("output", "output")
