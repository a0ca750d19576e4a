"""What a token of a training step costs as the context and the number of rows grow, with an attention window of WINDOW tokens.

    calico bench context --json            # 4 GB of memory; four minutes on one core

- context_SIZE_8192_over_512: CPU time of a step per token at a context of 8,192 over that at 512, with as many tokens in both.
- rows_64_over_8: the same for 64 rows of 512 tokens over 8.

Lower is better, 1 is flat. A query of a long row attends to more keys: 252 of 256 on average at 8,192, 192 at 512.
"""

import time
from dataclasses import replace
from typing import Any

from calico.agent.model import Model, named_size
from calico.scripts.benchmarks.interleaved import interleaved
from calico.scripts.benchmarks.training import state_batch, trainer
from calico.tokenizers.vocabulary import Vocabulary

WINDOW = 256
CONTEXTS = (512, 1024, 2048, 4096, 8192)
TOKENS = 8192            # of each step while the context grows
ROWS = (8, 16, 32, 64)   # of CONTEXTS[0] tokens
SIZES = ("tiny", "small")


def bench_context(turns: int) -> dict[str, Any]:
    """See the top of the file."""
    found: dict[str, Any] = {"window": WINDOW}
    for size in SIZES:
        costs = per_token(size, [(TOKENS // context, context) for context in CONTEXTS], turns)
        found |= {f"microseconds_a_token_{size}_{context}": cost for context, cost in zip(CONTEXTS, costs, strict=True)}
        found[f"context_{size}_{CONTEXTS[-1]}_over_{CONTEXTS[0]}"] = costs[-1] / costs[0]
    costs = per_token(SIZES[0], [(rows, CONTEXTS[0]) for rows in ROWS], turns)
    found |= {f"microseconds_a_token_{SIZES[0]}_{rows}_rows": cost for rows, cost in zip(ROWS, costs, strict=True)}
    return found | {f"rows_{ROWS[-1]}_over_{ROWS[0]}": costs[-1] / costs[0]}


def per_token(size: str, shapes: list[tuple[int, int]], turns: int) -> list[float]:
    """Median CPU time of a step in microseconds per token for each (rows, context), measured in turns."""
    def step_of(rows: int, context: int) -> Any:
        config = named_size(size, context)
        ours = trainer(Model(replace(config, backbone=replace(config.backbone, window=WINDOW)), Vocabulary()), compiled=False)
        batch = state_batch(context, rows)

        def step() -> float:
            began = time.process_time()
            ours.train_step([batch])
            return 1e6 * (time.process_time() - began) / (rows * context)
        return step

    return interleaved(turns, *(step_of(*shape) for shape in shapes))
