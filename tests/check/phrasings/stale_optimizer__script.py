import torch
from case import wrong
from torch import nn


@wrong()
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(20, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


if __name__ == "__main__":
    net = Net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    net.body = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8))
    for _ in range(3):
        opt.step()
