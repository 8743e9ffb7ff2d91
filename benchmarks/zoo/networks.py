"""Which networks `false_alarms.py` checks: by a rule that was fixed before any of them was run.

Every classifier of torchvision; and a hundred small networks of timm: of each of timm's files the
first by a hint of smallness in its name (nano before tiny before small), then the shortest name,
then the alphabet; after that of each file the second. Left out are networks of more than 30 million
parameters, and the ``test_*`` networks, made for timm's own tests. A network of timm that takes
images of any size gets small ones.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import nn

LARGEST = 30_000_000
SMALL = 128
"""The height and width of images for a network that takes any size."""

_SMALL = ("nano", "atto", "femto", "pico", "xxs", "tiny", "xs", "small", "_s", "b0", "18")


class Network(NamedTuple):
    """A network: its name, what makes it, and the height and width of the images it takes."""

    name: str
    make: Callable[[], nn.Module]
    size: int


def torchvision_networks() -> Iterator[Network]:
    """Every classifier of torchvision."""
    import torchvision

    for name in sorted(torchvision.models.list_models(module=torchvision.models)):

        def make(name: str = name) -> nn.Module:
            # Their own initialization takes minutes by scipy.
            more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            return torchvision.models.get_model(name, weights=None, **more)

        size = 224 if name.startswith(("vit", "maxvit")) else 96
        if name == "inception_v3":
            size = 299
        yield Network(f"torchvision/{name}", make, size)


def timm_networks(count: int) -> Iterator[Network]:
    """``count`` small networks of timm."""
    import timm

    from chimera.build.construct import construct_without_data

    by_file = [
        sorted(
            (name for name in timm.list_models(module=file) if not name.startswith("test_")),
            key=_order,
        )
        for file in sorted(timm.list_modules())
    ]
    ranks = range(max(map(len, by_file)))
    chosen = [names[rank] for rank in ranks for names in by_file if rank < len(names)]
    for name in chosen:

        def make(name: str = name) -> nn.Module:
            return timm.create_model(name, pretrained=False)

        if count == 0:
            return
        if sum(p.numel() for p in construct_without_data(make).parameters()) > LARGEST:
            continue
        count -= 1
        yield Network(f"timm/{name}", make, _size(timm.get_pretrained_cfg(name, True)))


def _size(published: Any) -> int:
    """The published size where a network takes no other, else ``SMALL`` where it takes that."""
    if published is None:
        return 224
    size = int(published.input_size[-1])
    if published.fixed_input_size:
        return size
    least = published.min_input_size[-1] if published.min_input_size else SMALL
    return max(int(least), min(size, SMALL))


def _order(name: str) -> tuple[int, int, str]:
    hints = [number for number, hint in enumerate(_SMALL) if hint in name]
    return min(hints, default=len(_SMALL)), len(name), name
