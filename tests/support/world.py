"""A coordinator's RUN and some nodes with the dummy method, on disk and ready to talk."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from tests.support.approvals import approved, give_budget, wide_policy
from tests.support.dummy import DIMENSION, FEATURES, SIZE, DummyBase, DummyMethod, DummyOptions
from tests.support.images import write_folder
from tests.support.sharded import ShardedDummy, ShardedOptions
from undertone import PROTOCOL, __version__
from undertone.core import bounds
from undertone.core.code_digest import package_sha256
from undertone.core.keys import PLAN_DOMAIN, public_hex, sign
from undertone.core.settings_file import settings_toml
from undertone.data.images import load_image
from undertone.methods.protocol import UnitRecords
from undertone.models.pinned import pin
from undertone.privacy.distributed import noise_margin, noise_share_sigma
from undertone.privacy.entropy import Entropy, OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.quantise import choose_grid
from undertone.privacy.unit_randomness import row_generator, row_key
from undertone.release.statement import SIMULATION
from undertone.secagg.thresholds import default_colluders, default_threshold
from undertone.study.claim import epsilons
from undertone.study.plan import Plan
from undertone.wire.messages import Reply, Request
from undertone_cli.engines.inprocess import InProcessGrid
from undertone_cli.provisioning import federate
from undertone_client.app import app as client_app
from undertone_client.node import Node
from undertone_client.registration.registered import register
from undertone_client.site.attempt_store import AttemptStore
from undertone_client.site.config import NodeConfig
from undertone_client.site.datasets import DataSet, data_set
from undertone_client.site.enrol import describe_data_set, read_table
from undertone_client.site.folder import SiteDir, create_site
from undertone_client.site.policy import Policy
from undertone_server.collect.deadlines import Deadlines
from undertone_server.collect.gathering import BRIEF, Patience
from undertone_server.collect.sites import Sites
from undertone_server.collect.waiting import USUAL, Waiting
from undertone_server.ledger_heads import LedgerHeads, LeftOut
from undertone_server.rounds import Coordinator
from undertone_server.run_folder import RunFolder

START = np.zeros(DIMENSION, dtype=np.float32)


def identify() -> None:
    """Flower asks a process who it is before it may create messages."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID


class SilentTelemetry:
    """TensorBoard's place, without its accountant's seconds."""

    def round_done(self, round_: int, charged: object, state: NDArray[np.float32]) -> None:
        del round_, charged, state


def secure(sites: int, **changes: Any) -> dict[str, Any]:
    """Secure aggregation at its defaults for so many sites."""
    threshold = default_threshold(sites)
    defaults = {"threshold": threshold, "colluders": default_colluders(sites, threshold)}
    return {"mode": "secagg"} | defaults | changes


PLAIN = {"mode": "plain", "threshold": 0, "colluders": 0}


def make_plan(
    base: Path,
    units: Mapping[str, int],
    *,
    aggregation: Mapping[str, Any] = PLAIN,
    wire_bits: int = 32,
    min_sites: int = 2,
    summing: bool = False,
    units_origin: str = "published",
    clip_units: int = 1024,
    staged: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    sharded: Mapping[str, Any] | None = None,
    **privacy: Any,
) -> Plan:
    """A consistent plan whose noise is set by hand: no calibration, which takes seconds. Its claim is true.

    `summing` = True: rows count as too long to be kept. Delta is as small as a plan may have it, so that little
    noise is enough: sigma = 1024 is one Delta. `staged`: with the dummy's first round, as a stage of its own with these
    figures (`sigma`, `clip_units`, `sampling_rate`, `max_attempts`); `rounds` counts it too.
    `data`: further keys of that table. `sharded`: options of the dummy whose rows are of shards, in place of the other;
    `units` are then the patients, and Delta is twice that of the grid.
    """
    patients = None if sharded is None else dict(units)
    method = DummyMethod(DummyOptions()) if sharded is None else ShardedDummy(ShardedOptions(**sharded))
    if isinstance(method, ShardedDummy):
        units = dict.fromkeys(units, method.shards)
    row = method.row(None) if isinstance(method, ShardedDummy) else DIMENSION
    wanted = {"sampling_rate": 1.0, "rounds": 1, "max_attempts": 1, "unit": "patient", "sigma": 1024} | privacy
    shared = wanted.get("noise") == "distributed"
    share = noise_share_sigma(wanted["sigma"], aggregation["threshold"] - aggregation["colluders"]) if shared else 0

    def margin(_clip_units: int, of: int = share, dimension: int = row) -> int:
        return noise_margin(of, len(units), dimension) if shared else 0

    chosen = choose_grid(4.0, wanted["sampling_rate"], max(units.values()), len(units), wire_bits, margin)
    grid = replace(chosen, scale=clip_units // 4, clip_units=clip_units)
    pinned = pin(str(base))
    layout = method.layout(pinned)
    plan = Plan.model_validate(
        {
            "protocol": PROTOCOL,
            "package": __version__,
            "package_sha256": package_sha256(),
            "study": "dummy-study",
            "model": {"base": str(base), "revision": None, "files": dict(pinned.files), "licence": "apache-2.0"},
            "method": {
                "name": method.name,
                "options": method.options.model_dump(),
                "dimension": layout.size,
                "sent": method.sent(pinned),
                "row": row,
                "shards": method.shards,
                "layout_digest": layout.digest,
            }
            if isinstance(method, ShardedDummy)
            else {
                "name": "dummy",
                "options": {"token": "<dummy>", "rate": 1.0, "summing": summing} | ({"staged": True} if staged else {}),
                "dimension": layout.size,
                "sent": None if staged is None else layout.size + 1,
                "layout_digest": layout.digest,
            },
            "privacy": {
                "epsilon_target": 4.0,
                "epsilon": 0.0,
                "epsilon_rdp": 0.0,
                "delta": 1e-5,
                "noise": "central",
                "sigma_local": share,
                "sensitivity": grid.clip_units * (1 if sharded is None else 2),
                "clip_origin": "study",
                "noise_to_signal": 0.5,
                "allow_noisy": False,
            }
            | wanted,
            "grid": {
                "scale": grid.scale,
                "clip_units": grid.clip_units,
                "site_clamp": grid.site_clamp,
                "modulus_bits": wire_bits,
                "noise_margin": margin(grid.clip_units),
            },
            "data": {
                "unit_column": "patient_id" if wanted["unit"] == "patient" else None,
                "caption": "a {token}, {finding}",
                **(data or {}),
            },
            "earlier": [] if staged is None else [_selection(staged, wanted, units, aggregation, wire_bits, margin)],
            "cohort": {"units": dict(units), "units_origin": units_origin, "min_sites": min_sites}
            | ({} if patients is None else {"patients": patients}),
            "aggregation": {"rosters": _rosters(aggregation, wanted), **aggregation, "wire_bits": wire_bits},
        }
    )
    epsilon, epsilon_rdp = epsilons(plan.charges, plan.privacy.delta)
    claim = {"epsilon": wanted.get("epsilon", epsilon), "epsilon_rdp": wanted.get("epsilon_rdp", epsilon_rdp)}
    claimed = plan.model_copy(update={"privacy": plan.privacy.model_copy(update=claim)})
    return Plan.model_validate(claimed.model_dump())


def _selection(
    staged: Mapping[str, Any],
    wanted: Mapping[str, Any],
    units: Mapping[str, int],
    aggregation: Mapping[str, Any],
    wire_bits: int,
    margin: Callable[..., int],
) -> dict[str, Any]:
    """The dummy's first stage: rows of features, C = 2."""
    figures = {"sigma": 4096, "clip_units": 2048, "sampling_rate": wanted["sampling_rate"], "max_attempts": 1} | staged
    shared, clip_units = wanted.get("noise") == "distributed", figures.pop("clip_units")
    honest = aggregation["threshold"] - aggregation["colluders"]
    share = noise_share_sigma(figures["sigma"], honest) if shared else 0
    clamp = choose_grid(2.0, 1.0, max(units.values()), len(units), wire_bits).site_clamp
    grid = {"scale": clip_units // 2, "clip_units": clip_units, "site_clamp": clamp // 2, "modulus_bits": wire_bits}
    return {
        "name": "selection",
        "rounds": 1,
        "dimension": FEATURES,
        "sigma_local": share,
        "sensitivity": clip_units,
        "clip_origin": "public images",
        "noise_to_signal": 0.25,
        "grid": grid | {"noise_margin": margin(clip_units, share, FEATURES)},
    } | figures


def _rosters(aggregation: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """As `resolve` chooses: a chain wherever one protects something."""
    return "chain" if aggregation["mode"] == "secagg" and wanted.get("noise", "central") == "central" else "free"


@dataclass
class World:
    """One study: RUN, its plan, and each site's SITE_DIR and rows of metadata."""

    folder: Path
    plan: Plan
    run: RunFolder
    sites: dict[str, Path] = field(default_factory=dict)
    records: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @property
    def start(self) -> NDArray[np.float32]:
        """The state before the first round."""
        return self.sharded.initial_state(None) if self.sharded else np.zeros(self.plan.state_size, dtype=np.float32)

    @property
    def sharded(self) -> ShardedDummy | None:
        """The plan's method, if its rows are of shards."""
        options = self.plan.method.options
        return None if self.plan.method.shards is None else ShardedDummy(ShardedOptions(**options))  # type: ignore[arg-type]

    def node(self, site: str = "north", entropy: Entropy | None = None) -> Node:
        return Node(self.sites[site], entropy)

    def request(self, kind: str = "prepare", **changes: Any) -> Request:
        """A good request, but for `changes`."""
        values: dict[str, Any] = {
            "kind": kind,
            "protocol": PROTOCOL,
            "plan": self.plan.as_bytes(),
            "signature": self.run.signature(),
            "round": 1,
            "attempt": 1,
            "state": self.sharded.query(None, self.start) if self.sharded else self.start,
        }
        return Request(**(values | changes))

    def signed(self, plan: Plan) -> dict[str, Any]:
        """`changes` of a request for another plan, signed by the coordinator and approved by all sites."""
        for folder in self.sites.values():
            approved(SiteDir(folder), plan)
        return {"plan": plan.as_bytes(), "signature": sign(self.run.key(), PLAN_DOMAIN, plan.digest)}

    def withdraw(self, *sites: str) -> None:
        """These sites answer no more: their approvals are gone."""
        for site in sites:
            (self.sites[site] / "approved" / f"{self.plan.digest}.json").unlink()

    def allow(self, site: str, **changes: Any) -> None:
        """A site's policy, with some keys changed; a coordinator's federation goes with its key, as by hand."""
        path, policy = self.sites[site] / "policy.toml", SiteDir(self.sites[site]).policy
        if "coordinators" in changes:
            pinned = {key: policy.federations.get(name) for name, key in policy.coordinators.items()}
            kept = {name: pinned[key] for name, key in changes["coordinators"].items() if pinned.get(key)}
            changes = {"federations": kept} | changes
        path.write_bytes(settings_toml(Policy.model_validate(policy.model_dump() | changes)))

    def ask(self, kind: str, site: str = "north", **changes: Any) -> Reply:
        return self.node(site).handle(self.request(kind, **changes))

    def log(self, site: str = "north") -> str:
        path = self.sites[site] / "node.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def charges(self, site: str | None = None) -> list[tuple[int, int]]:
        """(round, attempt) of each charge at a site, or at the coordinator."""
        path = self.run.ledger if site is None else self.sites[site] / "ledger.sqlite"
        with Ledger.open(path, read_only=True) as ledger:
            return [(charge.round, charge.attempt) for charge in ledger.charges(self.plan.digest)]

    def rows(self, site: str = "north", round_: int = 1, attempt: int = 1) -> dict[str, NDArray[np.float32]]:
        with AttemptStore(self.sites[site] / "state.sqlite") as store:
            return store.rows((self.plan.digest, round_, attempt))

    def round_folder(self, round_: int = 1) -> Path:
        return self.run.checkpoints / f"round-{round_:06d}"

    def run_rounds(
        self,
        absent: Sequence[str] = (),
        entropy: Entropy | None = None,
        patience: Patience = BRIEF,
        *,
        app: Any = client_app,
        waiting: Waiting = USUAL,
    ) -> NDArray[np.float32]:
        """A coordinator's process from start to end, as `run_study` does it, without model or release.

        `app` stands at the sites between messages and nodes.
        """
        identify()
        there = [folder for site, folder in self.sites.items() if site not in absent]
        grid = InProcessGrid(app, dict(enumerate(there, SUPERLINK_NODE_ID + 1)))
        heads, left_out = LedgerHeads(self.run.checkpoints / "ledger-heads"), LeftOut(self.run.checkpoints / "left-out")
        sites = Sites(
            grid, tuple(self.plan.cohort.units), self.run.federation(), Deadlines.equal(10.0), heads, left_out
        )
        with Ledger.open(self.run.ledger) as ledger:
            sites.find()
            method, pinned = DummyMethod(DummyOptions(staged=bool(self.plan.earlier))), pin(self.plan.model.base)
            methods = [self.sharded] if self.sharded else [stage.method for stage in method.stages(pinned)]
            telemetry: Any = SilentTelemetry()
            entropy = entropy or OsEntropy()
            study = Coordinator(
                self.plan, methods, self.run, sites, ledger, telemetry, entropy, patience, patience, waiting, DummyBase
            )
            return study.run_rounds(self.start)


def build_world(
    folder: Path, base: Path, sizes: Mapping[str, int], *, micro_batch: int = 64, keep_rows: bool = True, **plan_: Any
) -> World:
    """`sizes`: site -> number of images; two images make a patient, N_i is the number of patients.

    Each site has approved the plan and registered its records, as `simulate` leaves it.
    """
    plan = make_plan(base, {site: max(count // 2, 1) for site, count in sizes.items()}, **plan_)
    world = World(folder, plan, RunFolder.create(folder / "run", plan, {"setting": SIMULATION}))
    policy = wide_policy(plan, public_hex(world.run.key()))
    for index, (site, count) in enumerate(sizes.items()):
        data = folder / "data" / site
        world.records[site] = write_folder(data, count, first=100 * index)
        config = NodeConfig(site=site, micro_batch=micro_batch, keep_rows=keep_rows)
        world.sites[site] = create_site(folder / "sites" / site, config, policy, OsEntropy()).folder
    federate(world.run, world.sites.values())
    for site, made in world.sites.items():
        give_budget(SiteDir(made), plan, folder / "data" / site)
        register(SiteDir(made), plan, data_of(made))
        approved(SiteDir(made), plan)
    return world


def describe_data(site: SiteDir, folder: Path, plan: Plan, **changes: Any) -> DataSet:
    """A site's data set "data", which counts the plan's units, as `simulate` makes it."""
    values = {
        "name": "data",
        "folder": str(folder),
        "unit": plan.privacy.unit,
        "unit_column": plan.data.unit_column,
        "publish": plan.patients.get(site.config.site, 1),
        "epsilon": bounds.EPSILON,
        "delta": 1e-5,
    }
    data = DataSet(**(values | changes))
    describe_data_set(site, data, read_table(site, data)[0])
    return data


def without_data(site: SiteDir) -> SiteDir:
    """The site as it was before it had a data set, its ledger too, which knows the newest files."""
    shutil.rmtree(site.folder / "datasets")
    site.ledger.unlink()
    Ledger.create(site.ledger, {"role": "node", "site": site.config.site}).close()
    return site


def data_of(site: Path | SiteDir, name: str = "data") -> DataSet:
    """The data set of a SITE_DIR."""
    return data_set(site if isinstance(site, Path) else site.folder, name)


def oracle_row(world: World, site: str, patient: str) -> np.ndarray:
    """A patient's row, worked out slowly from the files."""
    rows = [row for row in world.records[site] if row["patient_id"] == patient]
    images = np.stack([load_image(world.folder / "data" / site / row["file_name"], SIZE) for row in rows])
    secret = (world.sites[site] / "secret.key").read_bytes()
    generator = row_generator(row_key(secret, world.plan.digest, 1, 1, patient))
    return DummyMethod.row(START, UnitRecords(DummyBase().encode(images), ("",) * len(rows), generator))
