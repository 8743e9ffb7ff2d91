"""Parallel: what it gives, what it leaves alone, and what it says when branches do not fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import chimera as ch


class AddsInPlace(nn.Module):
    def forward(self, x):
        x += 1
        return x


class Deaf(nn.Module):
    """Gives a view of its input on."""

    def forward(self, x):
        return x[:]


def pair(out=(4, 5)):
    torch.manual_seed(0)
    return [nn.Linear(3, n) for n in out]


def test_concat_is_the_chapters_parallel_block():
    a, b = pair()
    x = torch.rand(2, 3)
    assert torch.equal(ch.Parallel(a, b)(x), torch.cat((a(x), b(x)), dim=1))
    assert list(ch.Parallel({"left": a, "right": b}).state_dict())[::2] == [
        "left.weight",
        "right.weight",
    ]


@given(
    st.sampled_from(["concat", "stack", "sum", "mean", "tuple"]),
    st.integers(1, 4),
    st.integers(-2, 1),
)
def test_combines_as_the_formula_says(way, n, dim):
    branches, x = pair([4] * n), torch.rand(2, 3)
    out = ch.Parallel(*branches, combine=way, dim=dim)(x)
    outs = [branch(x) for branch in branches]
    wanted = {
        "concat": lambda: torch.cat(outs, dim),
        "stack": lambda: torch.stack(outs, dim),
        "sum": lambda: torch.stack(outs).sum(0),
        "mean": lambda: torch.stack(outs).mean(0),
        "tuple": lambda: tuple(outs),
    }[way]()
    torch.testing.assert_close(out, wanted)


def test_a_function_combines_the_list():
    a, b = pair((4, 4))
    x = torch.rand(2, 3)
    out = ch.Parallel(a, b, combine=lambda outs: outs[0] * outs[1])(x)
    assert torch.equal(out, a(x) * b(x))


def test_one_module_may_stand_twice():
    a, _ = pair()
    x = torch.rand(2, 3)
    both = ch.Parallel(a, a)
    assert torch.equal(both(x), torch.cat((a(x), a(x)), 1))
    assert len(both) == 2
    assert list(both) == [a, a]
    assert both[-1] is a


def test_keywords_and_several_inputs_go_to_every_branch():
    class Add(nn.Module):
        def forward(self, a, b, *, scale):
            return a + scale * b

    a, b = torch.rand(2, 3), torch.rand(2, 3)
    out = ch.Parallel(Add(), Add(), combine="sum")(a, b, scale=2)
    torch.testing.assert_close(out, 2 * (a + 2 * b))


@pytest.mark.parametrize(
    "form", [lambda a, b: (a, b), lambda a, b: ([a, b],), lambda a, b: ((a, b),)]
)
def test_each_branch_takes_its_own_input(form):
    a, b = nn.Linear(3, 4), nn.Linear(2, 4)
    x, y = torch.rand(2, 3), torch.rand(2, 2)
    out = ch.Parallel(a, b, inputs="each")(*form(x, y))
    assert torch.equal(out, torch.cat((a(x), b(y)), 1))


def test_a_wrong_number_of_inputs_says_both():
    with pytest.raises(ValueError, match=r"2 for \['a', 'b'\]; got 3"):
        ch.Parallel({"a": nn.ReLU(), "b": nn.ReLU()}, inputs="each")(*torch.rand(3, 2))


INPLACE = {
    "relu": lambda: nn.ReLU(inplace=True),
    "own": AddsInPlace,
    "through a view": lambda: nn.Sequential(
        nn.Flatten(0), nn.ReLU(inplace=True), nn.Unflatten(0, (2, 3))
    ),
    "nested": lambda: ch.Sequential(ch.Sequential(nn.Dropout(0.0)), nn.Hardtanh(inplace=True)),
    "after": lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)),
    "in a parallel": lambda: ch.Sequential(
        ch.Parallel(nn.Identity(), nn.Identity(), combine="tuple"), Second(), AddsInPlace()
    ),
    "repeated": lambda: ch.Repeat(nn.ReLU, 2, inplace=True),
    "while": lambda: ch.While(lambda x: x.abs().sum() > 1, lambda x: x.div_(2), 100),
}


class Second(nn.Module):
    def forward(self, pair):
        return pair[1]


def hooked():
    layer = nn.Identity()
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0].mul_(2),))
    return layer


def patched():
    layer = nn.ReLU()
    layer.forward = lambda x: x.mul_(2)
    return layer


INPLACE |= {"hook": hooked, "patched": patched}


@pytest.mark.parametrize("combine", ["sum", "tuple", lambda outs: outs[0].add_(outs[1])])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", INPLACE)
@pytest.mark.parametrize("other", [nn.Identity, Deaf, lambda: nn.Linear(3, 3)])
def test_never_changes_its_input_whatever_a_branch_does(kind, first, other, combine):
    branch, quiet = INPLACE[kind](), other()
    branches = [branch, quiet] if first else [quiet, branch]
    x = torch.randn(2, 3)
    kept = x.clone()
    with torch.no_grad():
        out = ch.Parallel(*branches, combine=combine)(x)
        outs = [module(kept.clone()) for module in branches]
    assert torch.equal(x, kept)
    if combine == "tuple":
        assert all(torch.equal(*both) for both in zip(out, outs, strict=True))
    else:
        torch.testing.assert_close(out, outs[0] + outs[1])


def test_gradients_through_an_inplace_branch_are_those_of_the_formula():
    linear = nn.Linear(3, 3)
    x = torch.randn(2, 3, requires_grad=True)
    ch.Parallel(linear, AddsInPlace(), nn.ReLU(inplace=True), combine="sum")(
        x
    ).square().sum().backward()
    y = x.detach().clone().requires_grad_()
    (ours,) = (x.grad,)
    theirs = torch.autograd.grad((linear(y) + (y + 1) + torch.relu(y)).square().sum(), y)[0]
    torch.testing.assert_close(ours, theirs)


def test_nested_inputs_stay_as_they_were():
    class Eats(nn.Module):
        def forward(self, state):
            state["x"].zero_()
            state["list"].clear()
            state["x"] = None
            return torch.zeros(1)

    x = torch.ones(2)
    state = {"x": x, "list": [x]}
    ch.Parallel(Eats(), Eats(), combine="sum")(state)
    assert state["x"] is x
    assert len(state["list"]) == 1
    assert torch.equal(x, torch.ones(2))


def test_no_copy_where_the_branch_surely_leaves_the_input_alone(monkeypatch):
    copies = []
    monkeypatch.setattr(torch.Tensor, "clone", lambda self: copies.append(self))
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    ch.Parallel(net, ch.Sequential(nn.Flatten(), nn.Linear(3, 3)), nn.Identity())(torch.rand(2, 3))
    assert not copies


def test_devices_place_the_branches_and_join_on_the_first():
    a, b = pair((4, 4))
    x = torch.rand(2, 3, requires_grad=True)
    same = ch.Parallel(a, b, devices=["cpu", "cpu"])
    assert torch.equal(same(x), ch.Parallel(a, b)(x))
    apart = ch.Parallel(nn.Linear(3, 4), nn.Linear(3, 4), nn.ReLU(), devices=["meta", "cpu", "cpu"])
    assert [p.device.type for p in apart.parameters()] == ["meta", "meta", "cpu", "cpu"]
    out = apart(torch.rand(2, 3))
    assert out.device.type == "meta"
    assert out.shape == (2, 11)


def test_moved_as_a_whole_it_runs_where_it_is():
    net = ch.Parallel(nn.Linear(3, 4), nn.ReLU(), devices=["cpu", "cpu"]).to("meta")
    assert net(torch.rand(2, 3, device="meta")).shape == (2, 7)


@pytest.mark.gpu
def test_branches_on_two_devices_agree_with_one():
    a, b = pair((4, 4))
    x = torch.rand(2, 3, requires_grad=True)
    (wanted,) = torch.autograd.grad(ch.Parallel(a, b)(x).square().sum(), x)
    both = ch.Parallel(a, b, devices=["cpu", "cuda:0"])
    out = both(x)
    assert out.device.type == "cpu"
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), x)[0], wanted)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ch.Parallel(), ValueError, "no branches"),
        (lambda: ch.Parallel({}), ValueError, "no branches"),
        (
            lambda: ch.Parallel(nn.ReLU(), nn.ReLU),
            TypeError,
            r"branch 1 is the class nn\.ReLU; pass nn\.ReLU\(\)",
        ),
        (
            lambda: ch.Parallel(nn.ReLU(), combine="cat"),
            ValueError,
            "'concat', 'stack', 'sum', 'mean', 'tuple', or a function.*got 'cat'",
        ),
        (lambda: ch.Parallel(nn.ReLU(), combine=None), ValueError, "got None"),
        (lambda: ch.Parallel(nn.ReLU(), combine=nn.Linear(1, 1)), TypeError, "after this block"),
        (lambda: ch.Parallel(nn.ReLU(), dim=1.0), TypeError, "dim is an int"),
        (lambda: ch.Parallel(nn.ReLU(), inputs="all"), ValueError, "'same' or 'each'"),
        (lambda: ch.Parallel(nn.ReLU(), devices=["cpu", "cpu"]), ValueError, "for 1 branches"),
        (lambda: ch.Parallel(nn.ReLU(), devices="cpu"), ValueError, "a list"),
        (lambda: ch.Parallel(nn.ReLU(), devices=["x"]), ValueError, r"devices\[0\] 'x' cannot"),
        (lambda: ch.Parallel(nn.ReLU(), devices=[1.5]), TypeError, r"devices\[0\] must be a dev"),
        (lambda: ch.Parallel({"combine": nn.ReLU()}), ValueError, "'combine' is an attribute"),
    ],
)
def test_mistakes_are_caught_when_the_block_is_made(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("combine", "dim", "outs", "words"),
    [
        ("concat", 0, (4, 5), r"branch 'a' gave \(2, 4\), branch 'b' gave \(2, 5\)"),
        ("concat", 2, (4, 5), r"no axis dim=2: branch 'a' gave \(2, 4\)"),
        ("stack", 0, (4, 5), r"one shape; branch 'a' gave \(2, 4\)"),
        ("stack", 3, (4, 4), "no axis dim=3"),
        ("sum", 1, (4, 1), r"branch 'b' gave \(2, 1\)"),
        ("mean", 1, (4, 1), "one shape"),
    ],
)
def test_outputs_that_do_not_fit_name_the_branches(combine, dim, outs, words):
    a, b = pair(outs)
    with pytest.raises(ValueError, match=words):
        ch.Parallel({"a": a, "b": b}, combine=combine, dim=dim)(torch.rand(2, 3))


def test_outputs_that_are_no_tensors_need_tuple():
    net = ch.Parallel(nn.ReLU(), nn.LSTM(3, 3))
    with pytest.raises(TypeError, match=r"branch '1' gave a tuple; use combine='tuple'"):
        net(torch.rand(2, 3))


def test_traces_whole():
    inner = ch.Sequential(ch.Residual(AddsInPlace()), ch.Repeat(nn.Linear, 2, 3, 3))
    net = ch.Parallel(inner, ch.Constant(torch.ones(2, 1)), nn.ReLU(inplace=True))
    x = torch.randn(2, 3)
    kept = x.clone()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), net(x))
    assert torch.equal(x, kept)
