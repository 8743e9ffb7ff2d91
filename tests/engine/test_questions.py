"""Questions of a recording to tensors that stand outside of it."""

import contextlib
import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.engine.questions import Asked, unasked

HELD = torch.tensor(1.0, dtype=torch.float64)
X, Y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)

QUESTIONS = {
    "float": lambda: float(HELD),
    "int": lambda: int(HELD * 2),
    "bool": lambda: 2.0 if HELD > 1.5 else 1.0,
    "item": lambda: HELD.exp().item(),
    "list": lambda: HELD.reshape(1).tolist()[0],
    "array": lambda: float(numpy.asarray(HELD)),
    "math": lambda: math.exp(HELD),
    "in": lambda: 2.0 if 2.0 in HELD.reshape(1) else 1.0,
    "equal": lambda: 2.0 if torch.equal(HELD, torch.tensor(2.0, dtype=torch.float64)) else 1.0,
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("stacked", [False, True])
def test_what_a_tensor_outside_holds_is_asked_at_every_step(monkeypatch, question, stacked):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)

    def loss(output, target):
        return F.mse_loss(output, target) * QUESTIONS[question]()

    found = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        net = nn.Linear(4, 4).double()
        if stacked:
            stack = ch.Stack([net, nn.Linear(4, 4).double()])
            step = ch.train_step(stack, loss, ch.optim.SGD(stack, lr=0.1), engine=engine)
        else:
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            step = ch.train_step(net, loss, optimizer, engine=engine)
        HELD.fill_(1.0)
        losses = [step(X, Y) for _ in range(2)]
        if engine == "compiled":
            with pytest.warns(ch.ChimeraWarning, match="it asks a tensor for a Python value"):
                losses.append(step(X, Y))
        else:
            losses.append(step(X, Y))
        HELD.fill_(2.0)
        losses += [step(X, Y) for _ in range(3)]
        found.append(torch.stack(losses))
    assert torch.equal(*found)


def test_what_is_made_of_numbers_answers():
    with unasked():
        rates = torch.linspace(0, 1, 3)
        assert rates.tolist() == [0, 0.5, 1]
        assert float((rates * 2).sum()) == 3


def test_a_question_whose_error_is_caught_is_told_all_the_same():
    def ask():
        with unasked(), contextlib.suppress(Asked):
            float(HELD)

    with pytest.raises(Asked):
        ask()
