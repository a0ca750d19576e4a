"""Fixtures of the commands' tests, for here too."""

from ..scripts.conftest import answered, own_run, refused

__all__ = ["answered", "own_run", "refused"]
