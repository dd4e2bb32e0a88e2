"""Undertone: federated, differentially private adaptation of diffusion models.

The library half: the mechanism, the models and the methods. The hospital's program is
`undertone_client`, the coordinator's `undertone_server`, the command line `undertone_cli`.
"""

__version__ = "0.1.0"

# Carried by every plan and message; a node refuses any other and names both numbers.
PROTOCOL = 2
