"""``explain`` says which rule runs each path, and why anything runs one by one."""

import pytest
import torch
from torch import nn

import chimera as ch

X = torch.randn(3, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.rand_weight = torch.randn(4)

    def forward(self, x):
        return self.layers(x) * self.rand_weight


def test_every_path_has_a_row():
    stack = ch.Stack([Net() for _ in range(3)])
    assert "no call has run yet" in str(ch.explain(stack))
    stack(X)
    explanation = ch.explain(stack)
    assert [(row.path, row.kind) for row in explanation.rows] == [
        ("", "Net"),
        ("layers", "Sequential"),
        ("layers.0", "Linear"),
        ("layers.1", "Tanh"),
    ]
    assert explanation.rows[2].rule == "batched product"
    assert explanation.rows[3].rule == "batched by torch.func"
    assert not explanation.alone
    assert "no call has run yet" not in str(explanation)
    assert "rand_weight is a plain tensor attribute; it was adopted as a buffer" in str(explanation)


def test_a_subclass_does_not_run_by_its_bases_rule(agree, members):
    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    stack = agree(members(Odd, 3, 4, 4), X.double())
    assert ch.explain(stack).rows[0].rule == "batched by torch.func"


def test_a_forward_of_an_instance_runs(agree, members):
    def patched():
        layer = nn.Linear(4, 4)
        layer.forward = lambda x: x @ layer.weight
        return nn.Sequential(layer, nn.Tanh())

    agree(members(patched, 3), X.double())


def test_why_one_by_one():
    class Selects(Net):
        def forward(self, x):
            return self.layers(x)[torch.randperm(3)]

    stack = ch.Stack([Selects() for _ in range(3)])
    stack(X)
    explanation = ch.explain(stack)
    assert {row.rule for row in explanation.rows} == {"one by one"}
    assert all("randperm" in row.reason for row in explanation.alone)
    assert "randperm" in str(explanation)


def test_groups_and_what_parts_them():
    stack = ch.Stack([Net(), nn.Linear(4, 4), Net().eval(), Net()])
    stack(X)
    text = str(ch.explain(stack))
    assert "group 1: members of another structure than group 0: the module itself: class" in text
    assert "group 2" in text
    assert "training is True against False" in text
    assert {row.group for row in ch.explain(stack).rows} == {0, 1, 2}


def test_conditions_say_into_how_many_parts(members):
    class If(Net):
        def forward(self, x):
            return x if self.layers(x).sum() > 0 else -x

    stack = ch.Stack(members(If, 16, dtype=torch.float32))
    stack(X)
    assert "conditions on data; the last call ran in 2 parts" in str(ch.explain(stack))


@pytest.mark.parametrize("thing", [3, "text", None, nn.Module])
def test_what_cannot_be_explained(thing):
    with pytest.raises(TypeError, match="explain takes a Stack, a step or a module"):
        ch.explain(thing)


def test_a_plain_module_is_told_as_that():
    assert str(ch.explain(nn.Linear(2, 2))).startswith("Linear runs as torch runs it")
