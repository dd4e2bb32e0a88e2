"""Books in memory: which data sets have a cap; and a SITE_DIR with data sets in them."""

from pathlib import Path
from typing import Any

from tests.support.images import write_folder
from undertone.errors import BudgetExceeded
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger
from undertone_client.site.config import NodeConfig
from undertone_client.site.datasets import DataSet, new_data_set
from undertone_client.site.enrol import Found, add_data_set
from undertone_client.site.folder import SiteDir, create_site
from undertone_client.site.policy import Policy

KEY = "ab" * 32


class BooksInMemory:
    """`undertone_client.site.enrol.Caps`, for tests."""

    def __init__(self) -> None:
        self.caps: dict[str, tuple[float, float]] = {}

    def register_cap(self, ledger: Ledger, data: DataSet) -> None:
        assert ledger.head
        if data.name in self.caps:
            raise BudgetExceeded(f"the data set {data.name} has a cap already")
        self.caps[data.name] = data.epsilon, data.delta


def fresh_site(folder: Path) -> SiteDir:
    return create_site(folder, NodeConfig(site="north"), Policy(coordinators={"hub": KEY}), OsEntropy())


def patients(folder: Path, count: int, first: int = 0) -> Path:
    """A folder of `count` patients with two images each, called patient-FIRST and so on."""
    write_folder(folder, 2 * count, first=first)
    return folder


def described(name: str, folder: Path, **changes: Any) -> DataSet:
    values = {"unit": "patient", "unit_column": "patient_id", "publish": 5, "epsilon": 8.0, "delta": 1e-6}
    return new_data_set(name=name, folder=str(folder), **(values | changes))


def add(site: SiteDir, name: str, folder: Path, books: BooksInMemory | None = None, **changes: Any) -> Found:
    return add_data_set(site, described(name, folder, **changes), books or BooksInMemory())
