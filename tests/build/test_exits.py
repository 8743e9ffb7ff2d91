"""A network that ends the process, in its constructor or forward, is told of, and ends nothing."""

import sys

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.decide.ending import Exited

SPEC = ch.spec("batch", 4)


class InForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        self.layer(x)
        sys.exit("no weights found")


class InConstructor(nn.Module):
    def __init__(self):
        super().__init__()
        raise SystemExit(3)


@pytest.mark.parametrize("kind", [InForward, InConstructor])
@pytest.mark.parametrize("look", [ch.build, ch.shapes, ch.summary])
def test_it_is_an_error(look, kind):
    with pytest.raises(Exited, match="it would end the process: SystemExit"):
        look(kind, SPEC)


def test_it_is_an_error_with_a_note_and_on_an_example_too():
    with pytest.raises(Exited) as caught:
        ch.build(nn.Sequential(InForward()), SPEC)
    assert "in the module at 0: InForward" in "".join(caught.value.__notes__)
    with pytest.raises(Exited):
        ch.build(InForward(), example=torch.ones(2, 4))


def test_check_and_contract_tell_of_it():
    (finding,) = (f for f in ch.check(InForward, SPEC) if f.rule == "does-not-run")
    assert finding.severity == "error"
    assert "no weights found" in finding.message
    (finding,) = ch.check(InConstructor, SPEC)
    assert finding.rule == "constructor-fails"
    said = ch.contract(InForward, SPEC)
    assert said["takes its inputs"].done is False
    assert said["its parameters are registered"].done
    assert [duty.done for duty in ch.contract(InConstructor, SPEC).duties] == [None] * 5


def test_an_interrupt_is_none():
    class Interrupted(nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    for look in (ch.build, ch.shapes, ch.summary, ch.check, ch.contract):
        with pytest.raises(KeyboardInterrupt):
            look(Interrupted(), SPEC)
