from case import right
from torch import nn

import chimera as ch


@right()
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x)


def clipped(nets):
    stack = ch.Stack(nets)
    for net in stack.modules_list():
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    return stack
