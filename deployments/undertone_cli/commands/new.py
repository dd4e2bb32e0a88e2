"""`undertone new`: look at a folder of images, and write a commented study of what a person typed.

What is read from the folder goes to the terminal alone. `Answers` is all that the study is written from, and it is
filled from options and prompts: no default of a prompt, and no answer, is taken from the data.
"""

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

import click

from undertone.core.captions import caption_columns
from undertone.core.text import shown
from undertone.core.unit import Unit, is_site_name, name_advice
from undertone.data.overview import Column, columns_of
from undertone.errors import DataError, FolderError, InputError
from undertone.methods.registry import METHODS, SUGGESTED
from undertone.study.written import PLACEHOLDERS, Answers, written
from undertone_cli.commands.new_shown import look, show, show_classes, show_units
from undertone_cli.console import err, out

_UNITS: tuple[Unit, ...] = get_args(Unit)


@click.command("new")
@click.argument("study", type=click.Path(path_type=Path), metavar="STUDY.toml")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The folder of images to look at.")
@click.option("--metadata", metavar="NAME", help="The metadata file, where a folder has metadata.csv and .jsonl.")
@click.option("--unit", type=click.Choice(_UNITS), help="What is protected: an image, a patient or a whole site.")
@click.option("--unit-column", metavar="COLUMN", help="The column that names the patient; the unit is a patient then.")
@click.option("--sites", metavar="NAME=N,...", help="Every site with the round figure that it chose to publish.")
@click.option("--class-column", metavar="COLUMN", help="The column that holds each image's class.")
@click.option("--classes", metavar="A,B,...", help="The public list of classes, which stands in the plan.")
@click.option("--caption", metavar="TEXT", help='How an image is described, such as "a {token}, {view}".')
@click.option("--method", type=click.Choice(list(METHODS)), default=SUGGESTED, show_default=True)
@click.option(
    "--base", default="embedded:tiny", show_default=True, help="The base model: what ships, a folder, a hub id."
)
@click.option("--revision", help="The commit of a hub id.")
@click.option("--epsilon", type=float, default=1.0, show_default=True, help="The claim; smaller is safer.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Below one in the number of units.")
@click.option("--name", help="The study's name; by default the file's.")
def command(
    study: Path,
    data: Path,
    metadata: str | None,
    unit: Unit | None,
    unit_column: str | None,
    sites: str | None,
    class_column: str | None,
    classes: str | None,
    caption: str | None,
    method: str,
    base: str,
    revision: str | None,
    epsilon: float,
    delta: float,
    name: str | None,
) -> None:
    """Look at the images in --data and write a commented STUDY.toml that `undertone plan` accepts.

    First it shows, here alone, what the table of images holds: which columns could name the unit and how many units
    each makes, which could hold sites or classes, and how large the images are. Then it writes what you typed: as
    options, or at prompts where a terminal is there to ask. Nothing is taken over from the data, neither a column's
    name nor a class nor a count: a study is public. A file that exists is never overwritten.

    A first look: `undertone new study.toml --data images`. The study: the same with `--unit-column patient_id --sites
    north=210,east=150,south=70`. Then `undertone plan study.toml`.

    --data is a folder in the Hugging Face imagefolder convention (metadata.csv or .jsonl with file_name), or a folder
    of such folders, one for each site. Without --sites three placeholders are written, for you to replace.
    """
    if study.exists():
        raise FolderError(f"{study} exists already and is not overwritten; name another file, or move it away")
    name = _study_name(name, study)
    folder = look(data, metadata)
    columns = {column.name: column for column in columns_of(folder.table.records)}
    unit_column = _column("--unit-column", unit_column, columns)
    class_column = _column("--class-column", class_column, columns)
    show(folder, columns)
    unit, unit_column = _unit(unit, unit_column, columns)
    show_units(folder, columns, unit_column)
    class_column, classes = _class(class_column, classes, columns)
    answers = Answers(
        name=name,
        base=base,
        method=method,
        unit=unit,
        epsilon=epsilon,
        delta=delta,
        revision=revision,
        unit_column=unit_column,
        caption=caption,
        class_column=class_column,
        classes=_typed_list("--classes", classes),
        sites=_sites(sites),
    )
    text = written(answers)
    for field in caption_columns(caption or ""):
        _column("--caption", field, columns)
    show_classes(answers, columns)
    _write(study, text)
    _next(study, answers)


# --- what is typed ----------------------------------------------------------------------------------------------------


def at_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()


def _asked(question: str) -> str:
    """What a person types; "" for nothing. There is no default that a key could take over from the data."""
    answer: str = click.prompt(question, default="", show_default=False, err=True)
    return answer.strip()


def _study_name(name: str | None, study: Path) -> str:
    chosen = study.stem if name is None else name
    if not is_site_name(chosen):
        raise InputError(f'"{shown(chosen)}" cannot be the name of a study: {name_advice(chosen)}; say --name NAME')
    return chosen


def _unit(unit: Unit | None, column: str | None, columns: Mapping[str, Column]) -> tuple[Unit, str | None]:
    """What is protected. It is never guessed: an image each where patients have several would promise too much.

    Raises:
        InputError: nobody said, and nobody can be asked.
    """
    if unit is None and column is None and columns:
        if not at_terminal():
            raise InputError(
                "what is protected is not said: --unit-column COLUMN, the column that names the patient (the table "
                "shows how many units each makes), or --unit record if no person has two images"
            )
        column = _asked("The column that names the patient (nothing: each image is another person)") or None
        column = _column("The answer", column, columns)
    if unit == "patient" and column is None:
        raise InputError("--unit patient needs --unit-column COLUMN, the column that names the patient")
    return unit or ("patient" if column else "record"), column


def _class(column: str | None, classes: str | None, columns: Mapping[str, Column]) -> tuple[str | None, str | None]:
    if column is None and classes is None and at_terminal() and any(one.may_be_class for one in columns.values()):
        column = _column("The answer", _asked("The column that holds the class (nothing: none)") or None, columns)
    if column is not None and classes is None and at_terminal():
        classes = _asked("The classes, which will be public, with commas between them")
    if (column is None) != (not classes):
        raise InputError(
            "--class-column and --classes go together: name the column, and type its public list of classes"
        )
    return column, classes


def _sites(typed: str | None) -> dict[str, int]:
    """Each site with its figure; none where none were typed.

    Raises:
        InputError: not of the form.
    """
    if typed is None and at_terminal():
        typed = _asked("Every site with its public round figure, such as north=210,east=150,south=70 (nothing: later)")
    found: dict[str, int] = {}
    for part in _typed_list("--sites", typed):
        site, equals, figure = (word.strip() for word in part.partition("="))
        if not is_site_name(site):
            raise InputError(f'--sites: "{shown(site)}" cannot name a site: {name_advice(site)}')
        if not equals or not (figure.isascii() and figure.isdigit()) or not int(figure):
            raise InputError(f"--sites: {site} needs a round figure above 0, as in {site}=100")
        if site in found:
            raise InputError(f"--sites names {site} twice")
        found[site] = int(figure)
    return found


def _typed_list(option: str, typed: str | None) -> list[str]:
    parts = [part.strip() for part in (typed or "").split(",")]
    if typed and not all(parts):
        raise InputError(f"{option}: there is nothing between two commas, or behind the last one")
    if len(set(parts)) != len(parts):
        raise InputError(f"{option} names something twice")
    return parts if typed else []


def _column(option: str, name: str | None, columns: Mapping[str, Column]) -> str | None:
    """The column, once it is there."""
    if name is None or name in columns:
        return name
    if not columns:
        raise DataError(
            f"{option} {shown(name)}: the folder has no metadata.csv or metadata.jsonl, so it has no columns"
        )
    near = get_close_matches(name, columns, n=1, cutoff=0.0)[0]
    raise DataError(f'{option}: there is no column "{shown(name)}"; the closest is "{shown(near)}"')


# --- what is written --------------------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise FolderError(f"{path} exists already and is not overwritten; name another file") from None
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror or error}; name another place") from None


def _next(study: Path, answers: Answers) -> None:
    err.print(f"{study} is written: what you typed, and comments.", highlight=False, markup=False, soft_wrap=True)
    if not answers.sites:
        err.print(
            f"Its sites are placeholders ({', '.join(PLACEHOLDERS)}): put in yours with their round figures.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    out.print(f"Next: undertone plan {study}", highlight=False, markup=False, soft_wrap=True)
