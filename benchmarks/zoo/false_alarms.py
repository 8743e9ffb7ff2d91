"""False alarms of `chimera.check` over networks that others wrote, trained and published.

Checks every classifier of torchvision and about a hundred small networks of timm (at least one of
each of its files), keeps what was found in ``found.jsonl`` beside this file, and writes the table
``docs/check/false-alarms.md`` with the judgement of each finding, which ``judged.json`` holds.

    make zoo
"""

import argparse
import collections
import json
import os
import time
from pathlib import Path

HERE = Path(__file__).parent
FOUND = HERE / "found.jsonl"
JUDGED = HERE / "judged.json"
PAGE = HERE.parents[1] / "docs" / "check" / "false-alarms.md"

_LARGE = ("vit_h_14", "vit_l_16", "vit_l_32", "regnet_y_128gf")
_SMALL = ("test_", "nano", "atto", "femto", "pico", "xxs", "tiny", "xs", "small", "_s", "b0", "18")


def torchvision_networks():
    """Name, factory and image size of every classifier but the largest."""
    import torchvision

    for name in torchvision.models.list_models(module=torchvision.models):
        if name in _LARGE:
            continue
        size = 224 if name.startswith(("vit", "maxvit")) else 96

        def make(name=name):
            # Without auxiliary outputs' own initialization, which takes minutes by scipy.
            more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            return torchvision.models.get_model(name, weights=None, **more)

        yield f"torchvision/{name}", make, size


def timm_networks(count):
    """Name, factory and image size of ``count`` small networks, each file of timm first."""
    import timm

    def order(name):
        hints = [i for i, hint in enumerate(_SMALL) if hint in name]
        return (min(hints, default=len(_SMALL)), len(name), name)

    by_file = [
        sorted(timm.list_models(module=file), key=order) for file in sorted(timm.list_modules())
    ]
    chosen = []
    rank = 0
    while len(chosen) < count and any(len(names) > rank for names in by_file):
        chosen += [names[rank] for names in by_file if len(names) > rank]
        rank += 1
    for name in chosen[:count]:

        def make(name=name):
            return timm.create_model(name, pretrained=False)

        size = timm.get_pretrained_cfg(name, allow_unregistered=True)
        yield f"timm/{name}", make, (size.input_size[-1] if size is not None else 224)


def parameters_of(make):
    """The number of parameters, found without memory where that goes."""
    import torch

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in make().parameters())
    except Exception:  # noqa: BLE001 - what reads numbers while it is made is made for real
        return sum(p.numel() for p in make().parameters())


def check_all(count, only, largest):
    """Check what is not checked yet; a line of JSON for each network."""
    import torch

    import chimera as ch

    done = {json.loads(line)["network"] for line in FOUND.open()} if FOUND.exists() else set()
    with FOUND.open("a") as file:
        for name, make, size in (*torchvision_networks(), *timm_networks(count)):
            if name in done or only not in name or (largest and parameters_of(make) > largest):
                continue
            start = time.perf_counter()
            row = {"network": name, "findings": [], "failed": None}
            try:
                torch.manual_seed(0)
                net = make()
                row["parameters"] = sum(p.numel() for p in net.parameters())
                for finding in ch.check(net, ch.spec("batch", 3, size, size)):
                    row["findings"].append(
                        {
                            "rule": finding.rule,
                            "severity": finding.severity,
                            "path": finding.path,
                            "message": finding.message,
                            "line": finding.line,
                        }
                    )
            except Exception as error:  # noqa: BLE001 - a network that cannot be made is told
                row["failed"] = f"{type(error).__name__}: {error}"[:200]
            row["seconds"] = round(time.perf_counter() - start, 1)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                name,
                row["seconds"],
                row["failed"]
                or sorted({f["rule"] for f in row["findings"] if f["severity"] != "info"}),
                flush=True,
            )


def judgement(judged, network, rule):
    """``real``, ``false`` or ``unjudged``, and why: the first entry that fits."""
    for entry in judged:
        if entry["rule"] == rule and any(network.startswith(n) for n in entry["networks"]):
            return entry["judgement"], entry["why"]
    return "unjudged", ""


def write_page():
    """The table of findings and judgements."""
    judged = json.loads(JUDGED.read_text()) if JUDGED.exists() else []
    rows = [json.loads(line) for line in FOUND.open()]
    checked = [row for row in rows if row["failed"] is None]
    lines, wrong = [], set()
    largest = max((row["parameters"] for row in checked), default=0)
    for row in sorted(checked, key=lambda row: row["network"]):
        rules = collections.Counter(
            (f["rule"], f["severity"]) for f in row["findings"] if f["severity"] != "info"
        )
        for (rule, severity), number in sorted(rules.items()):
            verdict, why = judgement(judged, row["network"], rule)
            if verdict != "real":
                wrong.add(row["network"])
            lines.append(
                f"| {row['network']} | {severity} | {rule} | {number} | {verdict} | {why} |"
            )
    share = len(wrong) / max(len(checked), 1)
    failed = [f"`{row['network']}`: {row['failed']}" for row in rows if row["failed"]]
    PAGE.write_text(
        "# False alarms\n\n"
        f"`ch.check` over {len(checked)} networks of torchvision and timm, the largest of "
        f"{largest / 1e6:.0f} million parameters, as `make zoo` runs it (batch named, images of "
        "random numbers, no loss; a run goes on with the networks that are not yet in "
        "`benchmarks/zoo/found.jsonl`). "
        f"{len(wrong)} of them ({share:.1%}) show an error or warning that is not real. "
        "What is only worth knowing (`info`) is not counted.\n\n"
        "| network | severity | rule | findings | judged | why |\n"
        "| --- | --- | --- | ---: | --- | --- |\n"
        + "\n".join(lines)
        + "\n"
        + ("\nNot checked: " + "; ".join(failed) + ".\n" if failed else "")
    )
    print(f"{len(wrong)} of {len(checked)} networks with a false alarm ({share:.1%}): {PAGE}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timm", type=int, default=100, help="how many networks of timm")
    parser.add_argument("--only", default="", help="check networks with this in their name")
    parser.add_argument("--largest", type=float, help="leave out networks of more parameters")
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not arguments.page:
        check_all(arguments.timm, arguments.only, arguments.largest)
    write_page()


if __name__ == "__main__":
    main()
