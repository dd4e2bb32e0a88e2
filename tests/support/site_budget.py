"""Plans and data sets for tests of a site's budget: many plans of one, without anybody's seconds."""

from pathlib import Path
from typing import Any

from undertone.privacy.cap import suggested
from undertone.privacy.ledger import Ledger
from undertone.privacy.renyi import spend
from undertone.study.plan import Plan
from undertone_client.site.datasets import DataSet

DELTA = 1e-5
SUM = "c3" * 32
UNITS = {"north": 3, "east": 2, "south": 2}


def varied(plan: Plan, study: str = "dummy-study", **privacy: Any) -> Plan:
    """The same plan but for its name and these figures; its claim is the first one's, and not looked at here."""
    return plan.model_copy(update={"study": study, "privacy": plan.privacy.model_copy(update=privacy)})


def whole_cap(*plans: Plan) -> float:
    """The least cap, in thousandths, that all the plans fit together."""
    return suggested(spend([event for plan in plans for event in plan.charges]), DELTA).epsilon


def data_set(epsilon: float, name: str = "chest", **changes: Any) -> DataSet:
    settings: dict[str, Any] = {
        "name": name,
        "folder": "images",
        "unit": "patient",
        "unit_column": "patient_id",
        "publish": 3,
        "epsilon": epsilon,
        "delta": DELTA,
    }
    return DataSet(**(settings | changes))


def new_ledger(path: Path) -> Ledger:
    return Ledger.create(path, {"role": "node", "site": "north"})
