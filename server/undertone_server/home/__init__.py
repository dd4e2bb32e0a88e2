"""COORDINATOR_DIR: what a coordinator owns between studies, and what its servers run with."""
