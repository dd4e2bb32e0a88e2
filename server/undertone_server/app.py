"""The Flower ServerApp: `run-dir` names the RUN folder; everything else is read from there."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from undertone.errors import FolderError
from undertone_server.run_study import run_study

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the study of RUN."""
    folder = str(context.run_config.get("run-dir", ""))
    if not folder:
        raise FolderError("the run has no run-dir; start it with -c 'run-dir=\"...\"'")
    run_study(grid, Path(folder))
