"""``chimera check``: the mistakes in a network, found before a run."""

from typing import Annotated, Literal

from cyclopts import Parameter


def check(
    module: Annotated[str, Parameter(name="module", metavar="FILE.py:NAME")],
    /,
    *,
    shapes: Annotated[
        list[str], Parameter(name="--input", negative="", metavar="SHAPE", required=True)
    ],
    settings: Annotated[
        list[str] | None, Parameter(name="--set", negative="", metavar="KEY=VALUE")
    ] = None,
    ignore: Annotated[
        list[str] | None, Parameter(name="--ignore", negative="", metavar="RULE")
    ] = None,
    format: Literal["text", "json", "github"] | None = None,
    fail_on: Literal["error", "warning", "info", "never"] | None = None,
) -> int:
    """Find the mistakes in a network before a run.

    Exits with 1 when something at or above --fail-on was found, with 0 otherwise. The table
    [tool.chimera.check] of a pyproject.toml, beside the file or above it, may set ignore, fail-on
    and format.

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
    ignore
        A rule to leave out. Once for each.
    format
        What is printed: text (unless told), json, or github: annotations of a workflow.
    fail_on
        The least severity that makes the exit code 1: error, unless told.
    """
    from chimera.cli.check_run import run

    return run(module, shapes, settings or [], ignore or [], format, fail_on)
