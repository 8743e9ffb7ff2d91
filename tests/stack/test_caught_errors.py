"""Members that catch errors of torch: one member's error is nothing to the others."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _cholesky(matrix):
    try:
        return torch.linalg.cholesky(matrix)
    except torch.linalg.LinAlgError:
        return torch.linalg.cholesky(matrix + torch.eye(len(matrix), dtype=matrix.dtype))


class Jitters(nn.Module):
    """Adds to the diagonal only where it must, as Gaussian processes do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("failed", torch.zeros(()))

    def forward(self, x):
        h = self.layer(x[:3])
        return _cholesky(h @ h.T)


class Inverts(Jitters):
    def forward(self, x):
        self.failed += 1
        try:
            back = torch.linalg.inv(self.layer.weight)
            self.failed -= 1
        except (RuntimeError, ValueError):
            back = torch.zeros_like(self.layer.weight)
        return x @ back


class Suppresses(Jitters):
    def forward(self, x):
        scale = 2.0
        with contextlib.suppress(RuntimeError):
            scale = torch.linalg.inv(self.layer.weight).sum()
        return self.layer(x) * scale


class LooksUp(Jitters):
    """A table that is too short for some members."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 3)

    def forward(self, x):
        where = self.layer.weight.detach().abs().sum().long().clamp(max=9) * 9
        try:
            return self.layer(x) + self.table(where)
        except IndexError:
            return self.layer(x)


class Nested(Jitters):
    def forward(self, x):
        for jitter in (0.0, 1.0):
            try:
                return Jitters.forward(self, x + jitter)
            except RuntimeError:
                continue
        return x


class AsksFirst(Jitters):
    """A condition on data stands before what fails."""

    def forward(self, x):
        if self.layer.weight.sum() > 100:
            return x
        return Jitters.forward(self, x)


KINDS = [Jitters, Inverts, Suppresses, LooksUp, Nested, AsksFirst]


def _one_fails(members, kind, n=4):
    nets = members(kind, n)
    with torch.no_grad():
        nets[2].layer.weight.zero_()
        nets[2].layer.bias.zero_()
    return nets


@pytest.mark.parametrize("kind", KINDS)
def test_one_member_fails(agree, members, kind):
    stack = agree(_one_fails(members, kind), X, steps=2)
    assert "forward caught errors in" in str(ch.explain(stack))


@pytest.mark.parametrize("kind", [Jitters, Inverts, Suppresses, AsksFirst])
def test_one_member_fails_at_a_later_call(agree, members, kind):
    nets = members(kind, 4)
    stack = agree(nets, X, steps=2)
    assert not ch.explain(stack).alone
    failing = stack[2]
    with torch.no_grad():
        for net in (failing, nets[2]):
            net.layer.weight.zero_()
            net.layer.bias.zero_()
    stack[2] = failing
    key = {"seed": 7, "step": stack.calls}
    out = stack(X)
    for index, net in enumerate(nets):
        with ch.randomness(member=index, **key):
            torch.testing.assert_close(out[index], net(X), rtol=1e-9, atol=1e-9)
        assert torch.equal(stack[index].failed, net.failed)
    assert "forward caught errors in 1 call, which ran one by one" in str(ch.explain(stack))


def test_members_that_fail_again_and_again_run_alone_from_then_on(members):
    stack = ch.Stack(_one_fails(members, Jitters))
    for _ in range(4):
        assert not ch.explain(stack).alone
        stack(X)
    assert "forward catches an error, which may be one member's alone" in str(ch.explain(stack))


class Translates(Jitters):
    """Says what is wrong in words of its own, as einops does."""

    def forward(self, x):
        try:
            return self.layer(x)
        except RuntimeError as error:
            raise ValueError("the layer") from error


def test_what_is_raised_again_is_caught_by_nobody(members):
    stack = ch.Stack(members(Translates, 3))
    stack(X)
    (group,) = stack._groups
    assert not any(plan.guarded for plan in group.plans.values())
    with pytest.raises(ValueError, match="the layer"):
        stack(X[:, :2])


def test_an_error_around_the_stack_is_the_callers(members):
    class Plain(Jitters):
        def forward(self, x):
            return self.layer(x)

    stack = ch.Stack(members(Plain, 3))
    with contextlib.suppress(RuntimeError):
        stack(X)
        stack(X[:2])
    (group,) = stack._groups
    assert not any(plan.guarded for plan in group.plans.values())


def test_a_step_that_catches_errors_is_not_recorded(members):
    stack = ch.Stack(members(Jitters, 3))
    step = ch.train_step(stack, F.mse_loss, ch.optim.SGD(stack, lr=0.01), engine="compiled")
    target = torch.eye(3, dtype=X.dtype)
    step(X, target)
    step(X, target)
    with pytest.warns(ch.ChimeraWarning, match="members catch errors of what they compute"):
        step(X, target)
