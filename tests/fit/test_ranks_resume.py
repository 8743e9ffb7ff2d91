"""Runs of several ranks that stop, are killed, and go on with another number of ranks."""

import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

# A run of eight steps an epoch; STOP = (rank, call of its loss, signal) stops it.
RUN = """
join()
import signal, time
x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
data = ch.data(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long(), split=(0.8, 0.1, 0.1))
nets = ch.instances(MLP, 4, 4, 3, hidden=5, dropout=0.2, seed=0)
nets += ch.instances(nn.Linear, 3, 4, 3, seed=0)
nets = [net.double() for net in nets]

class Loss:
    calls = 0
    def __call__(self, output, target):
        self.calls += 1
        if STOP and STOP[0] == RANK and self.calls == STOP[1]:
            os.kill(os.getpid(), STOP[2])
        return nn.functional.cross_entropy(output, target)

result = ch.fit(nets, data, epochs=4, batch_size=4, lr=ch.LogUniform(1e-3, 1e-1), loss=Loss(),
                out=OUT, resume="auto", checkpoint_every=1)
state = {name: tensor.flatten().tolist() for name, tensor in result.stack.state_dict().items()}
with open(f"{FOLDER}/{RANK}.json", "w") as file:
    json.dump([result.table, result.epochs, state], file)
"""


def code(out: Path, stop: tuple[int, int, int] | None = None) -> str:
    return f"OUT, STOP = {str(out)!r}, {stop and tuple(map(int, stop))!r}\n{RUN}"


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [flat(item) for item in value.values()]
    return [flat(item) for item in value] if isinstance(value, list) else value


def assert_close(one: Any, other: Any) -> None:
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-6, abs=1e-9, nan_ok=True)
    else:
        assert one == other


def steps(out: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in out.glob("checkpoints/*/complete.json"))


@pytest.fixture(scope="module")
def whole(ranks: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """What one process says that was never stopped, and its directory."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = ranks.run(code(out), 1)
    assert ended.codes == [0], ended.err
    return ended.said[0], out


def chain(ranks: Any, whole: Any, out: Path, sizes: tuple[int, ...]) -> None:
    """Stop a run of the first number of ranks, go on with the next, and so on to its end."""
    said, first = whole
    before = 0
    for size in sizes[:-1]:
        last = min(size, 7) - 1
        ended = ranks.run(code(out, (last, 13, signal.SIGTERM)), size)
        assert ended.codes == [143] * size, ended.err
        assert all("goes on" in err for err in ended.err)
        assert steps(out)[-1] > before
        before = steps(out)[-1]
        assert not list(out.glob("checkpoints/*.tmp"))
    ended = ranks.run(code(out), sizes[-1])
    assert ended.codes == [0] * sizes[-1], ended.err
    for mine in ended.said:
        assert_close(flat(said), flat(mine))
    assert sorted(os.listdir(out)) == sorted(os.listdir(first))
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert_close(flat([json.loads(line) for line in lines]), flat(said[1]))


@pytest.mark.parametrize("sizes", [(2, 3, 1), (1, 2, 2), (3, 1, 2)])
def test_checkpoints_of_some_ranks_are_read_by_others(
    ranks: Any, whole: Any, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    chain(ranks, whole, tmp_path / "run", sizes)


@pytest.mark.long
@pytest.mark.parametrize("sizes", list(itertools.product((1, 2, 3, 5), repeat=3)))
def test_any_ranks_read_what_any_wrote_twice(
    ranks: Any, whole: Any, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    chain(ranks, whole, tmp_path / "run", sizes)


def test_the_same_ranks_go_on_to_the_same_bits(ranks: Any, tmp_path: Path) -> None:
    never = ranks.run(code(tmp_path / "never"), 2)
    for stop in (5, 16, 17, 30):
        out = tmp_path / str(stop)
        assert ranks.run(code(out, (1, stop, signal.SIGINT)), 2).codes == [130, 130]
        ended = ranks.run(code(out), 2)
        assert ended.said == never.said
        for name in ("metrics.jsonl", "members.csv"):
            assert (out / name).read_bytes() == (tmp_path / "never" / name).read_bytes()


def test_a_finished_run_is_finished_for_any_ranks(ranks: Any, whole: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks.run(code(out), 2)
    ended = ranks.run(code(out), 3)
    assert ended.codes == [0, 0, 0], ended.err
    assert_close(flat(whole[0]), flat(ended.said[2]))


KILL = """
import signal
folders, joint = sys.modules["chimera.store.folders"], sys.modules["chimera.fit.joint"]

def killing(function):
    def replaced(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return replaced

left = PHASE if RANK == WHO else 0
for module, name in ((folders, "flush"), (folders, "write_atomic"),
                     (folders, "discard"), (joint, "write_members"),
                     (joint, "flush"), (joint, "write_state"),
                     (folders, "sha256_of")):
    setattr(module, name, killing(getattr(module, name)))
"""


def killed(ranks: Any, whole: Any, out: Path, who: int, phase: int) -> bool:
    """Kill a rank in a phase of a save, go on with one rank less; whether there was the phase."""
    kill = f"PHASE, WHO = {phase}, {who}\n{KILL}"
    ended = ranks.run(kill + code(out), 3)
    if ended.codes == [0, 0, 0]:
        return False
    assert ended.codes[who] == -signal.SIGKILL, ended.err
    # Those that had done their part are well once the last checkpoint is whole.
    well = {0, 1} if (out / "checkpoints/32/complete.json").exists() else {1}
    others = {c for rank, c in enumerate(ended.codes) if rank != who}
    assert others <= well, (phase, ended.codes, ended.err)
    ended = ranks.run(code(out), 2)
    assert ended.codes == [0, 0], ended.err
    assert_close(flat(whole[0]), flat(ended.said[0]))
    assert sorted(os.listdir(out)) == sorted(os.listdir(whole[1]))
    assert steps(out)[-1] == 32
    assert not list(out.glob("checkpoints/*.*"))
    return True


@pytest.mark.parametrize(("who", "phase"), [(0, 3), (0, 9), (1, 1), (2, 3)])
def test_a_rank_killed_in_a_save(
    ranks: Any, whole: Any, tmp_path: Path, who: int, phase: int
) -> None:
    assert killed(ranks, whole, tmp_path / "run", who, phase)


@pytest.mark.long
@pytest.mark.parametrize(("who", "least"), [(0, 20), (1, 8), (2, 8)])
def test_a_rank_killed_in_every_phase_of_a_save(
    ranks: Any, whole: Any, tmp_path: Path, who: int, least: int
) -> None:
    phases = 0
    while killed(ranks, whole, tmp_path / str(phases + 1), who, phases + 1):
        phases += 1
    assert phases >= least


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_sigterm_does_not_wait_for_a_dead_or_a_stopped_rank(
    ranks: Any, tmp_path: Path, wait_for: Any, number: int
) -> None:
    out = tmp_path / "run"
    slow = code(out).replace("self.calls += 1", "self.calls += 1; time.sleep(0.02)")
    running = ranks.start(slow.replace("epochs=4", "epochs=400"), 3)
    try:
        wait_for(lambda: steps(out))
        os.kill(running.pids[1], number)
        for pid in (running.pids[0], running.pids[2]):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not _runs(running.pids[0]) and not _runs(running.pids[2]), 28)
    finally:
        os.kill(running.pids[1], signal.SIGKILL)
    ended = running.ended()
    assert {ended.codes[0], ended.codes[2]} <= {143, 1}, ended.err
    assert 143 in ended.codes, ended.err
    # Of the two that end, the later may find the earlier gone, and name that one.
    assert any("rank 1 " in ended.err[rank] for rank in (0, 2)), ended.err
    assert "resume=True) goes on" in ended.err[ended.codes.index(143)]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_stopped_rank_that_goes_on_changes_nothing(
    ranks: Any, whole: Any, tmp_path: Path, wait_for: Any
) -> None:
    running = ranks.start(code(tmp_path / "run"), 2)
    wait_for((tmp_path / "run" / "config.json").exists)
    os.kill(running.pids[1], signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(running.pids[1], signal.SIGCONT)
    ended = running.ended()
    assert ended.codes == [0, 0], ended.err
    assert_close(flat(whole[0]), flat(ended.said[0]))


def test_a_directory_that_is_not_shared_is_refused(ranks: Any, tmp_path: Path) -> None:
    quick = 'sys.modules["chimera.fit.opened"]._SECONDS = 0.5\n'
    apart = quick + code(tmp_path / "run").replace("out=OUT", 'out=f"{OUT}-{RANK}"')
    ended = ranks.run(apart, 2)
    assert ended.codes == [1, 1]
    assert any("rank 1 (" in err and "does not see the directory" in err for err in ended.err)
    assert not os.listdir(tmp_path)


def test_a_directory_in_use_is_refused_by_all_ranks(ranks: Any, tmp_path: Path) -> None:
    from chimera.store import Lock

    with Lock(tmp_path):
        ended = ranks.run(code(tmp_path), 2)
    assert any(f"in use by process {os.getpid()}" in err for err in ended.err)
    assert ended.codes == [1, 1]


def test_started_again_by_the_launcher_out_goes_on(ranks: Any, whole: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    plain = code(out, (1, 50, signal.SIGKILL)).replace('resume="auto", ', "")
    assert ranks.run(plain, 2).codes == [1, -9]
    assert steps(out)
    plain = code(out).replace('resume="auto", ', "")
    again = ranks.run(plain, 2, env={"TORCHELASTIC_RESTART_COUNT": "1"})
    assert again.codes == [0, 0], again.err
    assert_close(flat(whole[0]), flat(again.said[1]))


FULL = """
import resource
joint = sys.modules["chimera.fit.joint"]
real, written = joint.write_members, 0

def write_members(folder, standing, number):
    global written
    written += 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if RANK == WHO and written == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        return real(folder, standing, number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

joint.write_members = write_members
"""


@pytest.mark.parametrize("who", [0, 1])
def test_a_full_disk_on_one_rank_leaves_the_checkpoint_before(
    ranks: Any, whole: Any, tmp_path: Path, who: int
) -> None:
    out = tmp_path / "run"
    ended = ranks.run(f"WHO = {who}\n{FULL}{code(out)}", 2)
    assert ended.codes == [1, 1]
    assert "File too large" in ended.err[who]
    assert "checkpoints/24: " in ended.err[who]
    assert "bytes needed and" in ended.err[who]
    assert any("the checkpoint of step 16 stands" in err for err in ended.err)
    assert steps(out) == [8, 16]
    assert not list(out.glob("checkpoints/*.*"))
    ended = ranks.run(code(out), 1)
    assert_close(flat(whole[0]), flat(ended.said[0]))


def test_a_damaged_file_of_another_rank_is_passed_over(
    ranks: Any, whole: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert ranks.run(code(out, (0, 20, signal.SIGTERM)), 2).codes == [143, 143]
    newest = out / "checkpoints" / str(steps(out)[-1]) / "members-1.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 4
    newest.write_bytes(content)
    warned = "import warnings\nwarnings.simplefilter('always')\n"
    ended = ranks.run(warned + code(out), 2)
    assert ended.codes == [0, 0], ended.err
    assert "members-1.safetensors: is damaged" in ended.err[0]
    assert_close(flat(whole[0]), flat(ended.said[0]))
