"""Looking before a run: how long each look takes, and what it takes of memory.

    python benchmarks/looks.py [--blocks 166] [--rounds 3] [--chromium /usr/bin/chromium]

Two networks: a transformer of about 2,000 modules with data, and one of 10 billion parameters,
without, whose constructor reads small tensors by ``.item()``. The page of the first is opened in
Chromium until its tree stands and is painted, where Playwright and the program are installed. That
parameters are counted rightly is held against the networks' own, by hand for the large one.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timing import hardware
from torch import Tensor, nn

import chimera as ch


class Block(nn.Module):
    """Attention written out, and a perceptron."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.wide = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        weights = torch.softmax(self.query(h) @ self.key(h).mT / h.shape[-1] ** 0.5, -1)
        x = x + self.drop(self.out(weights @ self.value(h)))
        return x + self.drop(self.wide(self.norm2(x)))


class Language(nn.Module):
    """Words in, scores of words out."""

    def __init__(self, width: int, depth: int, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        rates = [rate.item() for rate in torch.linspace(0, 0.1, depth)]
        self.blocks = nn.ModuleList(Block(width, rate) for rate in rates)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def parameters(width: int, depth: int, words: int) -> int:
    """How many numbers a ``Language`` trains."""
    return depth * (12 * width**2 + 13 * width) + 2 * words * width + 2 * width


def seconds(look: Callable[[], object], rounds: int) -> float:
    """The median."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        look()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def opened(page: Path, program: str, rounds: int) -> float | None:
    """The median of the seconds until the page stands; None where it cannot be opened."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if not Path(program).exists():
        return None
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])

        def look() -> None:
            tab = browser.new_page()
            tab.goto(page.as_uri())
            tab.wait_for_selector("[role=treeitem]")
            tab.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
            tab.close()

        look()
        taken = seconds(look, rounds)
        browser.close()
        return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=166)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    print(hardware(torch.device("cpu")))
    spec = ch.spec("batch", 8, dtype=torch.int64)
    large = 5120, 33, 50_000
    shapes = ch.shapes(lambda: Language(*large), spec)
    assert shapes.parameters == parameters(*large)
    taken = seconds(lambda: ch.shapes(lambda: Language(*large), spec), args.rounds)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{shapes.parameters:,} parameters, {len(shapes.rows)} modules")
    print(f"  shapes               {taken:6.2f} s, at most {most:.0f} MB in the process")

    net = Language(16, args.blocks, 50)
    report = ch.summary(net, spec)
    assert report.parameters == sum(p.numel() for p in net.parameters())
    print(f"{report.parameters:,} parameters, {len(list(net.modules())):,} modules, with data")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        looks = {
            "shapes": lambda: ch.shapes(net, spec),
            "check": lambda: ch.check(net, spec),
            "summary": lambda: ch.summary(net, spec, check=False),
            "page is written": lambda: report.to_html(page),
        }
        for name, look in looks.items():
            print(f"  {name:20} {seconds(look, args.rounds):6.2f} s")
        standing = opened(page, args.chromium, args.rounds)
    if standing is not None:
        print(f"  page opens, Chromium {standing:6.2f} s")


if __name__ == "__main__":
    main()
