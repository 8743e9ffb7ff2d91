"""``chimera summary``: a network as a tree, before a run."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def summary(
    module: Annotated[str, Parameter(name="module", metavar="FILE.py:NAME")],
    /,
    *,
    shapes: Annotated[
        list[str], Parameter(name="--input", negative="", metavar="SHAPE", required=True)
    ],
    settings: Annotated[
        list[str] | None, Parameter(name="--set", negative="", metavar="KEY=VALUE")
    ] = None,
    measure: Annotated[bool, Parameter(negative="")] = False,
    no_check: Annotated[bool, Parameter(negative="")] = False,
    html: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    format: Literal["text", "json", "markdown"] = "text",
) -> int:
    """Show a network as a tree: shapes, parameters, cost, findings.

    Parameters
    ----------
    module
        A class of your own from a file, or a function that makes a network.
    shapes
        The shape of an input, with its batch axis: 2,20, or batch,20 for a free axis, or
        2,20:int64 for another dtype than float32; or an example of it: a tensor in a .npy or .pt
        file. mask=2,20:bool for an input with a name. Once for each input of the network.
    settings
        An argument of the network's constructor, or of the function: --set hidden=32.
    measure
        Run the network and show each module's share of the time.
    no_check
        Leave out the findings; a large network is done sooner.
    html
        Also write a page to look at in a browser: one file that needs nothing else.
    format
        What is printed.
    """
    from chimera.cli.summary_run import run

    return run(module, shapes, settings or [], measure, not no_check, html, format)
