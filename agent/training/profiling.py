"""Where the time of training steps goes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ...datasets.publish import replacing

UNRECORDED = 4      # steps before the recorded ones: the first compile kernels, allocate, and fill the queue of batches


@contextmanager
def profiled(steps: int, path: Path, device: torch.device) -> Iterator[Callable[[], None]]:
    """Record `steps` steps of what runs in this block in `path`, a Chrome trace that https://ui.perfetto.dev opens; 0: nothing.

    Yields what is to be called after each step. Fewer steps are recorded where the block ends before.
    """
    if not steps:
        yield lambda: None
        return

    def write(profiler: torch.profiler.profile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, flushed=False) as temporary:
            profiler.export_chrome_trace(str(temporary))

    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    plan = torch.profiler.schedule(wait=UNRECORDED - 1, warmup=1, active=steps, repeat=1)
    with torch.profiler.profile(activities=kinds, on_trace_ready=write, schedule=plan) as profiler:
        yield profiler.step
