"""Members run one by one: hooks, errors, what has no member axis; each keeps to itself."""

import random
import traceback

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import chimera as ch

X = torch.linspace(-1, 1, 12).view(3, 4).double()


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.norm(self.layer(x))


# Hooks.


class Tally:
    def __init__(self):
        self.seen = []

    def __call__(self, module, *_):
        self.seen.append(float(module.layer.weight[0, 0]))


def test_hooks_fire_once_a_member_with_its_own_tensors(members):
    modules = members(Base, 4)
    seen = []
    for module in modules:
        module.layer.register_forward_hook(lambda m, i, o: seen.append((m.weight[0, 0].item(), o)))
    stack = ch.Stack(modules)
    out = stack(X)
    assert [weight for weight, _ in seen] == [m.layer.weight[0, 0].item() for m in modules]
    assert all(type(o) is torch.Tensor and o.shape == (3, 4) for _, o in seen)
    assert len(seen) == len(out)
    assert ch.explain(stack).alone[0].reason == "hooks (layer) fire once a member"


@pytest.mark.parametrize("kind", ["pre", "forward", "backward", "full pre"])
def test_hooks_that_change_what_passes(agree, members, kind):
    def make():
        module = Base()
        if kind == "pre":
            module.layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
        elif kind == "forward":
            module.norm.register_forward_hook(
                lambda m, args, kwargs, out: out + args[0], with_kwargs=True
            )
        elif kind == "backward":
            module.layer.register_full_backward_hook(lambda m, gi, go: (gi[0] * 3,))
        else:
            module.layer.register_full_backward_pre_hook(lambda m, go: (go[0] * 0.5,))
        return module

    agree(members(make, 4), X)


def test_hooks_that_keep_what_they_see_in_the_member(agree, members):
    def make():
        module = Base()
        module.features = []
        module.layer.register_forward_hook(
            lambda m, i, o: module.features.append(o.detach().mean(0))
        )
        return module

    modules = members(make, 4)
    stack = agree(modules, X, steps=2)
    assert [len(module.features) for module in stack] == [2] * 4
    assert not torch.equal(stack[0].features[0], stack[1].features[0])


def test_hooks_of_state_dicts_do_not_cost_the_stack(members):
    def make():
        module = Base()
        module.register_state_dict_post_hook(lambda *_: None)
        module.register_load_state_dict_pre_hook(lambda *_: None)
        return module

    stack = ch.Stack(members(make, 4))
    stack(X)
    assert len(stack.groups) == 1
    assert not ch.explain(stack).alone


def test_members_with_hooks_and_without_are_two_structures(members):
    modules = members(Base, 4)
    modules[2].layer.register_forward_hook(lambda m, i, o: o * 0)
    stack = ch.Stack(modules)
    assert len(stack.groups) == 2
    assert "layer: _forward_hooks" in str(ch.explain(stack))
    with pytest.raises(ValueError, match="_forward_hooks"):
        stack[0] = modules[2]


# Errors.


class Fails(Base):
    """The fourth member that runs meets its error; the others have changed themselves by then."""

    def forward(self, x):
        h = super().forward(x)
        if self.layer.weight[0, 0] == 9:
            raise LookupError("the ninth")
        return h


@pytest.mark.parametrize("hooked", [False, True])
def test_an_error_keeps_type_traceback_and_says_the_member(members, hooked):
    modules = members(Fails, 6)
    with torch.no_grad():
        modules[3].layer.weight[0, 0] = 9
    if hooked:
        modules = [m.layer.register_forward_hook(lambda *_: None) and m for m in modules]
    stack = ch.Stack(modules)
    before = [[t.clone() for t in m.state_dict().values()] for m in stack]
    with pytest.raises(LookupError, match="the ninth") as caught:
        stack(X)
    assert any("member 3" in note for note in caught.value.__notes__)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "forward"
    assert "LookupError" in "".join(traceback.format_exception(caught.value))
    for module, tensors in zip(stack, before, strict=True):
        assert module.calls == 0
        assert all(
            torch.equal(one, other)
            for one, other in zip(module.state_dict().values(), tensors, strict=True)
        )
    assert stack.calls == 0


def test_an_error_in_one_group_leaves_the_others_as_they_were(members):
    modules = [members(Base, 2)[0], *members(Fails, 2)]
    with torch.no_grad():
        modules[2].layer.weight[0, 0] = 9
    stack = ch.Stack(modules)
    before = [module.norm.running_mean.clone() for module in stack]
    with pytest.raises(LookupError):
        stack(X)
    for module, mean in zip(stack, before, strict=True):
        assert torch.equal(module.norm.running_mean, mean)
        assert module.norm.num_batches_tracked == module.calls == 0


def test_a_stack_works_after_an_error(agree, members):
    modules = members(Base, 4)
    stack = ch.Stack(modules, seed=7)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        stack(torch.ones(3, 5).double())
    agree(modules, X, stack=stack)
    assert not ch.explain(stack).alone


def test_an_error_in_a_group_of_one(members):
    modules = [*members(Base, 2), nn.Linear(5, 2).double()]
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        ch.Stack(modules)(X)
    assert any("member 2" in note for note in caught.value.__notes__)


# What has no member axis.


class Selects(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        h = self.layer(x)
        return h[h > 0].sum() + h[x[:, 0] > 0].mean()


class Numpy(Selects):
    def forward(self, x):
        return self.layer(x) * float(self.layer.weight.detach().numpy().sum())


class Permutes(Selects):
    def forward(self, x):
        return self.layer(x)[:, torch.randperm(4)] + F.rrelu(x, training=True)


class Ragged(Selects):
    def forward(self, x):
        return self.layer(x).flatten().nonzero(), torch.unique((self.layer(x) > 0).int())


class Generator(Selects):
    def forward(self, x):
        return self.layer(x) + torch.rand(4, generator=torch.Generator().manual_seed(5)).double()


class Renorms(Selects):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4, max_norm=0.5)

    def forward(self, x):
        return self.layer(self.table(torch.arange(5)))


ALONE = {
    Selects: "dynamic|data-dependent|vmap",
    Numpy: "storage",
    Permutes: "randperm.* hides its draws",
    Ragged: "shape depends on the data",
    Generator: "a generator of the module's own",
}


@pytest.mark.parametrize("kind", [*ALONE, Renorms])
@pytest.mark.parametrize("n", [1, 4])
def test_what_runs_one_by_one_is_exact(agree, members, kind, n):
    agree(members(kind, n), X)


@pytest.mark.parametrize("kind", ALONE)
def test_and_explained(members, kind):
    import re

    stack = ch.Stack(members(kind, 4))
    stack(X)
    rows = ch.explain(stack).alone
    assert len(rows) == 2
    assert re.search(ALONE[kind], rows[0].reason), rows[0].reason


def test_rows_share_memory_but_not_the_version_that_backward_checks(agree, members):
    class Writes(nn.Module):
        """Uses its buffer and its parameter, and changes both after."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.randn(4))
            self.register_buffer("seen", torch.randn(4))

        def forward(self, x):
            with torch.no_grad():
                self.scale.mul_(0.9)
                self.seen.add_(1)
            return x[:, torch.randperm(4)] * self.scale * self.seen

    stack = agree(members(Writes, 4), X)
    assert ch.explain(stack).alone


def test_stacked_parameters_and_gradients_show(members):
    stack = ch.Stack(members(Selects, 3))
    stack(X).sum().backward()
    weight = dict(stack.named_parameters())["groups.0.layer.weight"]
    assert weight.shape == weight.grad.shape == (3, 4, 4)


@pytest.mark.parametrize("sparse", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients(agree, members, sparse):
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = sparse(
                9, 3, sparse=True, **({"mode": "sum"} if "Bag" in sparse.__name__ else {})
            )

        def forward(self, x):
            return self.table(x)

    index = torch.tensor([[1, 2, 2, 8], [0, 1, 1, 1]])
    stack = agree(members(Sparse, 4), index)
    assert "sparse" in ch.explain(stack).alone[0].reason


# Parametrizations: classes of their own, hooks, and modules that write.


class Symmetric(nn.Module):
    def forward(self, w):
        return w + w.transpose(-1, -2)


PARAMETRIZED = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "of the user": lambda: _parametrized(nn.Linear(4, 4)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
}


def _parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrizations(agree, members, name):
    stack = agree(members(PARAMETRIZED[name], 4), X)
    assert len(stack.groups) == 1
    assert type(stack[1]) is type(stack[2]) or parametrize.is_parametrized(stack[1])


def test_parametrizations_that_run_as_one(members):
    for name in ("orthogonal", "of the user"):
        stack = ch.Stack(members(PARAMETRIZED[name], 4))
        stack(X)
        assert not ch.explain(stack).alone, name


def test_an_error_inside_a_member_points_at_the_layer():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 2))

        def forward(self, x):
            return self.body(x)

    with pytest.raises(RuntimeError, match="cannot be multiplied|same reduction dim") as caught:
        ch.Stack([Deep(), Deep()])(torch.ones(2, 4))
    notes = "\n".join(caught.value.__notes__)
    assert "body.2 of member 0 of the stack: Linear(in_features=6" in notes
    assert "came: float32 [2, 5] from body.1, ReLU(), after body.0, Linear(" in notes
    assert "mend:" in notes


def test_writing_back_in_another_mode_says_what_to_call():
    stack = ch.Stack([Base(), Base()])
    with pytest.raises(ValueError, match=r"set its mode with \.train\(\) or \.eval\(\)"):
        stack[1] = stack[1].eval()


@pytest.mark.parametrize("source", [random.random, np.random.rand])
def test_numbers_that_torch_does_not_know_of_are_each_members_own(source):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x) * float(source())

    random.seed(0), np.random.seed(0)
    modules = [Scaled() for _ in range(3)]
    stack, x = ch.Stack(modules), torch.ones(2, 4)
    for _ in range(2):
        outputs = stack(x)
        scales = [(o / m.linear(x)).mean().item() for o, m in zip(outputs, modules, strict=True)]
        assert len({round(scale, 5) for scale in scales}) == 3
    assert "one number for all that run as one" in str(ch.explain(stack))


# What torch says of a row that has no gradient yet: it is no leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_gradients_that_forward_asks_for_are_the_members_own(members):
    class ByGradient(nn.Module):
        """As a module that scales its noise by what its gradient was."""

        def __init__(self):
            super().__init__()
            self.layer, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            grad = self.layer.weight.grad
            if grad is not None:
                grad.clamp_(-0.5, 0.5)
            known = self.other.weight.grad is not None
            scale = 1.0 if grad is None else 1 + grad.norm()
            h = self.layer(x) * scale
            return h + self.other(x) if x.sum() > 0 else h + known

    modules = members(ByGradient, 3)
    stack = ch.Stack(modules)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    x = x * (torch.tensor([1, -1, 1]) * x.sum((1, 2)).sign()).view(-1, 1, 1)
    for _ in range(3):
        found = stack(ch.each(x))
        expected = [module(row) for module, row in zip(modules, x, strict=True)]
        torch.testing.assert_close(found, torch.stack(expected))
        found.square().sum().backward()
        torch.stack(expected).square().sum().backward()
        for i, module in enumerate(modules):
            grads = dict(stack.named_parameters())
            for name, parameter in module.named_parameters():
                mine = grads[f"groups.0.{name}"].grad[i]
                its = torch.zeros_like(mine) if parameter.grad is None else parameter.grad
                torch.testing.assert_close(mine, its)
