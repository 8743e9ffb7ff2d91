"""Tensor files round-trip, and nothing that was changed in them is read."""

import json
import os
import pickle
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from chimera.store import CheckpointError, TensorFile, write_tensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Random bits of a shape and dtype (bools are 0 or 1)."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = torch.Size(shape).numel() * dtype.itemsize
    bits = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    return bits.view(dtype).reshape(shape)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(
            a.contiguous().reshape(-1).view(torch.uint8),
            b.contiguous().reshape(-1).view(torch.uint8),
        )
    )


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@given(
    specs=st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), max_size=5),
    rows=st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=4),
    count=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_dtype_and_shape_comes_back(tmp_path, specs, rows, count, seed):
    tensors = {f"plain.{i}": drawn(s, d, seed + i) for i, (s, d) in enumerate(specs)}
    group = {f"g.{i}": drawn((count, *s), d, seed - i) for i, (s, d) in enumerate(rows)}
    meta = {"hello": [1, None, "☃"]}
    write_tensors(tmp_path / "f", {**tensors, **group}, meta, {"g": list(group)})
    file = TensorFile(tmp_path / "f")
    read = file.read()
    assert file.meta == meta
    assert set(read) == set(file.entries) == {*tensors, *group}
    for name, tensor in {**tensors, **group}.items():
        assert same_bits(read[name], tensor)
        assert file.entries[name].shape == tuple(tensor.shape)
        assert file.entries[name].dtype == tensor.dtype
    for row in range(count):
        one = file.read_row("g", row)
        assert set(one) == set(group)
        assert all(same_bits(one[name], tensor[row]) for name, tensor in group.items())


def test_memory_that_is_shared_or_strided_is_written_as_it_looks(tmp_path: Path):
    base = torch.arange(12.0).reshape(3, 4)
    views = {
        "t": base.t(),
        "row": base[1],
        "all": base,
        "twice": base,
        "wide": base[:1].expand(3, 4),
    }
    views["conj"] = torch.tensor([1 + 2j]).conj()
    write_tensors(tmp_path / "f", views, {})
    read = TensorFile(tmp_path / "f").read()
    assert all(torch.equal(read[name], tensor) for name, tensor in views.items())


@pytest.mark.parametrize("pad", range(16))
def test_complex_numbers_come_back_wherever_they_lie_in_the_file(tmp_path: Path, pad: int):
    tensors = {"z": drawn((2, 3), torch.complex128, pad)}
    write_tensors(tmp_path / "f", tensors, {"pad": "x" * pad}, {"rows": ["z"]})
    for read in (TensorFile(tmp_path / "f").read(), {"z": tensors["z"].clone()}):
        assert same_bits(torch.empty(2, 3, dtype=torch.complex128).copy_(read["z"]), tensors["z"])
    row = TensorFile(tmp_path / "f").read_row("rows", 1)["z"]
    assert same_bits(torch.empty(3, dtype=torch.complex128).copy_(row), tensors["z"][1])


def test_the_file_is_safetensors_that_others_read(tmp_path: Path):
    write_tensors(tmp_path / "f", {"a": torch.ones(2)}, {"x": 1})
    with safe_open(tmp_path / "f", framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), torch.ones(2))
        assert file.metadata()["format"] == "pt"


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("..", torch.ones(1)),
        ("", torch.ones(1)),
        ("__metadata__", torch.ones(1)),
        ("a\n", torch.ones(1)),
        ("a", torch.ones(1, device="meta")),
        ("a", torch.ones(2, 2).to_sparse()),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path: Path, name: str, tensor: torch.Tensor):
    with pytest.raises(ValueError, match=r"tensor name|dense tensors"):
        write_tensors(tmp_path / "f", {name: tensor}, {})
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path):
    write_tensors(tmp_path / "f", {"a": torch.ones(2)}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError) as caught:
            write_tensors(tmp_path / "f", {"a": torch.ones(10_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "bytes needed" in caught.value.__notes__[0]
    assert torch.equal(TensorFile(tmp_path / "f").read()["a"], torch.ones(2))
    assert os.listdir(tmp_path) == ["f"]


# --- what was changed is not read


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "f"
    tensors = {"a": drawn((3, 5), torch.float32, 1), "g.w": drawn((4, 6), torch.float32, 2)}
    tensors |= {"g.b": drawn((4,), torch.bfloat16, 3), "z": drawn((2,), torch.complex128, 4)}
    write_tensors(path, tensors, {"k": [1, 2]}, {"g": ["g.w", "g.b"]})
    return path.read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        TensorFile(path).read()
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_flipped_bit_is_seen(tmp_path: Path, whole: bytes):
    original = {n: t.tobytes() for n, t in _numpy(tmp_path / "f", whole).items()}
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position * 5 % 8)
        try:
            refused(tmp_path / "f", bytes(changed))
        except pytest.fail.Exception:
            # Only padding may change unseen: what is read is then the same.
            read = {n: t.tobytes() for n, t in _numpy(tmp_path / "f", bytes(changed)).items()}
            assert read == original


def _numpy(path: Path, content: bytes):
    path.write_bytes(content)
    read = TensorFile(path).read().items()
    return {n: t.contiguous().reshape(-1).view(torch.uint8).numpy() for n, t in read}


def test_a_flipped_bit_of_a_row_is_seen_by_its_reader_alone(tmp_path: Path):
    weights = torch.zeros(4, 1000)
    write_tensors(tmp_path / "f", {"g.w": weights}, {}, {"g": ["g.w"]})
    content = bytearray((tmp_path / "f").read_bytes())
    start = len(content) - 4 * 4000 if content[-1] == 0 else content.rfind(bytes(16000))
    content[start + 2 * 4000 + 17] ^= 4
    (tmp_path / "f").write_bytes(content)
    file = TensorFile(tmp_path / "f")
    assert torch.equal(file.read_row("g", 1)["g.w"], weights[1])
    for read in (lambda: file.read_row("g", 2), file.read):
        with pytest.raises(CheckpointError, match="is damaged: row 2 of g has changed"):
            read()


def test_every_truncation_is_seen(tmp_path: Path, whole: bytes):
    for length in range(len(whole)):
        refused(tmp_path / "f", whole[:length])
    refused(tmp_path / "f", whole + b"\0")


def framed(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no whole safetensors file"),
        (struct.pack("<Q", 2**62) + b"{}", "no whole safetensors file"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "no whole safetensors file"),
        (framed(b'{"a": '), "no JSON"),
        (framed(b"\xff\xfe"), "no JSON"),
        (framed(b"[" * 100_000), "no JSON"),
        (framed(b'{"a": ' + b"9" * 5000 + b"}"), "no JSON"),
        (framed([1]), "no JSON object"),
        (framed(b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), b"1234"), "'a' twice"),
        (framed({"../../x": F32}, b"1234"), "has an empty part"),
        (framed({"a\0": F32}, b"1234"), "cannot be printed"),
        (framed({"a": F32, "b": F32}, b"1234"), "starts at byte 0, expected 4"),
        (framed({"a": F32}, b"12345"), "describes 4 bytes of data, the file holds 5"),
        (framed({"a": F32}, b"123"), "describes 4 bytes of data, the file holds 3"),
        (framed({"a": {**F32, "dtype": "F4"}}, b"1234"), "dtype 'F4'"),
        (framed({"a": {**F32, "dtype": []}}, b"1234"), "dtype"),
        (framed({"a": {**F32, "shape": [-1]}}, b"1234"), "no sizes"),
        (framed({"a": {**F32, "shape": [True]}}, b"1234"), "no sizes"),
        (framed({"a": {**F32, "shape": [2**40]}}, b"1234"), "in 4 bytes"),
        (framed({"a": {**F32, "data_offsets": [4, 0]}}, b"1234"), "in -4 bytes"),
        (framed({"a": {**F32, "more": 1}}, b"1234"), "as the format says"),
        (framed({"a": 1}, b"1234"), "as the format says"),
        (framed({"a": F32, "__metadata__": {"k": 1}}, b"1234"), "no table of strings"),
        (framed({"a": F32}, b"1234"), "ch.save did not write"),
        (
            framed({"a": F32, "__metadata__": {"format": "pt", "chimera": "{}"}}, b"1234"),
            "its seal",
        ),
        (pickle.dumps({"a": [1.0] * 20}), "no whole safetensors file"),
    ],
)
def test_malformed_and_hostile_files_are_one_clear_error(tmp_path: Path, content: bytes, said: str):
    assert said in refused(tmp_path / "f", content)


@given(data=st.data())
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_mutations_are_seen_or_harmless(tmp_path: Path, whole: bytes, data):
    path = tmp_path / "m"
    original = {n: t.tobytes() for n, t in _numpy(path, whole).items()}
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 40)))
    mutated = whole[:start] + data.draw(st.binary(max_size=40)) + whole[stop:]
    path.write_bytes(mutated)
    try:
        read = _numpy(path, mutated)
    except CheckpointError:
        return
    assert {n: t.tobytes() for n, t in read.items()} == original


def test_a_record_that_was_sealed_but_does_not_fit_is_refused(tmp_path: Path):
    from chimera.store.header import Entry
    from chimera.store.tensors import _seal

    tensors = {"a": torch.ones(2), "b": torch.ones(3)}
    entries = {name: Entry(t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    good = {"meta": {}, "complex128": [], "row_groups": {}, "sha256": {"a": "", "b": ""}}
    for change in [
        {"sha256": {"a": ""}},
        {"row_groups": {"g": ["a", "b"]}, "sha256": {}},
        {"row_groups": {"g": ["c"]}},
        {"row_groups": {"g": []}},
        {"complex128": ["a"]},
        {"complex128": ["c"]},
        {"meta": 3},
        {"sha256": []},
    ]:
        text = json.dumps(good | change)
        save_file(
            tensors, tmp_path / "f", {"format": "pt", "chimera": f"{_seal(text, entries)} {text}"}
        )
        with pytest.raises(CheckpointError, match="does not fit the tensors"):
            TensorFile(tmp_path / "f")
    save_file(tensors, tmp_path / "f", {"format": "pt", "chimera": _seal("[]", entries) + " []"})
    with pytest.raises(CheckpointError, match="does not fit the tensors"):
        TensorFile(tmp_path / "f")


def test_only_plain_files_are_opened(tmp_path: Path, whole: bytes):
    (tmp_path / "f").write_bytes(whole)
    (tmp_path / "link").symlink_to(tmp_path / "f")
    os.mkfifo(tmp_path / "pipe")
    for path, said in [
        (tmp_path / "link", "is a symbolic link"),
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path, "is a directory"),
        (Path("/dev/zero"), "is a device"),
        (tmp_path / "nowhere", "cannot be read: No such file"),
    ]:
        with pytest.raises(CheckpointError, match=f"^{path}: {said}"):
            TensorFile(path)


def test_a_part_of_a_checkpoint_is_read_as_such_alone(tmp_path: Path) -> None:
    """Its data is the manifest's to watch, its header still the seal's."""
    path = tmp_path / "members-0.safetensors"
    tensor = drawn((3, 5), torch.float32, 0)
    write_tensors(path, {"w": tensor}, {"told": 1}, hashed=False)
    with pytest.raises(CheckpointError, match=r"part of a checkpoint.*manifest\.json beside it"):
        TensorFile(path)
    file = TensorFile(path, hashed=False)
    assert file.meta == {"told": 1}
    assert same_bits(file.read()["w"], tensor)
    path.write_bytes(path.read_bytes().replace(b"[3,5]", b"[5,3]"))
    with pytest.raises(CheckpointError, match="seal"):
        TensorFile(path, hashed=False)


def test_the_same_tensors_make_the_same_bytes(tmp_path: Path) -> None:
    """In every process: what is hashed at random differs between them alone."""
    code = """if True:
        import sys, torch
        from chimera.store import write_tensors
        tensors = {"w": torch.arange(15.0).view(3, 5), "b": torch.arange(3)}
        write_tensors(sys.argv[1], tensors, {"told": [1, 'a"}\\\\', "ä"]}, {"all": ["w"]})
    """
    found = set()
    for number in range(6):
        path = tmp_path / str(number)
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        assert TensorFile(path).meta == {"told": [1, 'a"}\\', "ä"]}
        found.add(path.read_bytes())
    assert len(found) == 1


def test_no_flipped_bit_of_a_header_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_tensors(path, {"w": drawn((3, 2), torch.float32, 0)}, {})
    whole = path.read_bytes()
    for place in range(8 + int.from_bytes(whole[:8], "little")):
        for bit in range(8):
            path.write_bytes(bytes([*whole[:place], whole[place] ^ 1 << bit, *whole[place + 1 :]]))
            with pytest.raises(CheckpointError):
                TensorFile(path).read()
