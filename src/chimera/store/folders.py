"""Numbered folders of files that appear whole, are marked complete last, and vanish whole.

Under one root, the folder ``<number>`` holds plain files, ``manifest.json`` (their sizes and
SHA-256) and, last of all, the marker ``complete.json`` (the manifest's SHA-256, the number and
the owner whose folder it is). It is written as ``<number>.tmp``, flushed, renamed, and then marked;
it is removed by being renamed to ``<number>.old`` first. So a marked folder of a plain number is
always whole, whenever the process was killed.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chimera.store.atomic import discard, flush, kind_of, noting_space, write_atomic
from chimera.store.errors import CheckpointError
from chimera.store.plain import parsed_json, read_plain, sha256_of

MANIFEST = "manifest.json"
MARKER = "complete.json"
_FORMAT = 1
_MOST = 1 << 20
_UNFINISHED = (".tmp", ".old")


class Folders:
    """The numbered folders under ``root``.

    Args:
        root: the directory; made when the first folder is written.
        owner: what the folders belong to; folders of another owner are not taken.
    """

    def __init__(self, root: Path, owner: str) -> None:
        self.root, self.owner = root, owner

    def complete(self) -> list[int]:
        """The numbers of the folders that have their marker, in order.

        Raises CheckpointError where the root is something other than a directory.
        """
        return sorted(n for n in self._numbers() if os.path.lexists(self.path(n) / MARKER))

    def path(self, number: int) -> Path:
        """Where the folder of a number is."""
        return self.root / str(number)

    def write(self, number: int, fill: Callable[[Path], None], needs: int = 0) -> Path:
        """Write the folder ``number``; an older one of that number is replaced.

        Args:
            number: 0 or more.
            fill: writes plain files into the empty directory that it is given, where they may
                stand half-written for a time; they are flushed afterwards.
            needs: about how many bytes that takes, for the message when the disk refuses.

        Raises OSError where the disk refuses, with a note of the bytes needed and free; whatever
        ``fill`` raises. Nothing is left then, and no other folder is touched.
        """
        final, beside = self.path(number), self.root / f"{number}.tmp"
        with noting_space(final, self.root.parent, needs):
            try:
                self._make_root()
                discard(beside)
                beside.mkdir()
                fill(beside)
                (beside / MANIFEST).write_text(self._manifest(beside))
                for name in os.listdir(beside):
                    flush(beside / name)
                flush(beside)
                self.remove(number)
                os.rename(beside, final)
                flush(self.root)
            except BaseException:
                discard(beside)
                raise
            write_atomic(final / MARKER, self._marker(number, sha256_of(final / MANIFEST)))
        return final

    def check(self, number: int) -> Path:
        """The folder of a number, when every file in it is what was written.

        Raises CheckpointError, naming the file and what is wrong with it.
        """
        folder, files = self._listed(number)
        for name in files:
            _check_file(folder, name, files)
        return folder

    def check_file(self, number: int, name: str) -> None:
        """Raise CheckpointError where one file of a folder is not what was written."""
        folder, files = self._listed(number)
        if name not in files:
            raise CheckpointError(f"{folder / MANIFEST}: does not list {name!r}")
        _check_file(folder, name, files)

    def _listed(self, number: int) -> tuple[Path, dict[str, tuple[int, str]]]:
        """The folder of a number, and the files that its manifest, the one written, lists."""
        folder = self.path(number)
        _require_directory(folder)
        marker = read_plain(folder / MARKER, _MOST)
        said = parsed_json(folder / MARKER, marker)
        digest = said.get("manifest_sha256") if isinstance(said, dict) else None
        if not isinstance(digest, str):
            raise CheckpointError(f"{folder / MARKER}: does not say the manifest's SHA-256")
        if said.get("owner") != self.owner or said.get("number") != number:
            raise CheckpointError(
                f"{folder / MARKER}: is of folder {said.get('number')!r} of the run "
                f"{said.get('owner')!r:.60}, expected {number} of {self.owner!r}"
            )
        if marker.decode() != self._marker(number, digest):
            raise CheckpointError(f"{folder / MARKER}: is damaged or of another version")
        content = read_plain(folder / MANIFEST, _MOST)
        if hashlib.sha256(content).hexdigest() != digest:
            raise CheckpointError(f"{folder / MANIFEST}: is damaged: it is not the one written")
        manifest = parsed_json(folder / MANIFEST, content)
        return folder, _files(folder / MANIFEST, manifest)

    def remove(self, number: int) -> None:
        """Remove a folder: renamed away first, so that it is never half there under its number."""
        folder, away = self.path(number), self.root / f"{number}.old"
        if os.path.lexists(folder):
            discard(away)
            os.rename(folder, away)
            flush(self.root)
            discard(away)

    def put_aside(self, number: int) -> Path:
        """Rename a folder to ``<number>.damaged``, for whoever wants to look; nothing reads it."""
        place = self.root / f"{number}.damaged"
        copies = 1
        while os.path.lexists(place):
            copies += 1
            place = self.root / f"{number}.damaged-{copies}"
        os.rename(self.path(number), place)
        flush(self.root)
        return place

    def prune(self, keep: Iterable[int]) -> None:
        """Remove the folders that are not to be kept, and what a killed process left unfinished."""
        kept = set(keep)
        for number in self._numbers():
            if number not in kept:
                self.remove(number)
        self.clean()

    def clean(self) -> None:
        """Remove what a killed process left: folders without their marker, half-written ones."""
        complete = set(self.complete())
        for number in self._numbers():
            if number not in complete:
                self.remove(number)
        for name in self._names():
            number_, suffix = os.path.splitext(name)
            if suffix in _UNFINISHED and _number(number_) is not None:
                discard(self.root / name)

    def _names(self) -> list[str]:
        if not os.path.lexists(self.root):
            return []
        _require_directory(self.root)
        return os.listdir(self.root)

    def _numbers(self) -> list[int]:
        return [number for name in self._names() if (number := _number(name)) is not None]

    def _make_root(self) -> None:
        if not os.path.lexists(self.root):
            self.root.mkdir()
            flush(self.root.parent)
        _require_directory(self.root)

    def _manifest(self, folder: Path) -> str:
        files = {}
        for name in sorted(os.listdir(folder)):
            size = os.lstat(folder / name).st_size
            files[name] = {"bytes": size, "sha256": sha256_of(folder / name, size)}
        return json.dumps({"format": _FORMAT, "files": files}, indent=2) + "\n"

    def _marker(self, number: int, digest: str) -> str:
        said = {
            "format": _FORMAT,
            "owner": self.owner,
            "number": number,
            "manifest_sha256": digest,
        }
        return json.dumps(said) + "\n"


def _files(path: Path, manifest: Any) -> dict[str, tuple[int, str]]:
    """The files that a manifest lists: name -> size in bytes and SHA-256."""
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        version = manifest.get("format") if isinstance(manifest, dict) else None
        raise CheckpointError(f"{path}: is of format {version!r}, this version reads {_FORMAT}")
    listed = manifest.get("files")
    files: dict[str, tuple[int, str]] = {}
    for name, said in listed.items() if isinstance(listed, dict) else ():
        size, digest = (said.get("bytes"), said.get("sha256")) if isinstance(said, dict) else (0, 0)
        if name in ("", ".", "..", MANIFEST, MARKER) or "/" in name or os.sep in name:
            raise CheckpointError(f"{path}: lists {name[:80]!r}, which is no file's name here")
        if type(size) is not int or size < 0 or not isinstance(digest, str) or "\0" in name:
            raise CheckpointError(f"{path}: does not describe {name[:80]!r} as a manifest does")
        files[name] = (size, digest)
    if not files:
        raise CheckpointError(f"{path}: lists no files")
    return files


def _check_file(folder: Path, name: str, files: dict[str, tuple[int, str]]) -> None:
    size, wanted = files[name]
    if sha256_of(folder / name, size) != wanted:
        raise CheckpointError(f"{folder / name}: is damaged: its content has changed")


def _number(name: str) -> int | None:
    plain = name.isascii() and name.isdecimal() and len(name) < 20
    return int(name) if plain and str(int(name)) == name else None


def _require_directory(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise CheckpointError(f"{path}: is {kind_of(mode)}, expected a directory")
