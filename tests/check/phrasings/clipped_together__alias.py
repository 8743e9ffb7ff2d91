from case import wrong
from torch import nn
from torch.nn.utils import clip_grad_norm_ as clip

import chimera as ch


@wrong()
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 2)

    def forward(self, x):
        return self.fc(x)


if __name__ == "__main__":
    members = ch.instances(Net, 16, seed=0)
    stack = ch.Stack(members)
    weights = list(stack.parameters())
    clip(weights, 1.0)
