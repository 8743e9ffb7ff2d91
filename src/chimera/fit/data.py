"""Data in memory or in files, split into train, validation and test parts.

``x`` is [samples, ...]; ``y`` is [samples] of class numbers, or [samples, ...] of float targets.
"""

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy
import torch
from torch import Tensor

from chimera.build.spec import Spec, spec
from chimera.fit.mapped import Mapped, as_tensor, in_file, map_npy, pieces
from chimera.fit.splitting import PARTS, fractions_of, rows_of_parts
from chimera.paths.notice import ChimeraWarning

Samples = TypeVar("Samples", Tensor, Mapped, Tensor | Mapped)
Task = Literal["classification", "regression"]
_MANY_CLASSES = 1000  # above, numbers of which few occur are rather amounts


@dataclass(frozen=True)
class Part:
    """One part of the data: ``x`` and ``y`` [samples, ...], which may stay in their files."""

    x: Tensor | Mapped
    y: Tensor | Mapped

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> "Part":
        """The part on ``device``, floats as ``dtype``; the same tensors where nothing changes."""
        return Part(_moved(self.x, device, dtype), _moved(self.y, device, dtype))


@dataclass(frozen=True)
class Data:
    """Samples of one task in three parts; ``ch.data``, ``ch.digits`` and ``load_npz`` make it.

    Attributes:
        train, validation, test: the parts.
        task: ``"classification"`` (whole numbers in ``y``) or ``"regression"`` (floats in ``y``).
        classes: the number of classes, one more than the largest label; None for regression.
        name: what the data is called in messages and in a run's ``config.json``.
        split: the fractions of the parts.
        seed: the seed that decided which sample is in which part.
    """

    train: Part
    validation: Part
    test: Part
    task: Task
    classes: int | None
    name: str
    split: tuple[float, float, float]
    seed: int

    def __len__(self) -> int:
        return len(self.train) + len(self.validation) + len(self.test)

    @property
    def features(self) -> int:
        """How many numbers one sample of ``x`` holds."""
        return math.prod(self.train.x.shape[1:])

    @property
    def outputs(self) -> int:
        """How many numbers a network gives for one sample: a score a class, or the targets."""
        if self.classes is not None:
            return self.classes
        return math.prod(self.train.y.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.train.x.device

    def spec(self, batch: int = 2) -> Spec:
        """The specification of a batch of ``x``: what ``ch.build`` takes."""
        return spec(batch, *self.train.x.shape[1:], dtype=self.train.x.dtype)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Data":
        """The data on ``device``; floats (of ``x`` and of regression's ``y``) as ``dtype``."""
        place = torch.device(device)
        return replace(
            self,
            train=self.train.to(place, dtype),
            validation=self.validation.to(place, dtype),
            test=self.test.to(place, dtype),
        )

    def sha256(self) -> str:
        """A hash of every tensor with its part, dtype and shape: the same data, the same hash."""
        digest = hashlib.sha256()
        for name in PARTS:
            part: Part = getattr(self, name)
            for tensor in (part.x, part.y):
                add_to(digest, name, tensor)
        return digest.hexdigest()

    def __repr__(self) -> str:
        what = "regression" if self.classes is None else f"{self.classes} classes"
        sizes = ", ".join(f"{len(getattr(self, name))} {name}" for name in PARTS)
        shape = list(self.train.x.shape[1:])
        return f"Data({self.name}: {sizes}; a sample of x is {shape}; {what})"


def add_to(digest: "hashlib._Hash", name: str, tensor: Tensor | Mapped) -> None:
    """Let a hash know a tensor: its name, dtype, shape and bits."""
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
    for some in pieces(tensor):
        content: Any = some.cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(content)


def data(
    x: Any,
    y: Any = None,
    split: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    *,
    name: str | None = None,
) -> Data:
    """Samples, split into train, validation and test parts by a seeded permutation.

    Args:
        x: a tensor or numpy array [samples, ...] of finite numbers; or the path of an ``.npy``
            file of one, with another as ``y``, or of an ``.npz`` file with both. What is in files
            stays there, mapped into memory that all processes of a machine share; class numbers
            alone are read.
        y: a tensor or numpy array: whole numbers [samples] from 0 for classification (booleans
            are classes 0 and 1), floats [samples] or [samples, ...] for regression. Floats of
            a numpy array take torch's default dtype; a tensor keeps its own.
        split: the fractions of the train, validation and test parts; they sum to 1 and leave no
            part empty. Samples are not stratified.
        seed: decides which sample is in which part.
        name: what the data is called.

    Raises:
        TypeError: ``x`` or ``y`` is no tensor or array of real numbers.
        ValueError: lengths differ, a number is NaN or infinite (the row is named), a label is
            negative, ``y`` of whole numbers has more than one axis, or ``split`` does not fit.
    """
    if isinstance(x, str | Path):
        x, y, called = _files(x, y)
        name = name or called
    xs, ys = _samples("x", x), _samples("y", y)
    for argument, tensor in (("x", xs), ("y", ys)):
        if tensor.dim() == 0:
            raise ValueError(f"{argument} must have a leading axis of samples, got a single number")
    if len(xs) != len(ys):
        raise ValueError(f"x and y must have the same length, got {len(xs)} and {len(ys)}")
    if isinstance(ys, Tensor) and ys.dtype == torch.bool:
        ys = ys.long()
    _finite("x", xs)
    _finite("y", ys)
    classes = None
    if not isinstance(ys, Mapped) and not ys.is_floating_point():
        ys = ys.long()
        classes = _classes(ys)
    fractions = fractions_of(split)
    parts = rows_of_parts(fractions, len(xs), seed)
    ys = ys.to(xs.device)
    train, validation, test = (
        Part(_rows(xs, rows), _rows(ys, rows)) for rows in (part.to(xs.device) for part in parts)
    )
    return Data(
        train=train,
        validation=validation,
        test=test,
        task="regression" if classes is None else "classification",
        classes=classes,
        name=name or "data",
        split=fractions,
        seed=seed,
    )


def _files(x: str | Path, y: Any) -> tuple[Any, Any, str]:
    """``x`` mapped, ``y``, and what the data is called."""
    first = Path(x)
    if first.suffix == ".npz" and y is None:
        from chimera.fit.npz import arrays_of

        return (*arrays_of(first), first.name)
    if not (isinstance(y, str | Path) and first.suffix == Path(y).suffix == ".npy"):
        raise ValueError(
            f"x, y: expected the paths of two .npy files, or of one .npz file with arrays x and y, "
            f"got {str(x)!r} and {y!r:.60}"
        )
    arrays = in_file("x", map_npy(first)), in_file("y", map_npy(Path(y)))
    return *arrays, f"{first.name},{Path(y).name}"


def _samples(argument: str, value: Any) -> Tensor | Mapped:
    if isinstance(value, Mapped):
        return value
    if isinstance(value, numpy.ndarray):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"{argument} must hold real numbers, got an array of {value.dtype}")
        return as_tensor(value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{argument} must be a tensor or a numpy array, got {type(value).__name__}; "
            f"torch.tensor({argument}) makes one of a list"
        )
    if value.is_complex():
        raise TypeError(f"{argument} must hold real numbers, got a tensor of {value.dtype}")
    return value.detach()


def _rows(samples: Tensor | Mapped, rows: Tensor) -> Tensor | Mapped:
    return samples.take(rows) if isinstance(samples, Mapped) else samples[rows]


def _finite(argument: str, tensor: Tensor | Mapped) -> None:
    if not tensor.is_floating_point():
        return
    wrong, found, kind = 0, -1, ""
    done = 0
    for some in pieces(tensor):
        rows = (~some.isfinite()).reshape(len(some), -1).any(1) if len(some) else some.new_empty(0)
        if found < 0 and rows.any():
            row = int(rows.nonzero()[0])
            kind = "NaN" if some[row].isnan().any() else "an infinite number"
            found = done + row
        wrong += int(rows.sum())
        done += len(some)
    if wrong:
        others = f" and in {wrong - 1} more rows" if wrong > 1 else ""
        raise ValueError(
            f"{argument} has {kind} in row {found}{others}; drop or fill those rows first"
        )


def _classes(labels: Tensor) -> int:
    if labels.dim() != 1:
        hot = labels.dim() == 2 and labels.shape[1] > 1 and bool((labels.sum(1) == 1).all())
        mend = "y.argmax(1) tells one-hot rows" if hot else "y.squeeze(1) drops an axis of size 1"
        raise ValueError(
            f"y of whole numbers holds one class per sample, [samples], got shape "
            f"{list(labels.shape)}; {mend}, and floats mean regression"
        )
    negative = (labels < 0).nonzero()
    if len(negative):
        row = int(negative[0])
        raise ValueError(f"y holds class numbers from 0, got {int(labels[row])} in row {row}")
    if not len(labels):
        return 0
    count, used = int(labels.max()) + 1, len(labels.unique())
    if count > _MANY_CLASSES and count > 10 * used:
        warnings.warn(
            f"y of whole numbers holds classes: {count} of them, of which {used} occur; "
            "floats mean regression (y.float())",
            ChimeraWarning,
            stacklevel=4,
        )
    return count


def _moved(tensor: Samples, device: torch.device, dtype: torch.dtype | None) -> Samples:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)
