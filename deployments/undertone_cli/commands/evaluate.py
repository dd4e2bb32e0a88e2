"""`undertone evaluate`: a release held against real images, where those are."""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from undertone.core.durable import storage_errors, write_durable
from undertone.core.progress import reporter, reporting
from undertone.core.text import shown
from undertone.errors import DirectionsDiffer, FolderError, InputError
from undertone.methods.protocol import Method, PreparedMethod
from undertone.methods.weights import read_weights
from undertone.models.devices import AUTO, choose
from undertone.models.grid import save_grid
from undertone.models.kinds import STATEMENT
from undertone.models.pinned import PinnedBase
from undertone.release.manifest import MANIFEST
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_cli.console import Bars, out
from undertone_cli.evaluating.prompts import Prompts, planned_prompts, prompts_for
from undertone_cli.evaluating.tables import BASE, RELEASE, show
from undertone_cli.released import (
    BASE_HELP,
    COORDINATOR_HELP,
    coordinator_key,
    pinned_base,
    say_signer,
    signed_plan,
)

if TYPE_CHECKING:
    from undertone_cli.evaluating.evaluation import Evaluation  # torch
    from undertone_cli.evaluating.images import Features, ImageFiles
    from undertone_cli.evaluating.variants import Variant

COUNT, STEPS, RANDOM_DIRECTIONS = 128, 25, 3


@dataclass(frozen=True)
class Options:
    """How a release is evaluated; each field is the option of that name of `undertone evaluate`.

    prompts: class -> what to draw, or "" -> that where there are no classes; empty: what follows from the captions.
    """

    class_column: str | None = None
    prompts: Mapping[str, str] | None = None
    unit_column: str | None = None
    ids_as_written: bool = False
    members: Path | None = None
    inception: Path | None = None
    cnn: bool = False
    count: int = COUNT
    steps: int = STEPS
    guidance: float = 1.0
    seed: int = 0
    random_directions: int = RANDOM_DIRECTIONS
    device: str = AUTO
    base_copy: Path | None = None
    coordinator: str | None = None


def evaluate(
    release: Path, real: Path, wanted: Options | None = None, *, outputs: Iterable[Path] = ()
) -> tuple[dict[str, Any], "Evaluation"]:
    """Hold a release against real images.

    Args:
        release: a release folder; nothing is written into it.
        real: a folder of images with metadata that the release was not trained on.
        wanted: see `Options`.
        outputs: files that will be written, to be refused before the work begins.

    Returns:
        What --json writes, and the same with images that were drawn.

    Raises:
        UndertoneError: the release, its base, a folder or an option is not what it should be.
    """
    wanted = wanted or Options()
    folders = [real, *([wanted.members] if wanted.members else [])]
    for path in outputs:
        check_output(path, folders)
    plan = signed_plan(release, wanted.coordinator)
    pinned = pinned_base(release, plan, wanted.base_copy)
    (device,) = choose(wanted.device)
    method = planned_method(plan, pinned)
    from undertone_cli.evaluating.evaluation import LABEL, Bench, evaluated, plain  # torch
    from undertone_cli.evaluating.variants import Sampling

    images, members, prompts = _folders(plan, method, real, wanted)
    encoders, said = _encoders(wanted.inception)
    sampling = Sampling(wanted.count, wanted.steps, wanted.guidance, wanted.seed)
    variants = _variants(release, method, pinned, prompts, wanted.random_directions)
    found = evaluated(variants, images, members, Bench(pinned, device, encoders, sampling, cnn=wanted.cnn))
    report = {
        "label": LABEL,
        "release": {
            "study": plan.study,
            "plan_digest": plan.digest,
            "method": plan.method.name,
            "epsilon": plan.privacy.epsilon,
            "delta": plan.privacy.delta,
            "signer_checked": wanted.coordinator is not None,
        },
        "real": {
            "images": len(images),
            "units": len(set(images.units)),
            "unit_column": images.unit_column or None,
            "classes": {one: images.classes.count(one) for one in prompts.after if one},
            "left_out": images.left_out,
        },
        "drawn": {"prompts": prompts.after, "prompts_before": prompts.before, **plain(sampling)},  # type: ignore[dict-item]
        "encoders": said,
        **found.figures(),  # type: ignore[dict-item]
    }
    return report, found


def check_output(path: Path, folders: Sequence[Path]) -> None:
    """A file may be written there: it is new, lies in no release or export of one, and in none of `folders` of images.

    Raises:
        FolderError: it may not.
    """
    if path.is_symlink() or path.exists():
        raise FolderError(f"{path} exists already; choose another file")
    for above in path.resolve().parents:
        for name in (MANIFEST, STATEMENT):
            if (above / name).exists():
                raise FolderError(
                    f"{path} is within {above}, which holds {name} of a release: results are private diagnostics, "
                    "which enter no release; choose a place outside"
                )
        for folder in folders:
            if above.exists() and folder.exists() and above.samefile(folder):
                raise FolderError(
                    f"{path} is within {folder}: a picture among real images would be read as one; choose a place "
                    "outside"
                )
    if not path.resolve().parent.is_dir():
        raise FolderError(f"{path.parent} is not a folder; make it first")


def _folders(
    plan: Plan, method: Method, real: Path, wanted: Options
) -> tuple["ImageFiles", "ImageFiles | None", Prompts]:
    """Real images, members, and what to draw."""
    from undertone_cli.evaluating.folders import Columns, image_folder, refuse_shared  # torch

    planned = plan.data.unit_column if plan.privacy.unit == "patient" else None
    columns = Columns(
        wanted.class_column, wanted.unit_column, plan.data.class_column, planned, ids_as_written=wanted.ids_as_written
    )
    given = dict(wanted.prompts or {})
    if list(given) == [""]:  # of no class
        if wanted.class_column is not None:
            raise InputError(f'--prompt "{shown(given[""])}" must be "CLASS=PROMPT" where --class-column names classes')
        columns = replace(columns, planned_class_column=None)
    of_plan = [one for one in planned_prompts(plan, method).after if one]
    images = image_folder(real, columns, [one for one in given or of_plan if one])
    if not images.class_column and any(given):
        raise InputError("prompts for classes need --class-column, the column that names each image's class")
    if images.left_out:
        named = ", ".join(f'{n} of "{shown(one)}"' for one, n in list(images.left_out.items())[:8])
        reporter().line(f"images of other classes are left out: {named}")
    if not images.unit_column:
        reporter().line("no column names patients, so intervals are by image: too short where a patient has several")
    prompts = prompts_for(plan, method, images.class_column or None, given, set(images.classes))
    if wanted.members is None:
        return images, None, prompts
    members = image_folder(wanted.members, columns, [one for one in prompts.after if one])
    refuse_shared(members, images)
    return images, members, prompts


def _encoders(inception: Path | None) -> tuple[dict[str, "Features"], dict[str, str]]:
    """Features by name, and what they are of."""
    from undertone_cli.evaluating.images import INCEPTION, PUBLIC, public_features  # torch

    encoders: dict[str, Features] = {}
    said = {PUBLIC: "ships with Undertone; standardised by public drawings"}
    if inception is not None:
        from undertone.evaluation.inception import InceptionFeatures

        network = InceptionFeatures.from_file(inception)
        encoders[INCEPTION], said[INCEPTION] = network.of, f"weights with SHA-256 {network.sha256}"
    return {PUBLIC: public_features(), **encoders}, said


def _variants(release: Path, method: Method, pinned: PinnedBase, prompts: Prompts, directions: int) -> list["Variant"]:
    """The base, the release and random directions."""
    from undertone_cli.evaluating.variants import Variant, random_direction  # torch

    weights = read_weights(release)
    variants = [Variant(BASE, prompts.before, None), Variant(RELEASE, prompts.after, weights)]
    if directions and isinstance(method, PreparedMethod):
        try:
            method.prepare(pinned)
        except DirectionsDiffer as error:
            raise InputError(f"{error}; --random-directions 0 does without them") from None
    for number in range(1, directions + 1):
        moved = random_direction(method, pinned, weights, number)
        variants.append(Variant(f"random direction {number}", prompts.after, moved))
    return variants


def _said_prompts(texts: Sequence[str]) -> dict[str, str]:
    """What --prompt said: class -> prompt, where all are CLASS=PROMPT; one alone without "=" is of no class.

    Raises:
        InputError: it is neither, or names a class twice.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return {"": texts[0]}
    found: dict[str, str] = {}
    for text in texts:
        one, _, prompt = (unicodedata.normalize("NFC", part.strip()) for part in text.partition("="))
        if not (one and prompt) or one in found:
            raise InputError(f'--prompt "{shown(text)}" must be "CLASS=PROMPT", and each class once')
        found[one] = prompt
    return found


@click.command("evaluate")
@click.argument("release", type=click.Path(path_type=Path))
@click.option(
    "--real", type=click.Path(path_type=Path), required=True, help="Images with metadata that were not trained on."
)
@click.option(
    "--class-column",
    metavar="COLUMN",
    help="The metadata column that names each image's class; by default the study's, if it is there.",
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="CLASS=PROMPT",
    help="What to draw for a class, once for each; or one prompt without classes. "
    "By default what the study says of its classes, or its caption filled in with the class.",
)
@click.option(
    "--unit-column", metavar="COLUMN", help="The column that names the patient; by default the study's, if it is there."
)
@click.option("--ids-as-written", is_flag=True, help="Unit ids that look alike are different people.")
@click.option(
    "--members", type=click.Path(path_type=Path), help="Images that were trained on: membership inference is tried."
)
@click.option(
    "--inception", type=click.Path(path_type=Path), help="A local file of Inception weights: its features are used too."
)
@click.option("--cnn", is_flag=True, help="With classes: small networks learn from pixels too.")
@click.option(
    "-n", "count", default=COUNT, show_default=True, type=click.IntRange(min=8), help="Images of each prompt."
)
@click.option("--steps", default=STEPS, show_default=True, type=click.IntRange(min=1), help="Denoising steps.")
@click.option("--guidance", default=1.0, show_default=True, help="Classifier-free guidance; 1 is none.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**62), help="Public seed of the first.")
@click.option(
    "--random-directions",
    default=RANDOM_DIRECTIONS,
    show_default=True,
    type=click.IntRange(0, 32),
    help="How many random changes of the base, as large as the release's, to compare with.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="A new file for all figures.")
@click.option("--grid", "grid_file", type=click.Path(path_type=Path), help="A new PNG with what was drawn.")
@click.option("--device", default=AUTO, show_default=True, help='A torch device, such as "cpu" or "cuda:0".')
@click.option("--base", "base_copy", type=click.Path(path_type=Path), help=BASE_HELP)
@click.option("--coordinator", metavar="KEY", callback=coordinator_key, help=COORDINATOR_HELP)
def command(
    release: Path,
    real: Path,
    prompts: tuple[str, ...],
    json_file: Path | None,
    grid_file: Path | None,
    **rest: Any,  # noqa: ANN401 - fields of Options
) -> None:
    """Hold a RELEASE against real images: how near what it draws is to them, and what they reveal of each other.

    For whoever has real images that the release was not trained on. The manifest is checked first. Then the release
    draws, and so do the base without adaptation and random changes of it; all are compared with the real images: KID
    and FID, precision, recall, density and coverage. With --class-column a classifier is trained on what was drawn
    and tested on the real images. With --members the membership of an image in the training set is guessed, beside
    baselines: a diagnostic, never proof of privacy.

    All results are private diagnostics: they were computed from real images without noise. They stay where those are,
    and nothing is written into RELEASE.

    Example: undertone evaluate RELEASE --real held-out --class-column finding --prompt "mass=a <private>, mass"
    --prompt "clear=a <private>, clear" --members images --json found.json --grid found.png
    """
    if grid_file is not None and grid_file.suffix.lower() != ".png":
        raise InputError(f"{grid_file} must end in .png")
    wanted = Options(prompts=_said_prompts(prompts), **rest)
    outputs = [path for path in (json_file, grid_file) if path is not None]
    with Bars() as bars, reporting(bars):
        report, found = evaluate(release, real, wanted, outputs=outputs)
    if json_file is not None:
        text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        write_durable(json_file, text.encode("utf-8"))
    if grid_file is not None:
        with storage_errors(grid_file):
            save_grid(grid_file, found.grid)
    show(report)
    for path in outputs:
        out.print(f"written: {path}", highlight=False, markup=False)
    say_signer(wanted.coordinator)
