"""All processes of one site, started and kept: the node, and a SuperNode and a relay for each coordinator."""
