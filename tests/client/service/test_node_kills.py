"""kill -9 on a node within messages and between them: the study goes on, nothing is opened or answered twice."""

import random
from collections.abc import Callable

import pytest

from tests.support.auditor import Auditor
from tests.support.served import DyingNode, Relayed, served
from tests.support.world import World, secure
from undertone_server.collect.gathering import Patience
from undertone_server.collect.waiting import Waiting

Make = Callable[..., World]
SITES = {"north": 6, "east": 6, "south": 4}
QUICK = Waiting(seconds=60.0, pause=0.05, longest_pause=0.2)
# In the order in which a node comes by, within one attempt; the counts spread over its files, commits and steps.
MOMENTS = [
    ("durable/written", 1),
    ("session/step durable", 1),
    ("session/stored state durable", 1),
    ("preparing/coins drawn", 1),
    ("preparing/coins durable", 1),
    ("latents/computed", 1),
    ("preparing/rows computed", 1),
    ("attempt_store/before commit", 2),
    ("preparing/rows durable", 1),
    ("durable/synced", 2),
    ("session/step durable", 2),
    ("session/stored state durable", 2),
    ("session/step durable", 3),
    ("node/before charge", 1),
    ("node/charge durable", 1),
    ("node/before answer", 1),
    ("session/stored state durable", 3),
    ("session/survivors durable", 1),
    ("session/stored state durable", 4),
    ("session/step durable", 5),
]


def run_with_kills(world: World, moments: list[tuple[str, int]]) -> list[str]:
    """A study in which the node of east dies at these moments, one after the other; where it died."""
    node = DyingNode(world, "east", moments)
    try:
        app = Relayed({"east": node.client}, node.failed)
        world.run_rounds(patience=Patience(120.0, 0.05), app=app, waiting=QUICK)
    finally:
        node.close()
    return node.kills


def look(world: World) -> None:
    """The books of all sites and of the coordinator agree: each attempt counts once, each round is opened once."""
    Auditor(world.folder).look()
    asked = {
        (int(mark.parent.name.split("-")[1]), int(mark.stem.split("-")[1]))
        for mark in world.run.checkpoints.glob("round-*/asked-*.mark")
    }
    opened = world.charges()
    assert [round_ for round_, _ in opened] == list(range(1, world.plan.privacy.rounds + 1))
    for site in SITES:
        charges = world.charges(site)
        assert len(charges) == len(set(charges))
        assert set(opened) <= set(charges) <= asked


def test_a_node_killed_at_twenty_moments_loses_no_round(make_world: Make) -> None:
    world = make_world(SITES, aggregation=secure(3), rounds=12, max_attempts=40, sampling_rate=0.5)
    assert run_with_kills(world, MOMENTS) == [name for name, _ in MOMENTS]
    look(world)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_kills(make_world: Make, seed: int) -> None:
    world = make_world(SITES, aggregation=secure(3), rounds=30, max_attempts=90, sampling_rate=0.5)
    moments = random.Random(seed).choices(MOMENTS, k=20)
    assert len(run_with_kills(world, moments)) == 20
    look(world)


def test_an_answer_that_a_dying_relay_lost_is_never_given_again(make_world: Make) -> None:
    world = make_world(SITES, aggregation=secure(3), rounds=2, max_attempts=8, sampling_rate=0.5)
    losing = ["prepare", "ready", "share_keys", "masked_input", "consistency_check", "unmasking"]
    with served(world.sites["east"]) as client:
        app = Relayed({"east": client})
        app.lost = lambda _site, kind: kind in losing[:1] and bool(losing.pop(0))
        world.run_rounds(patience=Patience(120.0, 0.05), app=app, waiting=QUICK)
    assert not losing
    look(world)
    assert world.charges() == [(1, 4), (2, 1)]  # once a vector has left, a lost answer costs the attempt
    assert world.charges("east") == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]
