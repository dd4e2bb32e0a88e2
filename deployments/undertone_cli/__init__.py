"""Composition root: command line, in-process engine, provisioning. No maths, no protocol."""
