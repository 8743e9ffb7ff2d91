"""``chimera fit``: many instances of one network trained at once."""

import logging
import os
from typing import Annotated, Any

from cyclopts import Parameter

from chimera.cli.mistake import Mistake
from chimera.cli.options import whole

_DEFAULTS: dict[str, Any] = {
    "settings": [],
    "members": 64,
    "epochs": 30,
    "batch_size": 32,
    "lr": "1e-4:1e-1",
    "seed": 0,
    "engine": "auto",
}


def _shown(name: str) -> Any:
    """What ``--help`` says of the default of an option that is None until it is given."""
    return lambda _: str(_DEFAULTS[name])


def fit(
    data: str | None = None,
    /,
    *,
    module: Annotated[str | None, Parameter(metavar="mlp|FILE.py:NAME")] = None,
    settings: Annotated[
        list[str] | None, Parameter(name="--set", negative="", metavar="KEY=VALUE")
    ] = None,
    members: Annotated[
        int | None, Parameter(converter=whole(1), show_default=_shown("members"))
    ] = None,
    epochs: Annotated[
        int | None, Parameter(converter=whole(1), show_default=_shown("epochs"))
    ] = None,
    batch_size: Annotated[
        int | None, Parameter(converter=whole(1), show_default=_shown("batch_size"))
    ] = None,
    lr: Annotated[
        str | None, Parameter(metavar="LOW:HIGH|NUMBER", show_default=_shown("lr"))
    ] = None,
    seed: Annotated[int | None, Parameter(converter=whole(), show_default=_shown("seed"))] = None,
    device: str | None = None,
    devices: Annotated[str | None, Parameter(metavar="N|auto")] = None,
    engine: Annotated[str | None, Parameter(metavar="NAME", show_default=_shown("engine"))] = None,
    out: Annotated[str | None, Parameter(metavar="DIR")] = None,
    resume: Annotated[str | None, Parameter(metavar="DIR")] = None,
    checkpoint_every: Annotated[int | None, Parameter(converter=whole(1), metavar="EPOCHS")] = None,
    keep: Annotated[int | None, Parameter(converter=whole(1), show_default=lambda _: "2")] = None,
    force_unlock: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    compare_loop: Annotated[int | None, Parameter(converter=whole(1))] = None,
) -> int:
    """Train many instances of one network at once.

    Every member has its own initial weights, order of the data, draws and learning rate. Prints
    the best members by validation, and the test figures of the best, the median and the ensemble.

    Parameters
    ----------
    data
        digits (1,797 handwritten digits), an .npz file with arrays x and y, or two .npy files as
        x.npy,y.npy: whole numbers in y are classes, floats are targets of a regression.
    module
        The network: mlp, or a class of your own from a file, or a function that makes one.
    settings
        An argument of the constructor or function: --set hidden=32 --set dropout=0.1. Members get
        several values in turn: --set hidden=32,64; a tuple is written --set 'sizes=(32,64)'.
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
        Any whole number; decides initial weights, orders, draws and learning rates.
    device
        Where to train, such as cpu or cuda.
    devices
        Share the members among so many processes of this machine, one a device (or core); auto for
        all there are. torchrun starts the same on several machines.
    engine
        What takes the training steps: eager, compiled, graphed (on a GPU), measure, which times
        them, or auto, the fastest over the run by a rule.
    out
        A new or empty directory for the run: config.json, environment.json, metrics.jsonl,
        members.csv, members.safetensors, checkpoints. Ctrl-C then ends with a checkpoint.
    resume
        Go on with the run in this directory, from its newest checkpoint to the same bits as if it
        had never stopped. Everything else is what the run was started with.
    checkpoint_every
        Write a checkpoint every so many epochs; unless given, at the end of an epoch when 10 s
        have passed. There is always one at the end.
    keep
        How many of the newest checkpoints stay, beside the best.
    force_unlock
        Take over a directory that a process of another host has locked, if that is gone.
    compare_loop
        Also train this many of the members one by one with torch.optim, and print both times.
    """
    # Read when torch is loaded: threads that wait for each other sleep. On cores that others use
    # too, spinning made a run five times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Beside a CUDA toolkit and no GPU, torch's compiler would say so in every process.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    given: dict[str, Any] = {
        "data": data,
        "module": module,
        "settings": settings,
        "members": members,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "device": device,
        "engine": engine,
    }
    writing = {"checkpoint_every": checkpoint_every, "keep": keep}
    if resume is not None and out is not None:
        raise Mistake("--out and --resume exclude each other: --resume DIR names the directory")
    kept = {"--checkpoint-every": checkpoint_every, "--keep": keep, "--force-unlock": force_unlock}
    for option, told_to in kept.items():
        if told_to and out is None and resume is None:
            raise Mistake(f"{option} needs --out DIR: without it a run keeps nothing")
    if resume is None:
        _require(data, module)
    from chimera.cli.devices import over_devices
    from chimera.cli.fit_run import Request, start
    from chimera.cli.resume import go_on

    if resume is not None:
        return over_devices(
            devices,
            device,
            lambda ranks: go_on(resume, given, writing, force_unlock, compare_loop, ranks),
        )
    told: dict[str, Any]
    told = {name: _DEFAULTS.get(name) if value is None else value for name, value in given.items()}
    request = Request(**told)
    return over_devices(
        devices,
        device,
        lambda ranks: start(request, out, writing, force_unlock, compare_loop, ranks),
    )


def _require(data: str | None, module: str | None) -> None:
    """Raise the mistake of a run that lacks its data or its network."""
    if data is not None and ".py:" in data:
        raise Mistake(f"DATA: {data!r} is a network; write chimera fit digits --module {data}")
    needed = {
        "DATA": (data, "digits, FILE.npz or X.npy,Y.npy"),
        "--module": (module, "mlp or FILE.py:NAME"),
    }
    for name, (value, what) in needed.items():
        if value is None:
            raise Mistake(f"parameter {name} requires an argument: {what}; see chimera fit --help")
