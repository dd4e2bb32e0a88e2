"""What an evaluation found, as tables for a terminal. No torch here."""

from collections.abc import Mapping
from typing import Any

from undertone_cli.console import out, table

RELEASE, BASE, REAL = "after", "before", "real images"
"""How the release, the base without adaptation and real images against real ones are named in every table."""


def show(report: Mapping[str, Any]) -> None:
    """Tables of what `evaluate` found."""
    for encoder, rows in report["distances"].items():
        show_distances(encoder, rows)
    if report["classifiers"]:
        _show_classifiers(report)
    if report["membership"]:
        show_membership(report["membership"])
    out.print(report["label"], style="italic", markup=False, highlight=False)


def show_distances(encoder: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """One line for each variant."""
    columns = ["kid", "fid", "precision", "recall", "density", "coverage"]
    first = next(iter(rows.values()))
    table(
        f"features of the {encoder}: {first['images']} images each, against {first['reference']} real ones",
        ["", *(name.upper() if name in ("kid", "fid") else name for name in columns)],
        [(name, *(_figure(row[column]) for column in columns)) for name, row in rows.items()],
    )


def _show_classifiers(report: Mapping[str, Any]) -> None:
    scores = report["classifiers"]
    rows = [(name, _estimate(one["auc"]), _estimate(one["accuracy"])) for name, one in scores.items()]
    rows.append((f"{RELEASE}, classes shuffled", f"{report['shuffled']['mean']:.3f}", "-"))
    for name, one in report["small_cnn"].items():
        rows.append((f"{name}, small CNN", _estimate(one["auc"]), _estimate(one["accuracy"])))
    by = report["real"]["unit_column"] or "image"
    table(
        f"classifiers tested on {report['real']['images']} real images; 95 % intervals by {by}",
        ["trained on", "AUC", "accuracy"],
        rows,
    )
    after = scores[RELEASE]
    out.print(f"naming the largest class always: accuracy {after['largest_class']:.3f}", highlight=False)
    table(
        "trained on the release, by class",
        ["class", "images", "precision", "recall", "AUC"],
        [
            (one["name"], str(one["images"]), _figure(one["precision"]), _figure(one["recall"]), _estimate(one["auc"]))
            for one in after["classes"]
        ],
    )
    names = [one["name"] for one in after["classes"]]
    confused = [(name, *map(str, row)) for name, row in zip(names, after["confusion"], strict=True)]
    table("class (lines) and what was named (columns)", ["", *names], confused)


def show_membership(found: Mapping[str, Any]) -> None:
    """One line for each attack and what it was tried on; then what that means."""
    table(
        f"membership inference: {found['members']} members, {found['others']} others; .5 is guessing",
        ["attack", "on", "AUC", "caught at 1 %"],
        [
            (attack, where, _estimate(one["auc"]), _figure(one["caught"]))
            for attack, places in found["attacks"].items()
            for where, one in places.items()
        ],
    )
    if not any("loss" in attack for attack in found["attacks"]):
        out.print("no attack by loss: this release draws without a denoiser, so no image has a loss under it")
    out.print(found["meaning"], style="italic", markup=False, highlight=False)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _estimate(found: Mapping[str, float | None]) -> str:
    return f"{_figure(found['value'])} [{_figure(found['low'])}, {_figure(found['high'])}]"
