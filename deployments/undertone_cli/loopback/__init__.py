"""A federation on one machine's loopback: each part a process of its own, driven by the commands that people type."""
