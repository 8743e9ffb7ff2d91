from case import right, wrong
from torch import nn
from torch.nn import functional as F


@wrong()
class Functional(nn.Module):
    def __init__(self, p=0.3):
        super().__init__()
        self.p = p
        self.fc1, self.fc2 = nn.Linear(20, 20), nn.Linear(20, 2)

    def forward(self, x):
        return self.fc2(F.dropout(F.relu(self.fc1(x)), self.p))


@wrong("batch", 6, 16)
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.dropout = 0.1

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)


@wrong("batch", 3, 8, 8)
class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        x = nn.functional.dropout2d(x, p=0.25, training=True)
        return x.mean((2, 3))


@right()
class Guarded(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 20), nn.Linear(20, 2)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        if self.training:
            x = F.dropout(x, 0.3)
        return self.fc2(F.dropout(x, p=0.1, training=self.training))


@right("batch", 6, 16)
class GuardedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        p = 0.1 if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p)
