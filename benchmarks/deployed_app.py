"""The coordinator's side of `deployed.py`: a ServerApp that sends a state to each site and has a vector back, no study.

RUN/job.json says how long the vectors are, RUN/found.json what it took and what arrived.
"""

import hashlib
import time
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from undertone import PROTOCOL
from undertone.core.canonical import Json, canonical_json
from undertone.core.durable import read_json, write_durable
from undertone.wire.messages import Due, Request
from undertone_server.collect.deadlines import DEPLOYED
from undertone_server.collect.sites import Sites
from undertone_server.home.folder import Home

app = ServerApp()


def digest(vector: NDArray[np.float32] | NDArray[np.uint32]) -> str:
    """SHA-256 of a vector's bytes."""
    return hashlib.sha256(vector.data).hexdigest()


def state_of(length: int) -> NDArray[np.float32]:
    """What goes to the sites: any bits, as a state may have them."""
    return np.random.Generator(np.random.Philox(key=0)).standard_normal(length, dtype=np.float32)


def words_of(site: str, length: int) -> NDArray[np.uint32]:
    """What comes from a site."""
    key = int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(key=key)).integers(0, 2**32, length, dtype=np.uint32)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Each length one after the other: `prepare` takes a state there, `plain_input` brings a vector back."""
    run = Path(str(context.run_config["run-dir"]))
    job = read_json(run / "job.json")
    if not isinstance(job, dict) or not isinstance(job["sites"], list) or not isinstance(job["lengths"], list):
        raise ValueError(f"{run / 'job.json'} is no job")
    home, names = Home.open(Path(str(job["home"]))), tuple(map(str, job["sites"]))
    sites = Sites(grid, names, home.federation(), DEPLOYED)
    sites.find()
    while set(sites.present) != set(names):
        time.sleep(1.0)
        sites.find()
    # The first message of a run brings Flower's app along, which is no part of either.
    list(sites.ask(dict.fromkeys(names, Request("ready", PROTOCOL)), Due(ledger_head=True)))
    found: dict[str, Json] = {str(length): _there_and_back(sites, names, int(str(length))) for length in job["lengths"]}
    write_durable(run / "found.json", canonical_json(found))


def _there_and_back(sites: Sites, names: tuple[str, ...], length: int) -> dict[str, Json]:
    """Seconds until the last site has answered, and digests: of the state as it left, of the vectors as they came."""
    state = state_of(length)
    prepare = Request("prepare", PROTOCOL, round=1, session=length, state=state)
    began = time.monotonic()
    answered = [site for site, _ in sites.ask(dict.fromkeys(names, prepare), Due(ledger_head=True))]
    there = time.monotonic() - began
    asked = Request("plain_input", PROTOCOL, round=1, session=length)
    vectors: dict[str, NDArray[np.uint32]] = {}
    began = time.monotonic()
    for site, reply in sites.ask(dict.fromkeys(answered, asked), Due(words=(False, length), ledger_head=True)):
        if reply.words is not None:
            vectors[site] = reply.words.view(np.uint32)
    back = time.monotonic() - began
    arrived: dict[str, Json] = {site: digest(words) for site, words in vectors.items()}
    missing: dict[str, Json] = {**sites.missing}
    return {"there": there, "back": back, "state": digest(state), "vectors": arrived, "missing": missing}
