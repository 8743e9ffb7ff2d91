"""What is trained, what a call leaves behind, and what a mode changes."""

import torch
from case import right, wrong
from torch import nn
from torch.nn import functional as F

import chimera as ch


@wrong("batch", 3, 8, 8, rule="bias-before-norm")
class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3), nn.AvgPool2d(2)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.conv(x)
        return F.relu(self.norm(x))


@right("batch", 3, 8, 8, rule="bias-before-norm")
class StemWithSkip(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        h = self.conv(x)
        return h + F.relu(self.norm(h))


@wrong(rule="branches-by-hand")
class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(20, 4) for _ in range(6))

    def forward(self, x):
        outs = []
        for head in self.heads:
            outs.append(head(x))
        return torch.cat(outs, dim=-1)


@right(rule="branches-by-hand")
class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20 + 4 * i, 4) for i in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x).relu()], dim=-1)
        return x


@wrong(rule="condition-on-data")
class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 5), nn.Linear(20, 5)

    def forward(self, x):
        return self.a(x) if (x > 0).float().mean() > 0.5 else self.b(x)


@right(rule="condition-on-data")
class SkipsByShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 5), nn.Linear(20, 5)

    def forward(self, x):
        return self.a(x) if x.ndim == 2 and x.is_floating_point() else self.b(x)


@wrong(rule="dropout-always-on")
class Noisy(nn.Module):
    def __init__(self, drop=0.3):
        super().__init__()
        self.fc, self.drop = nn.Linear(20, 5), drop

    def forward(self, x):
        return self.fc(torch.dropout(x, self.drop, True))


@right(rule="dropout-always-on")
class NoisyInTraining(nn.Module):
    def __init__(self, drop=0.3):
        super().__init__()
        self.fc, self.drop = nn.Linear(20, 5), drop

    def forward(self, x):
        return self.fc(torch.dropout(x, self.drop, self.training))


@wrong(rule="extreme-activations")
class Loud(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(20, 20) for _ in range(6)))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=2.0)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


@right(rule="extreme-activations")
class Moderate(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(20, 20) for _ in range(6)))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


@wrong(rule="forward-called")
class Direct(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 8), nn.ReLU())

    def forward(self, x):
        run = self.net.forward
        return run(x)


@right(rule="forward-called")
class DirectOfClass(nn.Linear):
    def __init__(self):
        super().__init__(20, 8)

    def forward(self, x):
        return nn.Linear.forward(self, x).relu()


@wrong(rule="hard-coded-device")
class OnTheGpu(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        bias = torch.linspace(0, 1, 5).to("cuda" if torch.cuda.is_available() else "cpu")
        return self.fc(x) + bias


@right(rule="hard-coded-device")
class WhereTheInputIs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        return self.fc(x) + torch.linspace(0, 1, 5).to(x)


@wrong(rule="initial-values")
class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 16), nn.Linear(16, 5)
        for parameter in self.parameters():
            parameter.data.zero_()

    def forward(self, x):
        return self.b(self.a(x).relu())


@right(rule="initial-values")
class SilentAtTheEnd(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 16), nn.Linear(16, 20)
        self.b.weight.data.zero_()

    def forward(self, x):
        return x + self.b(self.a(x).relu())


@wrong(rule="inplace-on-input")
class Shifts(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        rows = x.view(-1, 20)
        rows -= rows.amin()
        return self.fc(rows)


@right(rule="inplace-on-input")
class ShiftsACopy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 5)

    def forward(self, x):
        rows = x.view(-1, 20).clone()
        rows.clamp_(-3, 3)
        return self.fc(rows)


@wrong(rule="inplace-in-branch")
class Pre(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 20)

    def forward(self, x):
        x = x + 1
        h = self.fc(F.leaky_relu(x, 0.1, inplace=True))
        return torch.add(h, x)


@right(rule="inplace-in-branch")
class Post(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 20)

    def forward(self, x):
        x = x + 1
        return torch.add(F.leaky_relu(self.fc(x), 0.1, inplace=True), x)


@wrong(rule="leaves-graph")
class ToNumbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 20)
        self.out = nn.Linear(20, 2)

    def forward(self, x):
        scale = float(self.fc(x).abs().max())
        return self.out(x / scale)


@right(rule="leaves-graph")
class ToNumbersOfShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 20)
        self.out = nn.Linear(20, 2)

    def forward(self, x):
        scale = float(x.shape[-1]) ** 0.5
        return self.out(self.fc(x) / scale)


@wrong(rule="linear-after-linear")
class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(20, 16)
        self.drop = nn.Dropout(0.1)
        self.second = nn.Linear(16, 5)

    def forward(self, x):
        return self.second(self.first(x).view(-1, 16))


@right(rule="linear-after-linear")
class NormBetween(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(20, 16)
        self.second = nn.Linear(16, 5)

    def forward(self, x):
        return self.second(F.normalize(self.first(x), dim=-1))


@wrong(rule="made-in-forward")
class Projects(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def _project(self, x, width):
        return nn.Linear(x.shape[-1], width)(x)

    def forward(self, x):
        return self.fc(x) + self._project(x, 8)


@right(rule="made-in-forward")
class ActsInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        return nn.Softplus()(self.fc(x))


@wrong(rule="mistaken-argument")
class Leaks(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(20, 8), nn.LayerNorm(8, 0.1)

    def forward(self, x):
        return self.norm(self.fc(x))


@right(rule="mistaken-argument")
class Slopes(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(20, 8), nn.LeakyReLU(0.2, True)

    def forward(self, x):
        return self.act(self.fc(x))


@wrong(rule="mode-changed")
class Validates(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(20, 8), nn.Dropout(0.2)

    def forward(self, x):
        self.drop.training = False
        return self.fc(self.drop(x))


@right(rule="mode-changed")
class KeepsFrozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(20), nn.Linear(20, 8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.fc(self.norm(x))


@wrong(ch.spec("batch", 5, dtype=torch.int64), rule="no-gradient")
class Rounded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        with torch.no_grad():
            h = self.embed(x).mean(1)
        return self.out(h)


@right(ch.spec("batch", 5, dtype=torch.int64), rule="no-gradient")
class Straight(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        h = self.embed(x).mean(1)
        hard = h + (h.round() - h).detach()
        return self.out(hard)


@wrong(rule="noise-in-evaluation")
class Jitter(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        return self.fc(torch.normal(x, 0.1))


@right(rule="noise-in-evaluation")
class JitterInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        return self.fc(torch.normal(x, 0.1) if self.training else x)


@wrong(rule="not-finite")
class Logs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        return self.fc(x).pow(0.5)


@right(rule="not-finite")
class LogsOfPositive(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        return F.softplus(self.fc(x)).pow(0.5)


@wrong(rule="not-restored")
class Projection(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("basis", torch.nn.init.orthogonal_(torch.empty(20, 8)), False)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(x @ self.basis)


@right(rule="not-restored")
class FixedProjection(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("basis", torch.eye(20)[:, :8].clone(), False)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(x @ self.basis)


@wrong(rule="result-thrown-away")
class Forgets(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(20, 8), nn.LayerNorm(8)

    def forward(self, x):
        h = self.fc(x)
        self.norm(h)
        h.clamp(min=0)
        return h


@right(rule="result-thrown-away")
class Clamps(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(20, 8), nn.LayerNorm(8)

    def forward(self, x):
        h = self.norm(self.fc(x))
        h.clamp_(min=0)
        return h


@wrong("batch", 3, 8, 8, rule="shared-norm")
class OneNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 6, 3, bias=False)])
        self.post = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, x):
        for conv in self.convs:
            x = self.post(conv(x))
        return x


@right("batch", 3, 8, 8, rule="shared-norm")
class OneGroupNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 6, 3, bias=False)])
        self.post = nn.Sequential(nn.GroupNorm(2, 6, affine=False), nn.ReLU())

    def forward(self, x):
        for conv in self.convs:
            x = self.post(conv(x))
        return x


@wrong(rule="state-across-calls")
class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)
        self.history = {}

    def forward(self, x):
        h = self.fc(x)
        self.history[len(self.history)] = h.detach()
        return h


@right(rule="state-across-calls")
class RemembersLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)
        self.last = {}

    def forward(self, x):
        h = self.fc(x)
        self.last["h"] = h.detach()
        return h


@wrong(ch.spec("batch", 5, dtype=torch.int64), rule="tie-undone")
class Untied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.out = nn.Linear(8, 10, bias=False)
        self.out.weight = self.embed.weight
        self.embed = nn.Embedding.from_pretrained(torch.randn(10, 8), freeze=False)

    def forward(self, x):
        return self.out(self.embed(x))


@right(ch.spec("batch", 5, dtype=torch.int64), rule="tie-undone")
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(torch.randn(10, 8), freeze=False)
        self.out = nn.Linear(8, 10, bias=False)
        self.out.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, x):
        return self.out(self.embed(x))


@wrong(rule="unfilled-memory")
class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.keys = nn.Parameter(torch.Tensor(20, 8))

    def forward(self, x):
        return x @ self.keys


@right(rule="unfilled-memory")
class FilledTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.keys = nn.Parameter(torch.Tensor(20, 8))
        self.reset()

    def reset(self):
        with torch.no_grad():
            self.keys.copy_(torch.randn(20, 8))

    def forward(self, x):
        return x @ self.keys


@wrong(rule="zero-gradient")
class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(20, 8)

    def forward(self, x):
        return torch.trunc(8 * self.fc(x)) / 8


@right(rule="zero-gradient")
class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.fc = nn.Linear(20, 1), nn.Linear(20, 8)

    def forward(self, x):
        weights = torch.sigmoid(self.score(x))
        return self.fc(x) * weights
