"""Several candidates measured in turns within one run, so that drift of the machine affects all of them; medians count."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any


def interleaved(turns: int, *candidates: Callable[[], float], warm_up: int = 1) -> list[float]:
    """Median of the number that each candidate returns, after `warm_up` turns that do not count."""
    taken = [[candidate() for candidate in candidates] for _ in range(warm_up + turns)][warm_up:]
    return [statistics.median(candidate) for candidate in zip(*taken, strict=True)]


def peer(module: str) -> Any:
    """A library to compare with.

    Raises:
        ImportError: it is missing; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'the comparison needs {module}; run: pip install "calico-agent[dev]"') from error


def seconds(turns: int, *candidates: Callable[[], Any], warm_up: int = 1) -> list[float]:
    """Median seconds of each candidate."""
    def timed(candidate: Callable[[], Any]) -> float:
        began = time.perf_counter()
        candidate()
        return time.perf_counter() - began

    return interleaved(turns, *(partial(timed, candidate) for candidate in candidates), warm_up=warm_up)
