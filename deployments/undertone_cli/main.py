"""The command `undertone`. Each subcommand is one module, imported when it is asked for."""

import os
import sys
from typing import Any, NoReturn

import click

from undertone import __version__
from undertone.errors import UndertoneError
from undertone_cli.extras import not_installed
from undertone_cli.lazy import LazyGroup

# Libraries' notices are for developers; what a user must know, Undertone says itself.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

COMMANDS = {
    "new": ("undertone_cli.commands.new:command", "Look at a folder of images and write a commented study for it."),
    "plan": ("undertone_cli.commands.plan:command", "What a study will cost: digest, epsilon, sigma, noise-to-signal."),
    "simulate": ("undertone_cli.commands.simulate:command", "Run a study with all its sites on this machine."),
    "generate": ("undertone_cli.commands.generate:command", "Make images from a release."),
    "export": ("undertone_cli.commands.export:command", "Write a release and its base together as one pipeline."),
    "evaluate": ("undertone_cli.commands.evaluate:command", "Hold a release against real images, where those are."),
    "verify": ("undertone_cli.commands.verify:command", "Check a release: files, signatures, ledger, epsilon."),
    "pretrain": ("undertone_cli.commands.pretrain:command", "Make a base model of one's own from public images."),
    "model": (
        "undertone_cli.commands.model:command",
        "Put a base model on this machine; the one command that downloads anything.",
    ),
    "node": ("undertone_cli.commands.node:command", "For a site: its data, policy, plans, budget, and its processes."),
    "coordinator": (
        "undertone_cli.commands.coordinator:command",
        "For a coordinator: its folder, its sites, its servers.",
    ),
    "log": ("undertone_cli.commands.log:command", "For a site: verify its audit log."),
    "demo": ("undertone_cli.commands.demo:command", "Four sites adapt one model to real handwritten digits."),
    "demo-deployment": (
        "undertone_cli.commands.demo_deployment:command",
        "A coordinator and five hospitals, each part a process of its own, over TLS.",
    ),
}


class Commands(LazyGroup):
    """Turns errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run a command; 2 for bad input or a library that is not installed, 3 for a refusal."""
        try:
            return super().invoke(ctx)
        except UndertoneError as error:
            self._end(error)
        except ModuleNotFoundError as error:
            missing = not_installed(ctx.invoked_subcommand or "", error.name or "")
            if missing is None:
                raise
            self._end(missing)

    def _end(self, error: UndertoneError) -> NoReturn:
        from undertone_cli.console import failed  # not for --help

        failed(type(error).__name__, str(error))
        sys.exit(error.exit_code)


def _use_threads(_ctx: click.Context, _option: click.Parameter, threads: int | None) -> None:
    """Before the command's module loads numpy or torch, which read this once."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)


@click.group(
    cls=Commands, places=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
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

    A study goes: begin it with `new`, `plan` it, `simulate` it, look at its release with `generate`, `evaluate` and
    `verify` it. Start with `undertone demo --out runs/demo`.

    Exit codes: 0 done, 2 bad input, 3 refused because going on would weaken the guarantee, 4 (of verify without the
    coordinator's key) self-consistent, signer not checked.
    """


if __name__ == "__main__":
    cli(prog_name="undertone")
