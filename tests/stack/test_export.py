import pytest
import torch
from torch import nn

import chimera as ch


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.stack = ch.Stack([nn.Linear(4, 2) for _ in range(3)])

    def forward(self, x):
        return self.stack(x).mean(0)


@pytest.mark.parametrize("strict", [True, False])
def test_a_stack_is_no_module_to_export(strict):
    with pytest.raises(Exception, match="export the members, which are plain modules"):
        torch.export.export(Mean(), (torch.randn(5, 4),), strict=strict)


def test_its_members_are():
    stack = ch.Stack([nn.Sequential(nn.Linear(4, 3), nn.Tanh()) for _ in range(3)])
    x = torch.randn(5, 4)
    program = torch.export.export(stack[1], (x,))
    torch.testing.assert_close(program.module()(x), stack(x)[1])
