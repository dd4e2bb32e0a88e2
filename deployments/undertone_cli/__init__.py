"""Composition root: command line, in-process engine, provisioning. No maths, no protocol."""

import os
import sys

from undertone_origin import ModuleTaken, refuse_strangers

# Flower must neither report home nor install anything at run time, whatever the environment says (DESIGN 5): what it
# would install comes from an index on which the name `undertone` is a stranger's. Before any engine can start it.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

# Two jobs on one machine stop each other where their OpenMP threads spin while they wait (19 times as slow was seen).
# Read when numpy and torch load their libraries, so it must stand before them; whoever set these keeps them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

try:
    refuse_strangers()
except ModuleTaken as error:  # `undertone` cannot be asked to print it
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    raise SystemExit(3) from None
