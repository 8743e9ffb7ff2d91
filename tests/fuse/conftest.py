"""``agree``: a fused network against the plain one."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import chimera as ch
from chimera.fuse import choice
from chimera.fuse.choice import Limit
from chimera.verify.measure import Runs


@pytest.fixture(autouse=True)
def always_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it costs: these tests are about what is computed."""
    every = {kind: Limit(2, 1e30) for kind in choice._THREADS}
    monkeypatch.setattr(choice, "_THREADS", every)
    monkeypatch.setattr(choice, "_ONE_THREAD", every)
    monkeypatch.setattr(choice, "_DECISIONS", {})


def run(net: nn.Module, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of one forward and backward of a copy."""
    net, x = copy.deepcopy(net), x.detach().clone()
    if x.is_floating_point():
        x.requires_grad_()
    torch.manual_seed(seed)
    out = net(x)
    outputs = list(out) if isinstance(out, tuple | list) else [out]
    total = sum((o * torch.cos(torch.arange(o.numel()).to(o).view(o.shape))).sum() for o in outputs)
    total.backward()
    found = {f"output {i}": o.detach() for i, o in enumerate(outputs)}
    if x.grad is not None:
        found["x"] = x.grad
    for name, p in net.named_parameters():
        found[f"gradient {name}"] = torch.zeros_like(p) if p.grad is None else p.grad
    found |= {f"buffer {name}": b.clone() for name, b in net.named_buffers()}
    return found


def nudged(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    with torch.no_grad():
        for p in net.parameters():
            flip = torch.randint(0, 2, p.shape, generator=torch.Generator().manual_seed(0))
            p.copy_(torch.nextafter(p, (flip * 2.0 - 1) * float("inf")))
    return net


def agreeing(net: nn.Module, x: Tensor, fused: nn.Module | None = None) -> nn.Module:
    """Assert that the fused network computes what the plain one does, as ``ch.verify`` measures."""
    fused = ch.fuse(net) if fused is None else fused
    ours, loop, moved = run(fused, x), run(net, x), run(nudged(net), x)
    wide = x.double() if x.is_floating_point() else x
    dropped = any(isinstance(m, nn.Dropout) and m.training for m in net.modules())
    exact = loop if dropped else run(copy.deepcopy(net).double(), wide)
    assert list(ours) == list(loop)
    for name in loop:
        four = [found[name].double() for found in (ours, loop, exact, moved)]
        one = Runs(*four, torch.finfo(torch.float32).eps).compare("tensor", name, by_member=False)
        assert one.ok, str(one)
    fused(x)  # a note of how the last call ran
    return fused


@pytest.fixture(scope="session")
def agree() -> Callable[..., nn.Module]:
    """``agree(net, x, fused=None)``: the fused network, seen to compute what ``net`` does."""
    return agreeing
