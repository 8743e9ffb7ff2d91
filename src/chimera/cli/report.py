"""What ``chimera fit`` prints at the end: the best members, three test figures, the time."""

import math
import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from chimera.fit.compare import Comparison
from chimera.fit.result import Result
from chimera.scale.ranks import Ranks

_SHOWN = 5
_WIDE = 12


def print_result(
    console: Console,
    title: str,
    result: Result,
    own: Sequence[str] = (),
    ranks: Ranks | None = None,
) -> None:
    """Print the result of a run in at most 80 columns.

    Args:
        console: where.
        title: what was trained.
        result: of the run.
        own: columns of the table that are the members' hyper-parameters, beside the rate.
        ranks: those that shared the work.
    """
    data = result.settings.data
    sizes = f"{len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test"
    print_line(console, f"{title} ({sizes} samples)")
    print_line(console)
    if result.ranking:
        print_line(console, f"Best members by validation: {result.metric}")
        console.print(_best(result, own, console.width))
    else:
        print_line(console, "No member has finite figures: a lower --lr may help.")
    _figures(console, result)
    print_line(console)
    members, epochs = len(result.table), len(result.epochs)
    shared = "" if ranks is None else f" and {ranks.size} ranks"
    print_line(
        console,
        f"{members} members, {epochs} epochs on {result.stack.device}{shared}: "
        f"{_time(result.seconds)}, "
        f"training {_time(result.train_seconds)}, {_time(result.train_seconds / members)} a member",
    )


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print what a member takes in the stack and one by one, and how far the two agree."""
    verb = "agree" if comparison.agrees else "DO NOT AGREE"
    print_line(console)
    print_line(console, "Time per member")
    print_line(console, f"  {'in the stack':<44} {_time(comparison.stack_seconds)}")
    print_line(
        console,
        f"  {'one by one':<44} {_time(comparison.loop_seconds)}, "
        f"{comparison.ratio:.1f} times as long",
    )
    print_line(console, f"{comparison.said}.")
    print_line(
        console,
        f"In float64 the two {verb}: worst difference {comparison.error:.1e} of a tensor's "
        f"largest value after {comparison.steps} steps.",
    )


def print_line(console: Console, text: str = "") -> None:
    """Print ``text`` as it is, wrapped between words."""
    wrapped = textwrap.fill(text, console.width, break_long_words=False)
    console.print(wrapped, markup=False, highlight=False, soft_wrap=True)


def _best(result: Result, own: Sequence[str], width: int) -> Table:
    """The best members by validation, one a row; too many columns push out those of training."""
    metric = result.metric
    rows = [result.table[position] for position in result.ranking[:_SHOWN]]
    columns = {
        "member": [str(row["member"]) for row in rows],
        "lr": [f"{row['lr']:.2e}" for row in rows],
        **{name: [_short(row[name]) for row in rows] for name in own},
        "train loss": [f"{row['train_loss']:.4f}" for row in rows],
        **{
            part: [f"{row[f'{part}_{metric}']:.4f}" for row in rows]
            for part in ("train", "validation", "test")
        },
    }
    for spared in ("train loss", "train"):
        if sum(3 + max(map(len, (name, *cells))) for name, cells in columns.items()) >= width:
            del columns[spared]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=name not in own, overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _WIDE else text[: _WIDE - 1] + "…"


def _figures(console: Console, result: Result) -> None:
    summary = result.summary
    members = len(result.table) - summary["broken"]
    averaged = "probabilities" if result.settings.data.task == "classification" else "outputs"
    if not members:
        return
    lines = [
        (f"best member by validation ({summary['best_member']})", summary["best"]),
        ("median member", summary["median"]),
        (f"ensemble of {members}: averaged {averaged}", summary["ensemble"]),
    ]
    print_line(console, f"Test {result.metric}")
    for text, figure in lines:
        print_line(console, f"  {text:<44} {_figure(figure)}")
    if summary["broken"]:
        print_line(
            console, f"{summary['broken']} members have no finite figures and count nowhere."
        )


def _figure(figure: float | None) -> str:
    return "none" if figure is None or math.isnan(figure) else f"{figure:.4f}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
