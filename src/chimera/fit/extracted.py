"""Compressed arrays, written out once for all the ranks of a machine, and mapped.

The file lies among the temporary files, in a folder of the user's own, under a name that stands for
the archive, its state, and the run. It is removed as soon as every rank of the machine has mapped
it, which keeps what it holds; only ranks that are killed before leave it behind. A rank that comes
again after that writes it out once more.
"""

import hashlib
import os
import secrets
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy

from chimera.scale.joined import ranks_here, restarts
from chimera.store.atomic import noting_space
from chimera.store.lock import is_named

_BLOCK = 1 << 22


def extracted(path: Path, name: str) -> numpy.ndarray:
    """The array ``name`` of the ``.npz`` file ``path``, mapped from a file that others map, too.

    Raises:
        ValueError, EOFError, zipfile.BadZipFile, zlib.error: the archive is damaged, or holds
            objects.
        OSError: the archive cannot be read; or, with a note, the disk refuses.
    """
    place = _folder() / f"{_key(path, name)}.npy"
    with _held(place.with_suffix(".lock")) as lock:
        done = True
        try:
            if not place.exists():
                _extract(path, name, place)
            array = numpy.load(place, mmap_mode="r", allow_pickle=False)
            mapped_by = {*os.pread(lock, _BLOCK, 0).split(), str(os.getpid()).encode()}
            os.pwrite(lock, b"\n".join(mapped_by), 0)
            done = len(mapped_by) >= ranks_here()
        finally:
            if done:
                place.unlink(missing_ok=True)
                place.with_suffix(".lock").unlink()
    assert isinstance(array, numpy.ndarray)
    return array


def _folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"chimera-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        said = os.lstat(folder)
        if not stat.S_ISDIR(said.st_mode) or said.st_uid != os.getuid() or said.st_mode & 0o022:
            raise PermissionError(f"{folder} is no folder that you alone can write to")
    except OSError as error:
        error.add_note(
            "what is compressed is written out there for all ranks; TMPDIR names another"
        )
        raise
    return folder


def _key(path: Path, name: str) -> str:
    said = path.stat()
    archive = (path.resolve(), said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns, name)
    run = (os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT"), restarts())
    return hashlib.sha256(repr((archive, run)).encode()).hexdigest()[:32]


def _extract(path: Path, name: str, place: Path) -> None:
    beside = place.with_suffix(f".{secrets.token_hex(8)}")
    try:
        with zipfile.ZipFile(path) as archive:
            needs = archive.getinfo(f"{name}.npy").file_size
            with archive.open(f"{name}.npy") as content, open(beside, "xb", buffering=0) as file:
                while block := content.read(_BLOCK):
                    with noting_space(place, place.parent, needs):
                        _write(file.fileno(), block)
        os.rename(beside, place)
    finally:
        beside.unlink(missing_ok=True)


def _write(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def _held(path: Path) -> Iterator[int]:
    """A descriptor of the file that holds its lock; the file is the one that ``path`` names."""
    import fcntl  # POSIX alone has it

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_named(descriptor, path):  # else a rank has just removed it
                yield descriptor
                return
        finally:
            os.close(descriptor)
