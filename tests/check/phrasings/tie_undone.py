import torch
from case import right, wrong
from torch import nn

import chimera as ch


@wrong(ch.spec("batch", 6, dtype=torch.int64))
class NewWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.out.weight = self.embed.weight
        self.out.weight = nn.Parameter(torch.randn(50, 8) * 0.02)

    def forward(self, words):
        return self.out(self.embed(words).mean(1))


@wrong(ch.spec("batch", 6, dtype=torch.int64))
class InitializedAfter(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.out.weight = self.embed.weight
        self.reset()

    def reset(self):
        for module in (self.embed, self.out):
            module.weight = nn.Parameter(torch.empty(50, 8).normal_(std=0.02))

    def forward(self, words):
        return self.out(self.embed(words).mean(1))


@wrong(ch.spec("batch", 6, dtype=torch.int64))
class LargerVocabulary(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.decoder = nn.Linear(8, 50)
        self.decoder.weight = self.embed.weight
        self.resize(60)

    def resize(self, words):
        new = nn.Embedding(words, 8)
        new.weight.data[:50] = self.embed.weight.data
        self.embed = new

    def forward(self, words):
        return self.decoder(self.embed(words).mean(1))


@right(ch.spec("batch", 6, dtype=torch.int64))
class TiedLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
        self.embed.weight = nn.Parameter(torch.randn(50, 8) * 0.02)
        self.out.weight = self.embed.weight

    def forward(self, words):
        return self.out(self.embed(words).mean(1))


@right(ch.spec("batch", 6, dtype=torch.int64))
class InPlaceAfter(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 8), nn.Linear(8, 50)
        self.out.weight = self.embed.weight
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                module.bias = nn.Parameter(torch.zeros(50))

    def forward(self, words):
        return self.out(self.embed(words).mean(1))
