"""Residual: the sum, its shapes, and an input left alone."""

import pytest
import torch
from torch import nn

import chimera as ch


class InPlace(nn.Module):
    def forward(self, x, by=2):
        return x.mul_(by)


def test_adds_and_projects():
    torch.manual_seed(0)
    body, projection, x = nn.Linear(3, 4), nn.Linear(3, 4), torch.rand(2, 3)
    net = ch.Residual(body, projection)
    assert torch.equal(net(x), projection(x) + body(x))
    assert list(net.state_dict())[::2] == ["body.weight", "projection.weight"]
    same = nn.Linear(3, 3)
    assert torch.equal(ch.Residual(same)(x), x + same(x))
    assert list(ch.Residual(same).state_dict()) == ["body.weight", "body.bias"]


@pytest.mark.parametrize("projection", [None, InPlace, nn.Identity])
@pytest.mark.parametrize("body", [InPlace, lambda: nn.ReLU(inplace=True), nn.Identity])
def test_never_changes_its_input(body, projection):
    x = torch.randn(2, 3)
    kept = x.clone()
    out = ch.Residual(body(), projection() if projection else None)(x)
    assert torch.equal(x, kept)
    direct = projection()(kept.clone()) if projection else kept
    assert torch.equal(out, direct + body()(kept.clone()))


def test_gradients_reach_input_and_body():
    body, x = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3)), torch.randn(2, 3)
    x.requires_grad_()
    ch.Residual(body)(x).sum().backward()
    slope = body[1].weight.sum(0) * (x > 0) + 1
    torch.testing.assert_close(x.grad, slope)


def test_further_inputs_go_to_the_body():
    x = torch.rand(2)
    assert torch.equal(ch.Residual(InPlace())(x, 3), x + x * 3)
    assert torch.equal(ch.Residual(InPlace())(x, by=3), x + x * 3)


def test_shapes_that_differ_suggest_a_projection():
    with pytest.raises(ValueError, match=r"x is \(2, 3\), body\(x\) is \(2, 4\).*pass projection="):
        ch.Residual(nn.Linear(3, 4))(torch.rand(2, 3))
    with pytest.raises(
        ValueError, match=r"projection\(x\) is \(2, 1\), body\(x\) is \(2, 4\)"
    ) as e:
        ch.Residual(nn.Linear(3, 4), nn.Linear(3, 1))(torch.rand(2, 3))
    assert "pass projection" not in str(e.value)


def test_mistakes():
    with pytest.raises(TypeError, match=r"body is the class nn\.ReLU"):
        ch.Residual(nn.ReLU)
    with pytest.raises(TypeError, match="projection is 3"):
        ch.Residual(nn.ReLU(), 3)
    with pytest.raises(TypeError, match=r"body\(x\) is a tuple"):
        ch.Residual(nn.LSTM(3, 3))(torch.rand(2, 3))
