"""Composition root: command line, engines, provisioning, and what only simulations have (split, diagnostics)."""

import os
import sys

from undertone_origin import ModuleTaken, let_waiting_threads_sleep, refuse_strangers

# Flower must neither report home nor install anything at run time, whatever the environment says: what it
# would install comes from an index on which the name `undertone` is a stranger's. Before any engine can start it.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

let_waiting_threads_sleep()
try:
    refuse_strangers()
except ModuleTaken as error:  # `undertone` cannot be asked to print it
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    raise SystemExit(3) from None
