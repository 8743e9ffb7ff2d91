"""``chimera fit``: many instances of one network trained at once."""

from typing import Annotated

from cyclopts import Parameter

from chimera.cli.options import whole


def fit(
    data: str,
    /,
    *,
    module: Annotated[str, Parameter(metavar="mlp|FILE.py:CLASS")],
    settings: Annotated[
        list[str] | None, Parameter(name="--set", negative="", metavar="KEY=VALUE")
    ] = None,
    members: Annotated[int, Parameter(converter=whole(1))] = 64,
    epochs: Annotated[int, Parameter(converter=whole(1))] = 30,
    batch_size: Annotated[int, Parameter(converter=whole(1))] = 32,
    lr: Annotated[str, Parameter(metavar="LOW:HIGH|NUMBER")] = "1e-4:1e-1",
    seed: Annotated[int, Parameter(converter=whole(0))] = 0,
    device: str | None = None,
    out: Annotated[str | None, Parameter(metavar="DIR")] = None,
    compare_loop: Annotated[int | None, Parameter(converter=whole(1))] = None,
) -> int:
    """Train many instances of one network at once.

    Every member has its own initial weights, order of the data, draws and learning rate. Prints
    the best members by validation, and the test figures of the best, the median and the ensemble.

    Parameters
    ----------
    data
        digits (1,797 handwritten digits), or an .npz file with arrays x and y: whole numbers in
        y are classes, floats are targets of a regression.
    module
        The network: mlp, or a class of your own from a file.
    settings
        An argument of the network's constructor: --set hidden=32 --set dropout=0.1.
    members
        How many instances are trained.
    epochs
        How many times each sees the training samples.
    batch_size
        How many samples a member sees at a step.
    lr
        One learning rate for all, or a range LOW:HIGH from which each member's is drawn,
        log-uniformly.
    seed
        Decides initial weights, orders, draws and learning rates.
    device
        Where to train, such as cpu or cuda.
    out
        A new or empty directory for the run: config.json, environment.json, metrics.jsonl,
        members.csv, members.safetensors.
    compare_loop
        Also train this many of the members one by one with torch.optim, and print both times.
    """
    from chimera.cli.fit_run import Request, run

    return run(
        Request(
            data=data,
            module=module,
            settings=settings or [],
            members=members,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            device=device,
            out=out,
            compare_loop=compare_loop,
        )
    )
