"""A module that a function cannot import."""

raise RuntimeError("broken from the start")
