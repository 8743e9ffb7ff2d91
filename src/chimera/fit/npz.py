"""Data from a file of numpy arrays: ``data.npz`` with ``x`` and ``y``. No code in it is run."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy

from chimera.fit.data import Data, data
from chimera.fit.extracted import extracted
from chimera.fit.mapped import Mapped, in_file, map_stored
from chimera.scale.joined import ranks_here


def load_npz(path: str | Path, split: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0) -> Data:
    """The data of an ``.npz`` file with arrays ``x`` and ``y``, as ``ch.data`` takes them.

    Raises:
        ValueError: the file does not exist, is no ``.npz`` file, is damaged, lacks ``x`` or
            ``y``, or holds pickled objects, which are refused; or what ``ch.data`` raises.
        TypeError: what ``ch.data`` raises.
    """
    path = Path(path)
    return data(*arrays_of(path), split=split, seed=seed, name=path.name)


def arrays_of(path: Path) -> tuple[Mapped | numpy.ndarray, Mapped | numpy.ndarray]:
    """The arrays ``x`` and ``y``, mapped where the file has them as they are.

    Of several processes of a machine, compressed ones are mapped, too.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not an .npz file; numpy.savez(path, x=x, y=y) writes one")
    with numpy.load(path, allow_pickle=False) as archive:
        missing = [name for name in ("x", "y") if name not in archive.files]
        if missing:
            held = ", ".join(archive.files) or "no array"
            raise ValueError(f"{path}: expected the arrays x and y, got {held}")
        found = {name: _mapped(path, name) for name in ("y", "x")}
        y, x = (_read(path, archive, name) if a is None else a for name, a in found.items())
    return in_file("x", x), in_file("y", y)


def _mapped(path: Path, name: str) -> numpy.ndarray | None:
    """The array ``name``, mapped; None where it must be read as a whole."""
    try:
        array = map_stored(path, name)
        if array is None and ranks_here() > 1:
            array = extracted(path, name)
    except (KeyError, ValueError):
        return None  # numpy says what is wrong with it
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if hasattr(error, "__notes__"):  # the disk refuses what is written out
            raise
        raise ValueError(f"{path}: {name} cannot be read, the file is damaged: {error}") from error
    return array


def _read(path: Path, archive: numpy.lib.npyio.NpzFile, name: str) -> numpy.ndarray:
    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise ValueError(
                f"{path}: {name} holds Python objects, which would run code when read; "
                "save it as an array of numbers"
            ) from error
        raise ValueError(f"{path}: {name} cannot be read: {error}") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: {name} cannot be read, the file is damaged: {error}") from error
    if not isinstance(array, numpy.ndarray):
        raise ValueError(f"{path}: {name} is no array")
    return array
