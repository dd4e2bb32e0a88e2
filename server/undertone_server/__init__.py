"""The coordinator's program: the round loop, the gate and the release."""
