"""Several candidates measured in turns within one run, so that drift of the machine affects all of them; medians count."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any


def interleaved(turns: int, *sides: Callable[[], float], warm_up: int = 1) -> list[float]:
    """Median of the number that each side returns, after `warm_up` turns that do not count."""
    taken = [[side() for side in sides] for _ in range(warm_up + turns)][warm_up:]
    return [statistics.median(side) for side in zip(*taken, strict=True)]


def seconds(turns: int, *sides: Callable[[], Any], warm_up: int = 1) -> list[float]:
    """Median seconds of each side."""
    def timed(side: Callable[[], Any]) -> float:
        began = time.perf_counter()
        side()
        return time.perf_counter() - began

    return interleaved(turns, *(partial(timed, side) for side in sides), warm_up=warm_up)
