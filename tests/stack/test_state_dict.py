"""The state of a Stack and of each of its members, in and out."""

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.nn.utils.parametrizations import weight_norm

import chimera as ch
from chimera.stack import eager


class Tied(nn.Module):
    """A tied weight, a shared module, a buffer that is not saved, and a plain tensor."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(width, width)
        self.out = nn.Linear(width, width, bias=False)
        self.out.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(width)
        self.again = self.norm
        self.register_buffer("scratch", torch.rand(width), persistent=False)
        self.plain = torch.rand(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.embed(x)) + self.scratch) * self.plain


class Extra(nn.Module):
    """Has a state that is no tensor."""

    def __init__(self, note: str) -> None:
        super().__init__()
        self.linear, self.note = nn.Linear(2, 2), [note]

    def get_extra_state(self) -> str:
        return self.note[0]

    def set_extra_state(self, state: str) -> None:
        self.note[0] = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def mixed() -> list[nn.Module]:
    """Members of three structures, in turn."""
    made: list[nn.Module] = []
    for i in range(6):
        kind = i % 3
        if kind == 0:
            made.append(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.1 + i / 10)))
        elif kind == 1:
            made.append(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
        else:
            made.append(weight_norm(nn.Linear(4, 3)))
    return made


def assert_same(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("make", [lambda: [Tied() for _ in range(3)], mixed], ids=["tied", "mixed"])
def test_members_state_is_that_of_the_plain_module(make: object) -> None:
    modules = make()  # type: ignore[operator]
    stack = ch.Stack(modules)
    others = make()  # type: ignore[operator]
    for i, (module, other) in enumerate(zip(modules, others, strict=True)):
        state = stack.member_state(i)
        assert list(state) == list(module.state_dict()) == list(stack[i].state_dict())
        other.load_state_dict(state, strict=True)
        assert_same(other, module)


@pytest.mark.parametrize("make", [lambda: [Tied() for _ in range(3)], mixed], ids=["tied", "mixed"])
def test_plain_modules_state_goes_into_a_member(make: object) -> None:
    stack, modules = ch.Stack(make()), make()  # type: ignore[operator]
    before = stack.modules_list()
    stack.load_member_state(1, modules[1].state_dict())
    for i in range(len(stack)):
        assert_same(stack[i], modules[1] if i == 1 else before[i])
    x = torch.tensor([0, 1, 2]) if isinstance(modules[0], Tied) else torch.randn(5, 4)
    ch.verify(stack.eval(), x, raises=True)


def test_member_state_is_a_view() -> None:
    stack = ch.Stack([nn.Linear(2, 2) for _ in range(3)])
    stack.member_state(1)["weight"].fill_(7.0)
    assert (stack[1].weight == 7).all()
    assert not (stack[0].weight == 7).any()
    assert not any(tensor.requires_grad for tensor in stack.member_state(1).values())


def test_extra_states_are_the_members_own() -> None:
    stack = ch.Stack([Extra("a"), Extra("a")])
    state = Extra("a").state_dict()
    assert stack.member_state(1)["_extra_state"] == "a"
    stack.load_member_state(1, state)
    assert torch.equal(stack[1].linear.weight, state["linear.weight"])
    assert not torch.equal(stack[0].linear.weight, state["linear.weight"])


class Counter(nn.Module):
    """Its output depends on what its extra state says: a number, a tensor, and a nested table."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.count, self.table = nn.Linear(2, 2), 0, {"a": [1]}
        self.scale = torch.ones(2)

    def get_extra_state(self) -> object:
        return {"count": self.count, "scale": self.scale, "table": self.table}

    def set_extra_state(self, state: object) -> None:
        self.count = state["count"]  # type: ignore[index]
        self.scale = state["scale"]  # type: ignore[index]
        self.table["a"][0] = state["table"]["a"][0]  # type: ignore[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.layer(x) + self.count) * self.scale * self.table["a"][0]


def counter(count: int) -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 2), Counter())
    made[1].count, made[1].table = count, {"a": [count + 1]}
    made[1].scale = torch.full((2,), 1.0 + count)
    return made


def counters() -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(2, 2), Counter()) for _ in range(3)]


X = torch.ones(1, 2)


def test_what_an_extra_state_says_goes_into_the_member() -> None:
    stack, plain = ch.Stack(counters()), counter(5)
    before = stack(X)
    stack.load_member_state(1, plain.state_dict())
    torch.testing.assert_close(stack(X)[1], plain(X))
    torch.testing.assert_close(stack(X)[[0, 2]], before[[0, 2]])
    assert [stack[i][1].count for i in range(3)] == [0, 5, 0]
    assert [stack[i][1].table for i in range(3)] == [{"a": [1]}, {"a": [6]}, {"a": [1]}]
    again = counter(0)
    again.load_state_dict(stack.member_state(1))
    torch.testing.assert_close(again(X), plain(X))


@pytest.mark.parametrize("way", ["state_dict", "torch.save", "ch.save", "inside"])
def test_extra_states_of_all_members_come_back(way: str, tmp_path: Path) -> None:
    stack, other = ch.Stack(counters()), ch.Stack(counters())
    for i in range(3):
        stack.load_member_state(i, counter(i + 1).state_dict())
    if way == "ch.save":
        ch.save(stack, tmp_path / "stack")
        ch.load(tmp_path / "stack", into=other)
        alone = ch.load(tmp_path / "stack", into=counters()[0], member=2)
        torch.testing.assert_close(alone(X), stack(X)[2])
    elif way == "torch.save":
        torch.save(stack.state_dict(), tmp_path / "state")
        other.load_state_dict(torch.load(tmp_path / "state"))
    elif way == "inside":
        holder = nn.Sequential(nn.Linear(2, 2), other)
        holder.load_state_dict(nn.Sequential(nn.Linear(2, 2), stack).state_dict())
    else:
        other.load_state_dict(stack.state_dict())
    torch.testing.assert_close(other(X), stack(X))
    assert [other[i][1].count for i in range(3)] == [1, 2, 3]


def test_extra_states_that_do_not_fit_are_named() -> None:
    stack = ch.Stack(counters())
    state = stack.state_dict()
    extra = state.pop("_extra_state")
    with pytest.raises(RuntimeError, match="Missing key.*_extra_state"):
        stack.load_state_dict(state)
    assert stack.load_state_dict(state, strict=False).missing_keys == ["_extra_state"]
    for wrong in (3, [], [extra[0][:2]], [[{}, {}, {}]]):
        with pytest.raises(RuntimeError, match="_extra_state: it"):
            stack.load_state_dict({**state, "_extra_state": wrong})
    with pytest.raises(RuntimeError, match="_extra_state: these members have none"):
        ch.Stack([nn.Linear(2, 2)]).load_state_dict(
            ch.Stack([nn.Linear(2, 2)]).state_dict() | {"_extra_state": extra}
        )


def test_an_extra_state_that_makes_tensors_is_refused() -> None:
    stack, plain = ch.Stack(counters()), counter(2)
    state = plain.state_dict()
    state["1._extra_state"]["scale"] = torch.ones(3)
    before = stack(X)
    with pytest.raises(ValueError, match=r"load_member_state\(1, ...\).*reshaped 1.scale"):
        stack.load_member_state(1, state)
    torch.testing.assert_close(stack(X), before)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    stack = ch.Stack([nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2)])
    before = copy.deepcopy(stack.state_dict())
    state = stack[0].state_dict()
    state["0.weight"] = torch.ones(3, 2)
    state["1.weight"] = torch.ones(4)
    state["more"] = torch.ones(1)
    del state["1.running_mean"]
    with pytest.raises(ValueError, match="load_member_state") as caught:
        stack.load_member_state(1, state)
    for part in (
        "1.weight is of shape (4,), the member's is of shape (3,)",
        "1.running_mean is missing",
        "more is not the member's",
    ):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in stack.state_dict().items())
    with pytest.raises(TypeError, match="dict"):
        stack.load_member_state(0, [1])  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="pass -2 to 1"):
        stack.load_member_state(2, state)
    with pytest.raises(IndexError, match="member 5 of a stack of 2"):
        stack.member_state(5)


def test_state_of_the_whole_stack() -> None:
    one, other = ch.Stack(mixed()), ch.Stack(mixed())
    other.load_state_dict(one.state_dict(), strict=True)
    for i in range(len(one)):
        assert_same(one[i], other[i])
    saved = pickle.loads(pickle.dumps(one.state_dict()))
    other.load_state_dict(saved)
    assert set(one.state_dict()) == {n for n, _ in one.named_parameters()} | {
        n for n, _ in one.named_buffers()
    }


def test_state_survives_a_file_read_without_code(tmp_path: Path) -> None:
    stack = ch.Stack(mixed())
    torch.save(stack.state_dict(), tmp_path / "state.pt")
    other = ch.Stack(mixed())
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same(stack[4], other[4])


def test_rows_of_other_members_are_refused() -> None:
    """The same names and shapes, and yet other members."""
    wide, deep = nn.Linear(2, 3), nn.Linear(2, 4)
    one = ch.Stack([wide, wide, deep, deep])
    other = ch.Stack([wide, deep, wide, deep])
    with pytest.raises(RuntimeError, match=r"\[0, 1\], \[2, 3\], this stack's have \[0, 2\], \[1"):
        other.load_state_dict(one.state_dict())


def test_state_of_one_member_is_refused_and_the_mend_named() -> None:
    stack = ch.Stack([nn.Linear(2, 3) for _ in range(2)])
    with pytest.raises(RuntimeError, match=r"stack.load_member_state\(index, state\)"):
        stack.load_state_dict(stack[0].state_dict())
    with pytest.raises(RuntimeError, match=r"groups\.0\.weight"):
        stack.load_state_dict(ch.Stack([nn.Linear(2, 4) for _ in range(2)]).state_dict())


def test_pickled_to_a_subprocess(tmp_path: Path) -> None:
    members = [nn.Sequential(nn.Linear(4, 4), nn.Dropout(p)) for p in (0.2, 0.5, 0.5)]
    stack = ch.Stack([*members, nn.Linear(4, 2)], seed=7)
    x = torch.randn(3, 4)
    stack(x)
    torch.save((stack, x), tmp_path / "in.pt")
    script = (
        "import sys, torch; stack, x = torch.load(sys.argv[1], weights_only=False);"
        "torch.save(stack(x), sys.argv[2])"
    )
    arguments = [sys.executable, "-c", script, tmp_path / "in.pt", tmp_path / "out.pt"]
    subprocess.run(list(map(str, arguments)), check=True, timeout=120)
    there = torch.load(tmp_path / "out.pt")
    here = stack(x)
    assert len(there) == len(here) == 4
    assert all(torch.equal(a, b) for a, b in zip(there, here, strict=True))


def test_deepcopy_is_independent_and_draws_the_same() -> None:
    stack = ch.Stack([nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)) for _ in range(3)], seed=2)
    x = torch.randn(5, 4)
    stack(x)
    other = copy.deepcopy(stack)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.mul_(1.0)
    assert torch.equal(stack(x), other(x))
    with torch.no_grad():
        next(stack.parameters()).fill_(0)
    assert not (other[0][0].weight == 0).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_casting_gives_the_members_cast(dtype: torch.dtype) -> None:
    modules = mixed()
    stack = ch.Stack(modules).to(dtype).eval()
    x = torch.randn(5, 4).to(dtype)
    outputs = stack(x)
    assert outputs.dtype == dtype
    for i, module in enumerate(modules):
        alone = copy.deepcopy(module).to(dtype).eval()
        assert_same(stack[i], alone)
        torch.testing.assert_close(outputs[i], alone(x), rtol=0.02, atol=0.02)
    stack[0] = modules[0].to(dtype).eval()


def test_half_then_back() -> None:
    stack = ch.Stack([nn.Linear(3, 2) for _ in range(2)]).half()
    assert {p.dtype for p in stack.parameters()} == {torch.float16}
    assert stack[0].weight.dtype == torch.float16
    assert stack(torch.randn(4, 3).half()).dtype == torch.float16
    assert stack.float()[1].weight.dtype == torch.float32


def test_requires_grad_reaches_every_member() -> None:
    modules = [nn.Linear(2, 2) for _ in range(3)]
    modules[1].weight.requires_grad_(False)
    stack = ch.Stack(modules)
    assert [stack[i].weight.requires_grad for i in range(3)] == [True, False, True]
    assert stack.requires_grad_(False) is stack
    assert not any(p.requires_grad for module in stack for p in module.parameters())
    stack.requires_grad_()
    assert all(p.requires_grad for module in stack for p in module.parameters())
    stack(torch.ones(1, 2)).sum().backward()
    assert all(entry.frozen is None for entry in stack.layout())
    assert (next(stack.parameters()).grad != 0).all()


def test_modes() -> None:
    stack = ch.Stack([nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval(), nn.Linear(2, 3)])
    kept = stack.modes()
    assert kept == {
        "": False, "groups.0": False, "groups.0.0": False, "groups.0.1": False, "groups.1": True,
    }  # fmt: skip
    stack.train()
    assert all(stack.modes().values())
    assert stack[0].training
    stack.set_modes(kept)
    assert stack.modes() == kept
    assert not stack[0][1].training
    assert stack[1].training
    with pytest.raises(ValueError, match="'groups.7'"):
        stack.set_modes({"groups.7": True, "": True})
    assert stack.modes() == kept


def test_forward_hooks_of_the_stack() -> None:
    stack = ch.Stack([nn.Linear(2, 2) for _ in range(3)])
    seen = []
    handle = stack.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    stack(torch.ones(4, 2))
    handle.remove()
    stack(torch.ones(4, 2))
    assert seen == [(3, 4, 2)]


def test_parameters_as_one_vector() -> None:
    stack = ch.Stack(mixed())
    x = torch.randn(5, 4)
    vector = parameters_to_vector(stack.parameters())
    assert vector.numel() == sum(p.numel() for module in mixed() for p in module.parameters())
    vector_to_parameters(vector * 2, stack.parameters())
    assert torch.equal(parameters_to_vector(stack.parameters()), vector * 2)
    ch.verify(stack.eval(), x, raises=True)


def test_a_compiled_stack_says_that_it_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "_said", [])
    members = [nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)) for _ in range(3)]
    stack, other = ch.Stack(members, seed=3), ch.Stack(members, seed=3)
    x = torch.randn(5, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = torch.compile(stack, backend="eager")
        outputs = [compiled(x) for _ in range(3)]
        outputs[0].sum().backward()
    said = [str(one.message) for one in caught if one.category is ch.ChimeraWarning]
    assert len(said) == 1
    assert "runs eagerly" in said[0]
    assert not torch.equal(outputs[0], outputs[1])
    for output in outputs:
        assert torch.equal(output, other(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match="runs eagerly"):
            torch.compile(lambda x: stack(x) + 1, backend="eager", fullgraph=True)(x)


@given(order=st.permutations(range(6)), moved=st.lists(st.integers(0, 5), max_size=4))
@settings(deadline=None, max_examples=25)
def test_states_move_between_stacks(order: list[int], moved: list[int]) -> None:
    """A member's state is its own wherever it stands."""
    torch.manual_seed(0)
    modules, others = mixed(), mixed()
    stack = ch.Stack([others[i] for i in order])
    expected = [others[i] for i in order]
    for member in moved:
        place = order.index(member)
        stack.load_member_state(place, ch.Stack(modules).member_state(member))
        expected[place] = modules[member]
    for i, module in enumerate(expected):
        assert_same(stack[i], module)


class Last(nn.Module):
    """Keeps its last output, which the next call adds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(2, 2), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        if self.last is not None:
            y = y + self.last
        self.last = y.detach()
        return y


def lasts(seed: int) -> ch.Stack:
    torch.manual_seed(seed)
    return ch.Stack([Last() for _ in range(3)])


def test_what_calls_made_is_in_no_state_as_alone() -> None:
    used, fresh = lasts(0), lasts(1)
    used(X)
    assert list(used.state_dict()) == list(fresh.state_dict())
    assert list(used.member_state(1)) == list(used[1].state_dict()) == list(Last().state_dict())
    fresh.load_state_dict(used.state_dict())
    alone = Last()
    alone.load_state_dict(used.member_state(2))
    torch.testing.assert_close(fresh(X)[2], alone(X))
    used.load_state_dict(lasts(3).state_dict())
    ch.verify(used, X, raises=True)


def test_a_file_holds_what_calls_made(tmp_path: Path) -> None:
    used, again, fresh = lasts(0), lasts(1), lasts(2)
    used(X), again(X)
    ch.save(used, tmp_path / "used")
    ch.save(fresh, tmp_path / "fresh")
    with pytest.warns(ch.ChimeraWarning, match=r"holds groups.0.last, kept outside of state_dict"):
        ch.load(tmp_path / "used", into=lasts(3))
    ch.load(tmp_path / "used", into=again)
    torch.testing.assert_close(again(X), used(X))
    ch.load(tmp_path / "fresh", into=again)
    assert torch.equal(again[1].layer.weight, fresh[1].layer.weight)
    with pytest.warns(ch.ChimeraWarning, match="holds last, kept outside of state_dict"):
        ch.load(tmp_path / "used", into=Last(), member=1)
