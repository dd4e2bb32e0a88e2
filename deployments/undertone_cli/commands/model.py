"""`undertone model`: base models on this machine."""

import click

from undertone.models.fetching import fetch
from undertone.models.pinned import files_digest, pin
from undertone_cli.console import out


@click.group("model")
def command() -> None:
    """Base models on this machine."""


@command.command("pin")
@click.argument("reference")
@click.option("--revision", help="The commit of a hub id, or a branch or tag, whose commit is then printed.")
def pin_command(reference: str, revision: str | None) -> None:
    """Put a base model on this machine and print what a plan would pin of it.

    REFERENCE is a hub id, which is fetched into the Hugging Face cache: the one thing Undertone does online, so run it
    where a network is allowed. A folder is only read. Studies then find the model without a network.

    Example: undertone model pin org/name --revision 0123abc
    """
    base = pin(reference) if revision is None else fetch(reference, revision)
    for name, digest in base.files.items():
        out.print(f"{digest}  {name}", soft_wrap=True, markup=False, highlight=False)
    out.print(f"{len(base.files)} files of {reference} in {base.folder}", soft_wrap=True, markup=False, highlight=False)
    out.print(
        f"digest, as policy.toml lists models: {files_digest(base.files)}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    if base.revision is not None:
        out.print(f'model.revision = "{base.revision}"', markup=False, highlight=False)
