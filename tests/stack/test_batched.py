"""Members run as one: any Python in forward, conditions on data, what vmap would get wrong."""

import collections
import contextlib
import copy
import dataclasses
import functools
import typing
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch

X = torch.linspace(-1, 1, 12).view(3, 4).double()


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)


def notes(stack):
    return " ".join(ch.explain(stack).notes)


def parts_of(stack):
    """Into how many parts the last call split the members; 0 where it ran one by one."""
    assert not ch.explain(stack).alone
    return int(notes(stack).split(" parts")[0].split()[-1]) if " parts" in notes(stack) else 1


# Conditions on data.


class Agree(Base):
    def forward(self, x):
        h = self.layer(x)
        return h * 2 if h.abs().sum() >= 0 else h


class If(Base):
    def forward(self, x):
        h = self.layer(x)
        return h * 2 if h.sum() > 0 else h.exp()


class Nested(Base):
    def forward(self, x):
        h = self.layer(x)
        if h.sum() > 0:
            if h[0].sum() > 0.5:
                return h * 3
            return h if h.amax() < 1 and h.amin() < 0 else h.tanh()
        return h * 2


class Loop(Base):
    def forward(self, x):
        h, turns = self.layer(x), 0
        while True:
            turns += 1
            h = h * 0.5
            if not h.abs().sum() > 1 or turns > 8:
                return h * turns


class Draws(Base):
    """Draws before, between and after conditions; the outcome is a draw's."""

    def forward(self, x):
        h = F.dropout(self.layer(x), 0.3, self.training)
        if torch.rand(()) < 0.5:
            h = h + torch.randn_like(h)
        return h * torch.rand(()) if h.sum() > 0 else F.dropout(h)


class Numbers(Base):
    def forward(self, x):
        h = self.layer(x).detach()
        size = 1 + int((h.sum() > 0).item())
        signs = (h.sum(0) > 0).tolist()[:2]
        index = (h[0, 0] > 0).long()
        rows = [1.0, 2.0][index]
        while signs:  # the list is the module's to change, also when the call runs again
            size = size * 2 + signs.pop()
        return self.layer(x) * size * rows * float((h[1].sum() > 0).float()) + 1


class Statistics(Base):
    """Buffers written before the members differ must not be written twice."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(4), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen.add_(1)
        h = self.norm(self.layer(x))
        return h * self.seen if h[0].sum() > 0.01 else h * self.calls


class Catches(Base):
    """Catches whatever is raised inside."""

    def forward(self, x):
        h = F.dropout(self.layer(x), 0.2, self.training)
        try:
            scale = 2.0 if h.sum() > 0 else 3.0
        except Exception:  # noqa: BLE001
            scale = 0.0
        return h * scale


@pytest.mark.parametrize("kind", [Agree, If, Nested, Loop, Draws, Numbers, Statistics, Catches])
@pytest.mark.parametrize("n", [1, 3, 24, 96])
def test_conditions(agree, members, kind, n):
    agree(members(kind, n), X, steps=2)


@pytest.mark.parametrize(
    ("kind", "most"), [(Agree, 1), (If, 2), (Nested, 5), (Loop, 9), (Statistics, 2), (Catches, 2)]
)
def test_members_that_differ_run_in_parts(agree, members, kind, most):
    stack = agree(members(kind, 96), X, steps=1)
    assert (1 if kind is Agree else 2) <= parts_of(stack) <= most


def test_too_many_parts_run_one_by_one(agree, members):
    class Count(Base):
        def forward(self, x):
            return self.layer(x) * float(self.layer(x).detach().sum())

    stack = agree(members(Count, 24), X)
    (row, _) = ch.explain(stack).alone
    assert row.reason == ("conditions on data part the 24 members into more than 6 runs")


def test_conditions_that_agree_cost_one_run(members):
    stack = ch.Stack(members(Agree, 24))
    stack(X)
    assert parts_of(stack) == 1


def test_conditions_on_what_is_shared(agree, members):
    class Shape(Base):
        def forward(self, x, mask=None):
            if x.sum() > 100 or (mask is not None and mask.any()):
                raise AssertionError("not taken")
            return self.layer(x)

    stack = agree(members(Shape, 8), ch.inputs(X, mask=torch.zeros(3, dtype=torch.bool)))
    assert parts_of(stack) == 1


def test_a_truth_of_several_numbers_is_an_error_as_alone(members):
    class Wrong(Base):
        def forward(self, x):
            return x if self.layer(x) > 0 else -x

    with pytest.raises(RuntimeError, match="Boolean value of Tensor with more than one value"):
        ch.Stack(members(Wrong, 4))(X)


def test_nan_has_an_outcome_of_its_own(agree, members):
    class Nan(Base):
        def forward(self, x):
            value = self.scale.item()
            return self.layer(x) * (1.0 if value != value else 2.0)

    modules = members(Nan, 16)
    for index, module in enumerate(modules):
        module.register_buffer("scale", torch.tensor([float("nan"), 0.0, -0.0][index % 3]))
    agree(modules, X)


# What batched tensors answer wrongly without an error.


class AsksGradient(Base):
    def forward(self, x):
        h = self.layer(x)
        return h * 2 if h.requires_grad else h * 3


class TensorHook(Base):
    def forward(self, x):
        h = self.layer(x)
        if torch.is_grad_enabled():
            h.register_hook(lambda grad: -3 * grad)
        return h * 2


class AsksGraph(Base):
    def forward(self, x):
        h = self.layer(x)
        return h * (2 if h.grad_fn is None else 5) * (3 if h.is_leaf else 7)


class AsksClass(Base):
    def forward(self, x):
        weight, scale = self.layer.weight, 3 if isinstance(x, nn.Parameter) else 5
        return self.layer(x) * (2 if isinstance(weight, nn.Parameter) else 7) * scale


class CatchesItem(Base):
    def forward(self, x):
        h = self.layer(x)
        try:
            scale = 1.0 if h.sum().item() > 0 else 2.0
        except RuntimeError:
            scale = 0.0
        return h * scale


class CatchesDraw(Base):
    def forward(self, x):
        try:
            return F.dropout(self.layer(x), 0.5, self.training)
        except RuntimeError:
            return self.layer(x)


class CatchesHiddenDraw(Base):
    def forward(self, x):
        try:
            return self.layer(x)[:, torch.randperm(4)]
        except Exception:  # noqa: BLE001
            return self.layer(x)


@pytest.mark.parametrize(
    "kind",
    [AsksGradient, TensorHook, AsksGraph, AsksClass, CatchesItem, CatchesDraw, CatchesHiddenDraw],
)
@pytest.mark.parametrize("n", [2, 12])
def test_what_goes_wrong_in_silence(agree, members, kind, n):
    agree(members(kind, n), X)


def test_gradient_asked_without_grad(agree, members):
    agree(members(AsksGradient, 4), X, gradients=False, around=torch.no_grad)


# Nothing of member 0 is used for another.


class Closure(Base):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.offset = torch.randn(4, dtype=torch.float64)
        scale, tensors = self.scale, [self.offset]
        self.whole = lambda x: self.layer(x) + self.offset
        self.parts = {"scale": lambda x: x * scale + tensors[0]}
        self.partial = functools.partial(lambda owner, x: owner.layer(x), self)
        self.method = self.shift

        def recursive(x, turns=2):
            return self.whole(x) if turns == 0 else recursive(x, turns - 1)

        self.recursive = recursive

    def shift(self, x):
        return x - self.offset

    def forward(self, x):
        return self.method(self.parts["scale"](self.partial(x))) * self.recursive(x)


class Weak(Base):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.inner.owner = weakref.ref(self)

    def forward(self, x):
        return self.inner.owner().layer(self.inner(x))


class Plain(Base):
    def __init__(self):
        super().__init__()
        self.rand_weight = torch.randn(4, 4, dtype=torch.float64)
        self.nested = {"a": [torch.randn(4, dtype=torch.float64)], 3: (torch.randn(4).double(), 1)}

    def forward(self, x):
        return self.layer(x @ self.rand_weight) * self.nested["a"][0] + self.nested[3][0]


class Settings:
    def __init__(self):
        self.width, self.names = 4, {"one", "two"}
        self.table = torch.randn(4, dtype=torch.float64)


class ByObject(Base):
    def __init__(self):
        super().__init__()
        self.settings = Settings()
        self.layer.settings = self.settings

    def forward(self, x):
        return self.layer(x) * self.layer.settings.table + len(self.settings.names)


@pytest.mark.parametrize("kind", [Closure, Weak, Plain, ByObject])
def test_what_stands_outside_the_registers(agree, members, kind):
    stack = agree(members(kind, 4), X)
    assert not ch.explain(stack).alone
    modules = members(kind, 4)
    stack = ch.Stack(modules)
    expected = torch.stack([module(X) for module in modules])
    for module in modules:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(float("nan"))
    del modules
    assert torch.allclose(stack(X), expected)
    assert torch.allclose(stack[2](X), expected[2])


# Outputs.


Pair = collections.namedtuple("Pair", "mean rest")


class Typed(typing.NamedTuple):
    value: torch.Tensor
    note: str


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    extra: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    logits: torch.Tensor


@dataclasses.dataclass
class ModelOutput(collections.OrderedDict):
    """As transformers give: a dataclass and a dict in one."""

    logits: torch.Tensor = None
    loss: torch.Tensor = None

    def __post_init__(self):
        for key in ("logits", "loss"):
            if getattr(self, key) is not None:
                self[key] = getattr(self, key)


class Opaque:
    """Holds a tensor where nobody can see it."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


OUTPUTS = {
    "dict": lambda h: {"a": h, "b": [h.sum(), (h.amax(0),)]},
    "none": lambda h: None,
    "values": lambda h: (None, 3, "text", h.shape, h.dtype, 2.5, True, slice(1)),
    "named tuple": lambda h: Pair(h.mean(), [Typed(h, "note")]),
    "dataclass": lambda h: Result(h, {"sum": h.sum()}),
    "frozen": Frozen,
    "ordered": lambda h: collections.OrderedDict(b=h, a=h * 2),
    "default": lambda h: collections.defaultdict(list, a=[h]),
    "return type": lambda h: h.max(dim=0),
    "empty": lambda h: [(), {}, h],
    "integers": lambda h: (h > 0, h.argmax(1), (h * 0).int()),
    "scalar": lambda h: h.sum(),
    "constant": lambda h: torch.ones(2),
    "model": lambda h: ModelOutput(logits=h),
    "array": lambda h: (h, np.arange(3)),
    "same twice": lambda h: [h, h],
    "number of its own": lambda h: (h, h.detach().sum().item()),
    "keys of its own": lambda h: {"big" if h.sum() > 0 else "small": h},
    "shape of its own": lambda h: h[: 1 + int(h.sum() > 0)],
    "dtype of its own": lambda h: h.float() if h.sum() > 0 else h,
    "set": lambda h: ({1, 2}, h),
    "expanded": lambda h: h[:, :1].expand(3, 4),
    "transposed": lambda h: h.t(),
}


class Gives(Base):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return OUTPUTS[self.name](self.layer(x))


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("n", [1, 5, 16])
def test_outputs(agree, members, name, n):
    agree(members(Gives, n, name), X, steps=2)


def test_outputs_carry_the_member_axis(members):
    out = ch.Stack(members(Gives, 5, "model"))(X)
    assert isinstance(out, ModelOutput)
    assert out.logits.shape == out["logits"].shape == (5, 3, 4)
    assert out.loss is None
    assert ch.Stack(members(Gives, 5, "values"))(X)[:3] == (None, 3, "text")


@pytest.mark.parametrize(
    "give",
    [
        lambda h: torch.distributions.Normal(h, 1.0),
        Opaque,
        lambda h: lambda: h,
        lambda h: iter([h]),
    ],
)
def test_objects_that_may_hold_tensors_come_one_a_member(members, give):
    class Odd(Base):
        def forward(self, x):
            return give(self.layer(x))

    modules = members(Odd, 4)
    stack = ch.Stack(modules)
    out = stack(X)
    assert isinstance(out, list)
    assert len(out) == 4
    assert "which may hold tensors" in ch.explain(stack).alone[0].reason
    value = getattr(out[2], "loc", getattr(out[2], "value", None))
    if value is not None:
        assert torch.allclose(value, modules[2].layer(X))


# Inputs.


class InPlace(Base):
    def forward(self, x, others=None, *, twice=False):
        if twice or x.shape[0] > 3:
            x.mul_(2)
        x += 1
        if others is not None:
            others["list"].append(x)
            others["list"][0].zero_()
        return self.layer(x)


class InPlaceSometimes(InPlace):
    def forward(self, x, others=None, *, twice=False):
        if twice or x.shape[0] > 3:
            return super().forward(x, others, twice=twice)
        if others is not None:
            others["list"].pop()
        return self.layer(x)


class InPlaceOrNot(InPlace):
    def forward(self, x, others=None, *, twice=False):
        return super().forward(x, others, twice=twice) if x.sum() > -1e9 else x


@pytest.mark.parametrize("kind", [InPlace, InPlaceSometimes, InPlaceOrNot])
@pytest.mark.parametrize("own", [False, True])
def test_inputs_are_never_changed(members, own, kind):
    stack = ch.Stack(members(kind, 4))

    def called(x, **kwargs):
        x = torch.stack([x] * 4) if own else x
        others = {"list": [torch.ones(2)]}
        kept = x.clone()
        out = stack(ch.each(x) if own else x, others, **kwargs)
        assert torch.equal(x, kept)
        assert len(others["list"]) == 1
        assert others["list"][0].all()
        return out

    once, again = called(X), called(X)
    assert torch.equal(once, again)
    assert not torch.equal(called(X, twice=True), once)
    called(torch.cat([X, X]))


def test_an_attempt_that_fails_leaves_the_inputs_for_the_next(agree, members):
    class Late(Base):
        def forward(self, x):
            x.add_(1)  # vmap allows this, and what comes next it does not
            return self.layer(x)[:, torch.randperm(4)] * (2 if x.sum() > 0 else 1)

    stack = agree(members(Late, 4), X)
    assert ch.explain(stack).alone


def test_keyword_inputs_nested_and_each(agree, members):
    class Many(Base):
        def forward(self, x, *, mask, table, scale=1.0, flag=None):
            h = self.layer(x) * mask
            h = h + table["a"][0] * table["a"][1]
            return h * scale if flag is None else h

    generator = torch.Generator().manual_seed(0)
    table = {"a": (torch.randn(4, 3, 4, generator=generator).double(), 2.0)}
    mask = torch.rand(4, 3, 4, generator=generator) > 0.5
    inputs = ch.inputs(X, mask=ch.each(mask), table=ch.each(table), scale=3.0)
    agree(members(Many, 4), inputs)
    agree(members(Many, 4), ch.inputs(X, mask=mask[0], table=ch.each(table), flag="text"))
    stack = ch.Stack(members(Many, 4))
    direct = stack(X, mask=ch.each(mask), table={"a": ch.each(table["a"])}, scale=3.0)
    assert torch.equal(direct, stack(inputs_of(inputs)))


def inputs_of(inputs):
    return ch.inputs(*inputs.args, **inputs.kwargs)


def test_a_copy_of_a_layer_inside_forward(agree, members):
    class Copies(Base):
        def forward(self, x):
            other = copy.deepcopy(self.layer)
            assert all(p.is_leaf and isinstance(p, nn.Parameter) for p in other.parameters())
            return other(x) + self.layer(x)

    agree(members(Copies, 4), X)


# Objects under several names.


def test_one_object_that_two_modules_write_to(agree, members):
    class Tally:
        calls = 0

    class Shares(Base):
        def __init__(self):
            super().__init__()
            self.tally = self.layer.tally = Tally()

        def forward(self, x):
            self.layer.tally.calls += 1
            return self.layer(x) * self.tally.calls

    agree(members(Shares, 4), X, gradients=False)
    agree(members(Shares, 1), X, gradients=False)


def test_one_list_under_two_names_that_a_call_made(agree, members):
    class Makes(Base):
        def forward(self, x):
            if not hasattr(self, "seen"):
                self.seen = self.layer.seen = []
            self.layer.seen.append(1)
            return self.layer(x) * len(self.seen)

    agree(members(Makes, 4), X, gradients=False)


def test_one_object_that_holds_a_tensor_under_two_names(agree, members):
    class Memory:
        def __init__(self):
            self.last, self.count = torch.zeros(3, 4, dtype=torch.float64), 0

    class Keeps(Base):
        def __init__(self):
            super().__init__()
            self.memory = Memory()
            self.layer.memory = {"one": self.memory}

        def forward(self, x):
            y = self.layer(x) + self.memory.last
            self.layer.memory["one"].last = y.detach()
            self.memory.count += 1
            return y * self.layer.memory["one"].count

    agree(members(Keeps, 4), X, gradients=False)


def test_one_list_under_two_names_whose_content_differs_by_member(agree, members):
    class Parts(Base):
        def __init__(self):
            super().__init__()
            self.seen = self.layer.seen = []

        def forward(self, x):
            y = self.layer(x)
            self.layer.seen.append("high" if y.sum() > 0 else "low")
            return y * len(self.seen) * (2 if self.seen[0] == "high" else 1)

    agree(members(Parts, 12), X, gradients=False)


class _Beside(Base):
    """Keeps a list by itself and beside what differs between members."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.note = (self.seen, "none")

    def more(self, y):
        return len(self.seen)

    def forward(self, x):
        y = self.layer(x)
        self.seen = [*self.seen, self.more(y)]
        self.note = (self.seen, "high" if y.sum() > 0 else "low")
        self.note[0].append(2)
        return y * len(self.seen) * (2 if self.note[1] == "high" else 1)


def test_one_list_beside_what_differs_by_member(agree, members):
    stack = agree(members(_Beside, 12), X, gradients=False)
    first = stack[0]
    assert first.seen is first.note[0]
    assert {stack[i].note[1] for i in range(12)} == {"high", "low"}


def test_one_list_of_tensors_beside_what_differs_by_member_is_refused(members):
    class Beside(_Beside):
        def more(self, y):
            return y.detach()

    stack = ch.Stack(members(Beside, 12))
    with pytest.raises(TypeError, match=r"^seen: forward wrote one object under this name, where"):
        stack(X)


def test_an_object_shared_in_some_members_alone_parts_the_groups(members):
    class Tally:
        calls = 0

    class Shares(Base):
        def __init__(self, both):
            super().__init__()
            self.tally = Tally()
            self.layer.tally = self.tally if both else Tally()

    stack = ch.Stack([*members(Shares, 2, True), *members(Shares, 2, False)])
    assert len(stack.groups) == 2
    assert "shared" in str(ch.explain(stack))


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("way", ["method", "attribute", "module", "thaw"])
def test_freezing_a_parameter_inside_forward_is_refused(members, way, n):
    class Freezes(Base):
        def forward(self, x):
            if way == "method":
                self.layer.bias.requires_grad_(False)
            elif way == "attribute":
                self.layer.bias.requires_grad = False
            else:
                self.layer.requires_grad_(way == "thaw")
            return self.layer(x)

    modules = members(Freezes, n)
    for module in modules if way == "thaw" else ():
        module.layer.bias.requires_grad_(False)
    stack = ch.Stack(modules)
    with pytest.raises(TypeError, match="forward changes requires_grad of a parameter") as caught:
        stack(X)
    assert "member 0" in "".join(caught.value.__notes__)
    assert stack.calls == 0


# Contexts and transforms.


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_without_gradients(agree, members, around):
    agree(members(Draws, 12), X, gradients=False, around=around)
    agree(members(Statistics, 12), X, gradients=False, around=around)


def test_inference_then_training(agree, members):
    modules = members(Statistics, 12)
    stack = ch.Stack(modules, seed=7)
    agree(modules, X, stack=stack, gradients=False, steps=1, around=torch.inference_mode)


def test_autocast_gives_the_dtype_that_it_gives_alone(agree, members):
    def autocast():
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def net():
        return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))

    modules = members(net, 4, dtype=torch.float32)
    stack = agree(modules, X.float(), tolerance=2e-2, around=autocast)
    with autocast():
        assert stack(X.float()).dtype == torch.bfloat16
        assert stack[1](X.float()).dtype == torch.bfloat16


class UserVmap(Base):
    def forward(self, x):
        row = torch.vmap(lambda r: F.dropout(self.layer(r), 0.4), randomness="different")(x)
        return row + torch.vmap(self.layer, in_dims=1)(x.t().contiguous())


class UserGrad(Base):
    def forward(self, x):
        def energy(row):
            h = self.layer(row).pow(2).sum()
            return h * 2 if h > 1.0 else h

        _, pull = torch.func.vjp(self.layer, x)
        return torch.func.grad(energy)(x) + pull(torch.ones_like(x))[0]


class UserAutograd(Base):
    def forward(self, x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(self.layer(x).pow(2).sum(), x, create_graph=True)
        return grad


class OwnFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x > 0) * 0.5


class UserFunction(Base):
    def forward(self, x):
        return OwnFunction.apply(self.layer(x))


@pytest.mark.parametrize("kind", [UserVmap, UserGrad, UserAutograd, UserFunction])
@pytest.mark.parametrize("n", [3, 16])
def test_transforms_inside_forward(agree, members, kind, n):
    agree(members(kind, n), X)


def test_gradient_of_gradient_through_a_stack(members):
    stack = ch.Stack(members(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), 3))
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(stack(x).sum(), x, create_graph=True)
    grad.pow(2).sum().backward()
    total = torch.zeros_like(X)
    for module in stack:
        mine = X.clone().requires_grad_()
        total = total + torch.autograd.grad(module(mine).sum(), mine)[0]
    assert torch.allclose(grad, total)
    assert all(p.grad is not None for p in stack.parameters() if p.dim() == 3)


def test_graphs_of_earlier_calls_hold(members):
    class Keeps(Base):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.randn(4))

        def forward(self, x):
            h = self.layer(x) * self.scale
            return h * 2 if h.sum() > 0 else h

    stack = ch.Stack(members(Keeps, 16))
    first = stack(X)
    stack(X)  # its parts roll back, which must not look like a change to the first call's graph
    first.sum().backward()


def test_one_thing_twice(members):
    stack = ch.Stack(members(lambda: nn.Identity(), 3))
    x = X.clone().requires_grad_()
    stack(x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3.0))


def test_the_global_generator_is_left_alone(members):
    class Everything(Base):
        def forward(self, x):
            h = F.dropout(self.layer(x)) + torch.randn_like(x)
            return h[:, torch.randperm(4)] if h.sum() > 1e9 else F.rrelu(h, training=True)

    stack = ch.Stack(members(Everything, 12))
    alone = members(Everything, 1)[0]
    state = torch.get_rng_state()
    stack(X)
    with ch.randomness():
        alone(X)
    assert torch.equal(torch.get_rng_state(), state)
    with contextlib.suppress(ValueError), ch.randomness():
        raise ValueError
    assert torch.equal(torch.get_rng_state(), state)
