"""One network over the devices there are."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parameter import is_lazy

from chimera.build.inputs import Inputs, as_specified
from chimera.paths.arguments import as_device
from chimera.scale import memory as needs
from chimera.scale.blocks import repeated_blocks
from chimera.scale.branches import Branches, outermost
from chimera.scale.joined import join, ranks_here
from chimera.scale.mixing import known, suspects
from chimera.scale.replicate import Replicas
from chimera.scale.shard import Shards
from chimera.scale.spread import Spread
from chimera.scale.view import Distributed, view
from chimera.scale.world import command, own_device, tell_all
from chimera.stack import Stack

M = TypeVar("M", bound=nn.Module)

_MODES = ("auto", "replicate", "shard", "branches")
_FILLED = 0.9
"""How much of the free memory a prediction may take."""


def distribute(
    net: M,
    mode: str = "auto",
    devices: int | Sequence[torch.device | str | int] | None = None,
    sync: bool = False,
    *,
    inputs: str = "same",
    whole: Iterable[str] = (),
    spec: Any = None,
    memory: int | None = None,
) -> M:
    """A network over several devices; what it computes is what ``net`` computes on one.

    Under ``torchrun``, every rank calls it with the same network and then runs the same program as
    on one device: forward, loss, backward, step. With one device it gives ``net`` back, unchanged.

    Args:
        net: a built network, which is taken over: use what is returned. Every rank's becomes a copy
            of rank 0's.
        mode: "replicate": every rank holds the network and computes some rows of each batch
            (torch's DDP). "shard": the same, and holds a part of each parameter (torch's FSDP2, by
            the repeated blocks of the tree); make the optimizer afterwards. "branches": no process
            group; the branches of `Parallel` blocks go to the devices of this process. "auto":
            "shard" where a replica is predicted not to fit into memory, else "replicate"; without
            a process group "branches" where there are such blocks and devices.
        devices: for "branches" the devices (by default all GPUs); otherwise their number, which is
            that of the ranks.
        sync: whether batch norms may take their statistics over all ranks (torch's
            ``nn.SyncBatchNorm``, on GPUs alone).
        inputs: "same": every rank is called with the whole batch, computes its rows, and gets the
            outputs of all rows: the loss is written as for one device. "each": every rank is
            called with its own rows (a different number, if it must be) and gets their outputs;
            losses average over rows, and gradients count by rows.
        whole: the names of forward's arguments that have no rows and go to every rank as they are.
            Tensors whose first axis is not that of the first input go whole in any case.
        spec: of the whole batch, for "auto" to predict activations, too.
        memory: the bytes of each device, for "auto"; by default those that are free.

    Returns:
        A view of ``net``: of a subclass of its class (``isinstance`` holds, ``type(wide)`` is
        another), with its names, attributes, modes and
        ``state_dict`` keys; a sharded network's ``state_dict()`` has whole tensors, and is called
        on every rank. `explain` tells the mode and why.

    Raises:
        ValueError: no process group, with the command that makes one; a network in which an output
            row depends on other rows than its own (here by class, in the first calls by trial),
            with the path; an argument that does not fit.
        TypeError: ``net`` is no module, a Stack, or distributed already.
    """
    _check_net(net)
    names = _check(net, mode, sync, inputs, whole, memory)
    _listed(devices)
    given = None if spec is None else as_specified(spec)
    if mode == "branches":
        return _by_branches(net, devices, "branches: as asked")
    if not join(gpus=True):
        if dist.is_available() and dist.is_torchelastic_launched():  # as its only process
            _check_ranks(net, devices, 1)
            return net
        return _without_group(net, mode, devices)
    ranks = dist.get_world_size()
    _check_ranks(net, devices, ranks)
    if ranks == 1:
        return net
    device = own_device(net)
    if sync:
        net = _synchronized(net, device)
    if (found := known(suspects(net))) is not None:
        raise ValueError(str(found))
    kind: type[M] = type(net)
    if mode == "auto":
        mode, reason = _chosen(net, given, device, ranks, memory)
    else:
        reason = f"{mode}: as asked, {ranks} ranks"
    spread = Spread(net, device, inputs, names)
    way: type[Replicas] | type[Shards] = Replicas if mode == "replicate" else Shards
    return view(net, kind, way(net, device, spread, reason))


def _check_net(net: Any) -> None:
    if isinstance(net, Distributed):
        raise TypeError("distribute: net is distributed already; pass the network itself")
    if isinstance(net, Stack):
        raise TypeError(
            "distribute: net is a Stack, whose members are spread by ch.fit under torchrun; "
            "distribute takes one network"
        )
    if not isinstance(net, nn.Module):
        raise TypeError(f"distribute: net must be a module; got {type(net).__name__}")
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"distribute: {name!r} is uninitialized; build the network first: "
                "ch.build(net, ch.spec(...))"
            )


def _check(
    net: nn.Module, mode: Any, sync: Any, inputs: Any, whole: Any, memory: Any
) -> frozenset[int | str]:
    """The names and positions of the arguments without rows."""
    if mode not in _MODES:
        raise ValueError(f"distribute: mode is one of {', '.join(_MODES)}; got {mode!r}")
    if not isinstance(sync, bool):
        raise TypeError(f"distribute: sync is True or False; got {sync!r}")
    if inputs not in ("same", "each"):
        raise ValueError(f"distribute: inputs is 'same' or 'each'; got {inputs!r}")
    if memory is not None and (not isinstance(memory, int) or memory <= 0):
        raise ValueError(f"distribute: memory is a number of bytes above 0; got {memory!r}")
    if isinstance(whole, str):
        raise TypeError(f"distribute: whole is a list of names; got {whole!r}; write [{whole!r}]")
    found: set[int | str] = set()
    arguments = inspect.signature(net.forward).parameters
    takes_any = any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments.values())
    for name in whole:
        if name in arguments:
            found.add(list(arguments).index(name))
        elif not takes_any:
            raise ValueError(
                f"distribute: whole names {name!r}, which is no argument of "
                f"{type(net).__name__}.forward({', '.join(arguments)})"
            )
        found.add(name)
    return frozenset(found)


def _listed(devices: Any) -> list[torch.device]:
    if devices is None:
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if isinstance(devices, int) and not isinstance(devices, bool):
        if devices < 1:
            raise ValueError(f"distribute: devices is 1 or more; got {devices}")
        if torch.cuda.is_available():
            return [as_device("distribute: devices", f"cuda:{i}") for i in range(devices)]
        return [torch.device("cpu")] * devices
    if not isinstance(devices, list | tuple) or not devices:
        raise TypeError(f"distribute: devices is a number or a list of devices; got {devices!r}")
    return [as_device(f"distribute: devices[{i}]", named) for i, named in enumerate(devices)]


def _by_branches(net: M, devices: Any, reason: str) -> M:
    found = _listed(devices)
    if len(found) < 2:
        return _on_one(net, devices, found)
    return view(net, type(net), Branches(net, found, reason))


def _without_group(net: M, mode: str, devices: Any) -> M:
    found = _listed(devices)
    if len(found) < 2:
        return _on_one(net, devices, found)
    blocks = dict(outermost(net))
    if mode == "auto" and blocks:
        held = sum(p.numel() for block in blocks.values() for p in block.parameters())
        total = sum(p.numel() for p in net.parameters())
        if 2 * held >= total:
            return _by_branches(
                net,
                found,
                f"auto: branches: no process group, {len(found)} devices, and the Parallel blocks "
                f"hold {held / max(total, 1):.0%} of the parameters",
            )
    raise ValueError(
        f"distribute: {len(found)} devices need a process each, and there is no process group; run "
        f"{command(len(found))}"
    )


def _on_one(net: M, devices: Any, found: list[torch.device]) -> M:
    """``net`` as it is, if the one device is where it is."""
    if devices is None or isinstance(devices, int) or not found:
        return net
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if not _is_same(found[0], tensor.device):
            raise ValueError(
                f"distribute: devices is {devices!r}, and {name!r} is on {tensor.device}; on one "
                f"device the network stays as it is: move it there, net.to({str(found[0])!r})"
            )
    return net


def _check_ranks(net: nn.Module, devices: Any, ranks: int) -> None:
    """Raise ValueError where ``devices`` are not as many as the ranks, or not theirs."""
    if devices is None:
        return
    found = _listed(devices)
    if len(found) != ranks:
        raise ValueError(
            f"distribute: devices is {devices!r}, and {ranks} ranks run; leave it out, or run "
            f"{command(len(found))}"
        )
    if ranks == 1:
        _on_one(net, devices, found)
    elif not isinstance(devices, int):
        for rank, (named, own) in enumerate(zip(found, tell_all(own_device(net)), strict=True)):
            if not _is_same(named, own):
                raise ValueError(
                    f"distribute: devices[{rank}] is {str(named)!r}, and rank {rank} computes on "
                    f"{str(own)!r}; leave devices out: the launcher gives every rank its own"
                )


def _is_same(named: torch.device, other: torch.device) -> bool:
    """Whether this is the named device; a name without a number may be any of its kind."""
    return named.type == other.type and named.index in (None, other.index)


def _synchronized(net: M, device: torch.device) -> M:
    norms = nn.modules.batchnorm._BatchNorm
    found = [path for path, module in net.named_modules() if isinstance(module, norms)]
    if found and device.type != "cuda":
        raise ValueError(
            f"distribute: sync=True cannot synchronize {found[0]!r} on {device}: torch's "
            "nn.SyncBatchNorm runs on GPUs alone; use GPUs, or a norm that takes each row by "
            "itself (GroupNorm, LayerNorm)"
        )
    if isinstance(net, norms):
        raise ValueError("distribute: sync=True takes a network that holds batch norms, not one")
    nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return net


def _chosen(
    net: nn.Module, given: Inputs | None, device: torch.device, ranks: int, memory: int | None
) -> tuple[str, str]:
    """The mode that memory allows, the same on every rank, and why."""
    need = needs.need(net, given, ranks)
    free = min(tell_all(memory or needs.free_bytes(device, ranks_here())))
    what = f"{needs.said(need.held)} of parameters, gradients and Adam's state"
    if given is not None:
        what += f" and {needs.said(need.activations)} of activations"
    there = f"{needs.said(free)} of memory a rank, {ranks} ranks"
    if need.total <= _FILLED * free:
        return "replicate", f"auto: replicate: a replica takes {what}; there are {there}"
    blocks = [sum(p.numel() for p in b.parameters()) for b in repeated_blocks(net).values()]
    part = need.held // ranks + need.activations + 4 * max(blocks, default=0)
    fits = "" if part <= _FILLED * free else ", which is predicted not to be enough either"
    return "shard", (
        f"auto: shard: a replica takes {what}; there are {there}; a shard takes "
        f"{needs.said(part)}{fits}"
    )
