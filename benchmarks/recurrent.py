"""RNN, LSTM and GRU: the loop, a Stack, and the floor of the machine.

    python benchmarks/recurrent.py [--threads 1 2] [--members 64] [--rounds 15] [--kinds LSTM]

A forward and a backward of all members: batch 8, 32 features in and out, 20 steps; every member
has its own input. Then a training step of all members with SGD, each with a learning rate of its
own: the loop with an optimizer a member, ``train_step`` eager and compiled. The floor is what the
operations alone cost that no order of work avoids, each at the rate measured on this machine in its
own shape and in memory that is there already: the input's product and the state's product step by
step, their gradients, the sigmoids and tanhs. torch runs a single LSTM by one kernel of oneDNN,
which is why its loop is hardest to beat. Before anything is timed, outputs and gradients are held
against the loop in float64, and three steps against the loop's.
"""

import argparse
from collections.abc import Callable

import torch
from timing import hardware, medians
from torch import Tensor, nn

import chimera as ch

STEPS, BATCH, SIZE = 20, 8, 32
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
SIGMOIDS = {"RNN": 0, "GRU": 2, "LSTM": 3}
TANHS = {"RNN": 1, "GRU": 1, "LSTM": 2}


def candidates(
    kind: str, members: int, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Callable[[], object]], Callable[[], float]]:
    """The two ways, and how far their outputs and gradients are apart."""
    torch.manual_seed(0)
    modules = [getattr(nn, kind)(SIZE, SIZE).to(dtype) for _ in range(members)]
    stack = ch.Stack(modules)
    x = torch.randn(members, STEPS, BATCH, SIZE, dtype=dtype).requires_grad_()
    rows = [row.detach().clone().requires_grad_() for row in x]

    def loop() -> Tensor:
        outputs = [module(row)[0] for module, row in zip(modules, rows, strict=True)]
        for output in outputs:
            output.sum().backward()
        return torch.stack(outputs)

    def stacked() -> Tensor:
        output: Tensor = stack(ch.each(x))[0]
        output.sum().backward()
        return output

    def apart() -> float:
        pairs = [
            (stacked().detach(), loop().detach()),
            (x.grad, torch.stack([row.grad for row in rows])),
        ]
        for name, parameter in stack.named_parameters():
            own = [module.get_parameter(name.rpartition(".")[2]).grad for module in modules]
            pairs.append((parameter.grad, torch.stack(own)))
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)

    return {"loop": loop, "stack": stacked}, apart


class Hidden(nn.Module):
    """The hidden states of a recurrent layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(SIZE, SIZE)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.layer(x)[0]
        return hidden


def square(hidden: Tensor) -> Tensor:
    return hidden.square().mean()


def steps(kind: str, members: int) -> dict[str, Callable[[], object]]:
    """A training step of all members, in three ways; raises where they differ."""
    torch.manual_seed(0)
    modules = [Hidden(kind) for _ in range(members)]
    rates = torch.logspace(-4, -2, members)
    x = torch.randn(members, STEPS, BATCH, SIZE)
    taken: dict[str, Callable[[], object]] = {}
    stacks = {}
    for engine in ("eager", "compiled"):
        stacks[engine] = stack = ch.Stack(modules)
        step = ch.train_step(stack, square, ch.optim.SGD(stack, lr=rates), engine=engine)
        taken[engine] = lambda step=step: step(ch.each(x))
    optimizers = [
        torch.optim.SGD(module.parameters(), lr=float(rate))
        for module, rate in zip(modules, rates, strict=True)
    ]

    def loop() -> None:
        for module, optimizer, row in zip(modules, optimizers, x, strict=True):
            optimizer.zero_grad()
            square(module(row)).backward()
            optimizer.step()

    for _ in range(3):
        loop()
        for take in taken.values():
            take()
    for stack in stacks.values():
        for module, mine in zip(modules, stack, strict=True):
            for one, other in zip(module.parameters(), mine.parameters(), strict=True):
                torch.testing.assert_close(other, one)
    return {"loop": loop, **taken}


def floor(kind: str, members: int, rounds: int) -> float:
    """Seconds that the operations alone take."""
    gates = GATES[kind] * SIZE
    x = torch.randn(members, STEPS * BATCH, SIZE)
    d = torch.randn(members, STEPS * BATCH, gates)
    h, d_step = torch.randn(members, BATCH, SIZE), torch.randn(members, BATCH, gates)
    w = torch.randn(members, gates, SIZE)
    w_t, out, out_h = torch.empty_like(d), torch.empty_like(d_step), torch.empty_like(h)
    out_x, out_w = torch.empty_like(x), torch.empty_like(w)
    sigmoids = torch.randn(members, BATCH, max(1, SIGMOIDS[kind]) * SIZE)
    parts = {
        "input": (1, lambda: torch.bmm(x, w.transpose(1, 2), out=w_t)),
        "state": (STEPS, lambda: torch.bmm(h, w.transpose(1, 2), out=out)),
        "state, back": (STEPS, lambda: torch.bmm(d_step, w, out=out_h)),
        "input, back": (1, lambda: torch.bmm(d, w, out=out_x)),
        "weights, back": (2, lambda: torch.bmm(d.transpose(1, 2), x, out=out_w)),
        "sigmoid": (STEPS * (SIGMOIDS[kind] > 0), lambda: torch.sigmoid_(sigmoids)),
        "tanh": (STEPS * TANHS[kind], lambda: torch.tanh(h, out=out_h)),
    }
    with torch.no_grad():
        found = medians({k: run for k, (_, run) in parts.items()}, rounds=rounds, seconds=0.02)
    return sum(count * found[name] for name, (count, _) in parts.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kinds", nargs="+", default=list(GATES), choices=list(GATES))
    options = parser.parse_args()
    columns = "{:<6} {:>8} {:>9} {:>9} {:>11} {:>11} {:>11}"
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(hardware(torch.device("cpu")))
        print(f"{options.members} members, batch {BATCH}, {SIZE} features, {STEPS} steps; ms")
        print(
            columns.format(
                *("", "loop", "Stack", "floor", "loop/Stack", "loop/floor", "difference")
            )
        )
        for kind in options.kinds:
            worst = candidates(kind, 3, torch.float64)[1]()
            if not worst < 1e-12:
                raise AssertionError(f"{kind} differs from the loop by {worst:.1e}")
            found = medians(
                candidates(kind, options.members)[0], rounds=options.rounds, seconds=0.05
            )
            least = floor(kind, options.members, options.rounds)
            loop, stack = found["loop"], found["stack"]
            times = [f"{1000 * each:.2f}" for each in (loop, stack, least)]
            ratios = [f"{loop / stack:.1f}", f"{loop / least:.1f}", f"{worst:.0e}"]
            print(columns.format(kind, *times, *ratios))
        print("a training step with SGD; ms")
        columns_of_step = "{:<6} {:>8} {:>9} {:>9} {:>11} {:>14}"
        print(
            columns_of_step.format("", "loop", "eager", "compiled", "loop/eager", "loop/compiled")
        )
        for kind in options.kinds:
            found = medians(steps(kind, options.members), rounds=options.rounds, seconds=0.05)
            loop, eager, compiled = found["loop"], found["eager"], found["compiled"]
            times = [f"{1000 * each:.2f}" for each in (loop, eager, compiled)]
            print(
                columns_of_step.format(
                    kind, *times, f"{loop / eager:.1f}", f"{loop / compiled:.1f}"
                )
            )


if __name__ == "__main__":
    main()
