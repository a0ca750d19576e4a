"""Several candidates measured in turns within one run, so that drift of the machine affects all of them; medians count."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any


def interleaved(turns: int, *sides: Callable[[], float], warm_up: int = 1) -> list[float]:
    """Median of the number that each side returns, after `warm_up` turns that do not count."""
    taken = [[side() for side in sides] for _ in range(warm_up + turns)][warm_up:]
    return [statistics.median(side) for side in zip(*taken, strict=True)]


def peer(module: str) -> Any:
    """A library to compare with.

    Raises:
        ImportError: it is missing; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'the comparison needs {module}; run: pip install "calico-agent[dev]"') from error


def seconds(turns: int, *sides: Callable[[], Any], warm_up: int = 1) -> list[float]:
    """Median seconds of each side."""
    def timed(side: Callable[[], Any]) -> float:
        began = time.perf_counter()
        side()
        return time.perf_counter() - began

    return interleaved(turns, *(partial(timed, side) for side in sides), warm_up=warm_up)
