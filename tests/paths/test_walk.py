"""Walking by path."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from chimera.paths.walk import every_path, first_paths, join, unknown


def test_join():
    assert join("", "a") == "a"
    assert join("a.b", "c") == "a.b.c"
    assert join("a", "b.c") == "a.b.c"
    assert join("a.b", "") == "a.b"


def test_a_module_at_two_paths_comes_twice():
    layer = nn.Linear(1, 1)
    block = nn.Sequential(layer, nn.ReLU(), layer)
    root = nn.ModuleDict({"one": block, "two": nn.Sequential(block)})
    paths = [path for path, _ in every_path(root)]
    assert paths == [
        *("", "one", "one.0", "one.1", "one.2", "two"),
        *("two.0", "two.0.0", "two.0.1", "two.0.2"),
    ]
    assert dict(every_path(root))["two.0.2"] is layer
    assert first_paths(root)[layer] == "one.0"
    assert set(first_paths(root)) == set(root.modules())


def test_a_module_that_contains_itself_ends_the_walk():
    root = nn.Module()
    root.child = nn.Module()
    root.child.parent = root
    assert [path for path, _ in every_path(root)] == ["", "child"]


def test_no_child_is_no_path():
    root = nn.Module()
    root.register_module("none", None)
    assert [path for path, _ in every_path(root)] == [""]


plans = st.recursive(st.just(0), lambda inner: st.lists(inner, max_size=3), max_leaves=8)


def _made(plan):
    return nn.Linear(1, 1) if plan == 0 else nn.Sequential(*map(_made, plan))


@given(plans)
def test_without_repeats_it_is_named_modules(plan):
    root = _made(plan)
    assert list(every_path(root)) == list(root.named_modules())
    assert next(path for path, _ in every_path(root, "top")) == "top"


def test_torch_keeps_children_where_the_walk_looks():
    root = nn.Module()
    root.child = child = nn.Linear(1, 1)
    assert root._modules == {"child": child}
    assert root._parameters == {}
    root.scale = scale = nn.Parameter(torch.ones(1))
    assert root._parameters == {"scale": scale}
    root.register_buffer("mean", torch.ones(2), persistent=False)
    assert list(root._buffers) == ["mean"]
    assert root._non_persistent_buffers_set == {"mean"}


@pytest.mark.parametrize(
    ("path", "known", "told"),
    [
        ("head.wieght", ["", "body", "head.weight"], "'head.wieght'; near it: head.weight"),
        ("zz", ["", "body"], "'zz'; there are: '' (the root), body"),
        ("zz", list("abcdefg"), "'zz'; there are: a, b, c, d, e and 2 more"),
        (3, ["a"], "3; there are: a"),
    ],
)
def test_an_unknown_path_tells_which_there_are(path, known, told):
    assert unknown(path, known).args == (f"there is no module {told}",)
