"""The engines of `simulate`: all run the same ServerApp and ClientApp. Flower, torch and Ray load with the engine."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from undertone.errors import InputError
from undertone_cli.extras import not_installed

IN_PROCESS, RAY = "inprocess", "ray"
ENGINES = (IN_PROCESS, RAY)


def check_engine(name: str) -> None:
    """Raise before anything is written where an engine cannot run.

    Raises:
        InputError: no such engine.
        NotInstalled: Ray is not; says what to install.
    """
    if name not in ENGINES:
        raise InputError(f'there is no engine "{name}"; there are {", ".join(ENGINES)}')
    for library in ("ray", "psutil") if name == RAY else ():
        missing = None if find_spec(library) else not_installed("simulate --engine ray", library)
        if missing is not None:
            raise missing


def run_on(engine: str, run: Path, sites: Iterable[Path]) -> None:
    """Run, or go on with, the study of a RUN folder over SITE_DIRs on this machine.

    Raises:
        UndertoneError: whatever the study raised, the same on every engine.
    """
    check_engine(engine)
    from undertone_client.app import app as client_app
    from undertone_server.app import app as server_app

    if engine == RAY:
        from undertone_cli.engines.ray import run_ray

        run_ray(server_app, client_app, run, sites)
    else:
        from undertone_cli.engines.inprocess import run_inprocess

        run_inprocess(server_app, client_app, run, sites)
