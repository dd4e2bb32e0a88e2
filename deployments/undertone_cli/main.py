"""The command `undertone`. Each subcommand is one module, imported when it is asked for."""

import importlib
import os
import sys
from typing import Any

import click

from undertone import __version__
from undertone.errors import UndertoneError

# Libraries' notices are for developers; what a user must know, Undertone says itself.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

COMMANDS = {
    "plan": ("undertone_cli.commands.plan", "What a study will cost: digest, epsilon, sigma, noise-to-signal."),
    "simulate": ("undertone_cli.commands.simulate", "Run a study with all its sites on this machine."),
    "generate": ("undertone_cli.commands.generate", "Make images from a release."),
    "export": ("undertone_cli.commands.export", "Write a release and its base together as one pipeline."),
    "verify": ("undertone_cli.commands.verify", "Check a release: files, signatures, ledger, epsilon."),
    "pretrain": ("undertone_cli.commands.pretrain", "Make a base model of one's own from public images."),
    "model": ("undertone_cli.commands.model", "Put a base model on this machine; the one command that goes online."),
    "node": ("undertone_cli.commands.node", "For a site: its data, policy, plans to approve, budget, readiness."),
    "coordinator": ("undertone_cli.commands.coordinator", "For a coordinator: its folder, its sites, its servers."),
    "log": ("undertone_cli.commands.log", "For a site: verify its audit log."),
    "demo": ("undertone_cli.commands.demo", "Four sites adapt one model to real handwritten digits."),
}


class LazyGroup(click.Group):
    """Lists commands without importing them; turns errors into one line and an exit code."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order a study takes."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Import the command's module."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for --help, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run a command; 2 for bad input, 3 for a refusal."""
        try:
            return super().invoke(ctx)
        except UndertoneError as error:
            from undertone_cli.console import failed  # not for --help

            failed(type(error).__name__, str(error))
            sys.exit(error.exit_code)


def _use_threads(_ctx: click.Context, _option: click.Parameter, threads: int | None) -> None:
    """Before the command's module loads numpy or torch, which read this once."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="undertone")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    expose_value=False,
    callback=_use_threads,
    help="Processor threads for numbers; by default all cores. Two jobs side by side want half each.",
)
def cli() -> None:
    """Adapt one diffusion model to images at many institutions, with differential privacy.

    A study goes: `plan` it, `simulate` it, look at its release with `generate`, `verify` it. Start with
    `undertone demo --out runs/demo`.

    Exit codes: 0 done, 2 bad input, 3 refused because going on would weaken the guarantee, 4 (of verify without the
    coordinator's key) self-consistent, signer not checked.
    """
