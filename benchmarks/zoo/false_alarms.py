"""False alarms of `chimera.check` over networks that others wrote, trained and published.

Checks the networks that `networks.py` chooses, each in a process of its own, keeps what was found
in ``found.jsonl`` beside this file, and writes the table ``docs/check/false-alarms.md`` with the
judgement of each finding, which ``judged.json`` holds. A run goes on with what is not yet there.

    make zoo
"""

import argparse
import collections
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from networks import Network, timm_networks, torchvision_networks

HERE = Path(__file__).parent
FOUND = HERE / "found.jsonl"
LIMIT_S = 900
LIMIT_GB = 6.0


def check_one(network: Network, sent: Connection) -> None:
    """Check a network; send what was found. It is given as a factory: most rules look at that."""
    import torch

    import chimera as ch

    torch.set_num_threads(1)
    start = time.perf_counter()
    row: dict[str, Any] = {"network": network.name, "failed": None, "findings": [], "info": {}}
    try:
        shape = ch.spec("batch", 3, network.size, network.size)
        row["parameters"] = ch.shapes(network.make, shape).parameters
        for found in ch.check(network.make, shape):
            if found.severity == "info":
                row["info"][found.rule] = row["info"].get(found.rule, 0) + 1
            else:
                place = f"{Path(found.file).name}:{found.line}" if found.file else None
                row["findings"].append(
                    {
                        "rule": found.rule,
                        "severity": found.severity,
                        "path": found.path,
                        "message": found.message,
                        "at": place,
                    }
                )
    except Exception as error:  # noqa: BLE001 - a network that cannot be made is told
        row["failed"] = f"{type(error).__name__}: {error}"[:200]
    row["seconds"] = round(time.perf_counter() - start, 1)
    sent.send(row)


def memory_gb(pid: int) -> float:
    """The resident memory of a process (Linux; 0 elsewhere)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def watched(network: Network) -> dict[str, Any]:
    """What was found in a network, or that it took too long or too much memory."""
    context = multiprocessing.get_context("fork")
    received, sent = context.Pipe(duplex=False)
    process = context.Process(target=check_one, args=(network, sent))
    process.start()
    sent.close()
    start, failed = time.monotonic(), None
    try:
        while not received.poll(0.5):
            if time.monotonic() - start > LIMIT_S:
                failed = f"not done after {LIMIT_S} s"
            elif memory_gb(process.pid or 0) > LIMIT_GB:
                failed = f"takes more than {LIMIT_GB:g} GB"
            if failed:
                break
        if not failed:
            return received.recv()
    except EOFError:
        failed = "its process died"
    finally:
        process.kill()
        process.join()
    return {"network": network.name, "failed": failed, "findings": [], "info": {}}


def rows_of(file: Path) -> list[dict[str, Any]]:
    """What a file of results holds; a network's last line counts."""
    rows = [json.loads(line) for line in file.open()] if file.exists() else []
    return list({row["network"]: row for row in rows}.values())


def check_all(networks: Iterator[Network], only: str, again: bool) -> None:
    """Check what is not checked yet (or, with ``again``, once more); a line of JSON for each."""
    done = {row["network"] for row in rows_of(FOUND) if row["failed"] is None}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for network in networks:
        if only not in network.name or (network.name in done and not again):
            continue
        row = watched(network) | {"rules": commit}
        with FOUND.open("a") as file:
            file.write(json.dumps(row) + "\n")
        rules = collections.Counter(f"{f['severity']} {f['rule']}" for f in row["findings"])
        print(network.name, row.get("seconds"), row["failed"] or dict(rules), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timm", type=int, default=100, help="how many networks of timm")
    parser.add_argument("--only", default="", help="check networks with this in their name")
    parser.add_argument("--again", action="store_true", help="also those that were checked before")
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not arguments.page:
        check_all(torchvision_networks(), arguments.only, arguments.again)
        if not arguments.only.startswith("torchvision"):
            check_all(timm_networks(arguments.timm), arguments.only, arguments.again)
    from page import write_page

    write_page(rows_of(FOUND))


if __name__ == "__main__":
    main()
