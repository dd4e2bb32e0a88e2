"""A site of very many images, made quickly, and how much memory a node needs for it.

    python -m tests.support.large FOLDER COUNT      one line of JSON: peak memory, seconds of each step

The method and the base are the dummies, so memory is what the node itself needs, beside the libraries.
"""

import csv
import io
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.approvals import approved, give_budget, wide_policy
from tests.support.dummy import DummyBase, DummyMethod, make_dummy_base
from tests.support.world import World, data_of, make_plan
from undertone.core.keys import public_hex
from undertone.methods.registry import METHODS
from undertone.privacy.entropy import OsEntropy
from undertone_client.compute import preparing
from undertone_client.registration.checking import check_site
from undertone_client.registration.registered import register
from undertone_client.site.config import NodeConfig
from undertone_client.site.folder import create_site
from undertone_server.run_folder import RunFolder

_DISTINCT, _SIDE, _FOLDER = 256, 32, 1000


def write_large_folder(folder: Path, count: int) -> None:
    """`count` PNGs of 32 x 32 in folders of 1,000, of 256 distinct pictures; each its own patient and its own bytes."""
    folder.mkdir(parents=True)
    originals: list[bytes] = []
    for number in range(_DISTINCT):
        drawn = np.random.Generator(np.random.Philox(key=number)).integers(0, 256, (8, 8, 3))
        pixels = np.kron(drawn, np.ones((_SIDE // 8, _SIDE // 8, 1))).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG")
        originals.append(stream.getvalue())
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "patient_id", "finding"])
        for number in range(count):
            name = f"{number // _FOLDER:04d}/scan-{number:06d}.png"
            if number % _FOLDER == 0:
                (folder / name).parent.mkdir()
            (folder / name).write_bytes(originals[number % _DISTINCT] + number.to_bytes(4))  # behind the end of a PNG
            writer.writerow([name, f"patient-{number:06d}", "clear"])


def peak_mib() -> float:
    """This program's largest resident size. getrusage's would include the parent's size when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(folder: Path, count: int) -> dict[str, object]:
    """Write, check, register, prepare, prepare again and answer: MiB at most, and seconds."""
    plan = make_plan(make_dummy_base(folder / "base"), {"north": count, "east": count})
    world = World(folder, plan, RunFolder.create(folder / "run", plan, {"setting": "test"}))
    policy = wide_policy(plan, public_hex(world.run.key()))
    config = NodeConfig(site="north", micro_batch=256)
    site = create_site(folder / "north", config, policy, OsEntropy())
    world.sites["north"] = site.folder
    approved(site, plan)
    begun = peak_mib()
    steps = {
        "write": lambda: write_large_folder(folder / "data", count),
        "describe": lambda: give_budget(site, plan, (folder / "data").resolve()),
        "check": lambda: check_site(site),
        "register": lambda: register(site, plan, data_of(site)),
        "prepare": lambda: world.ask("prepare"),
        "prepare again": lambda: world.ask("prepare"),
        "plain_input": lambda: world.ask("plain_input"),
    }
    seconds, answers = {}, {}
    for name, step in steps.items():
        started = time.monotonic()
        answers[name] = step()
        seconds[name] = round(time.monotonic() - started, 2)
    reply = answers["plain_input"]
    return {
        "answered": getattr(reply, "words", None) is not None and bool(reply.words.any()),  # type: ignore[attr-defined]
        "bad": len(answers["check"].problems),  # type: ignore[attr-defined]
        "libraries_mib": begun,
        "peak_mib": peak_mib(),
        "seconds": seconds,
    }


def main() -> None:
    """See the module's description."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, DummyMethod.name, DummyMethod)
        patch.setattr(preparing, "_loaded", lambda *_: DummyBase())
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))


if __name__ == "__main__":
    main()
