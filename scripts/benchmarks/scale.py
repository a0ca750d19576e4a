"""What training in several processes changes, and what acting at the paper's size costs: real gloo ranks, forked from here.

    calico bench scale --json            # on a quiet machine a quarter of an hour; 6 GB of memory
    calico bench scale --quick           # a few of the 1.18 billion weights' layers, fewer steps, one size's memory; minutes

- ddp_loss_difference, fsdp_loss_difference: the largest relative difference of the losses of 2 ranks and of 1 process, over
  fp32 steps with the same batches and stochastic depth.
- single_process_overhead: CPU time of whole steps by the trainer as a single rank of torchrun, over those of a bare loop.
- memory_plan_error: see memory.py; the largest of the relative errors, DDP and FSDP2 on 2 ranks.
- acting_1b_share_of_bandwidth: see acting_1b.py.

Everything with ranks comes first: a process whose OpenMP threads have begun cannot be forked. Each rank has one thread.
"""

import time
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from calico.agent.model import Model, named_size
from calico.agent.training.agent_loss import agent_loss, counts_of
from calico.agent.training.batch_part import Mean
from calico.agent.training.optimizer import OptimizerConfig, build_optimizer
from calico.agent.training.ranks import Ranks, Shard, joined_ranks
from calico.agent.training.trainer import Trainer, TrainingConfig
from calico.datasets.mixture import Batch
from calico.scripts.benchmarks.acting_1b import bench_acting_1b
from calico.scripts.benchmarks.interleaved import interleaved
from calico.scripts.benchmarks.memory import Step, measured, planned, tracked
from calico.scripts.common.local_ranks import on_local_ranks
from calico.tokenizers.episode import Episode
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.tokens import Tokens
from calico.tokenizers.vocabulary import Vocabulary

ROWS, CONTEXT = 4, 64            # of the batches whose losses are compared
STEPS, QUICK_STEPS = 50, 10
PLANNED, QUICK_PLANNED = ("small", "medium"), ("small",)
PLANNED_ROWS, PLANNED_CONTEXT = 8, 512
OVERHEAD_ROWS, OVERHEAD_CONTEXT = 8, 256


def bench_scale(turns: int, quick: bool = False) -> dict[str, Any]:
    """See the top of the file."""
    steps = QUICK_STEPS if quick else STEPS
    alone, ddp, fsdp = losses(1, "ddp", steps), losses(2, "ddp", steps), losses(2, "fsdp", steps)
    found: dict[str, Any] = {"ddp_loss_difference": difference(ddp, alone), "fsdp_loss_difference": difference(fsdp, alone),
                             "loss_steps": steps, "single_process_overhead": overhead(4 * turns)}
    found |= plan_errors(QUICK_PLANNED if quick else PLANNED)
    return found | bench_acting_1b(turns, quick)


def results(size: int, function: Any) -> list[Any]:
    """What a function of the ranks returned in each of them. Raises ChildProcessError where one ended otherwise."""
    def rank() -> Any:
        torch.set_num_threads(1)
        with joined_ranks("cpu") as ranks:
            return function(ranks)

    found = on_local_ranks(size, rank)
    if not all(isinstance(one, list) for one in found):
        raise ChildProcessError(f"a rank ended before it was done; exit codes: {found}")
    return found


# ---- losses


@cache
def codec() -> TaskCodec:
    return TaskCodec(gym.spaces.Box(-1, 1, (8,)), gym.spaces.Discrete(4), Vocabulary(), None)


def row(seed: int, context: int) -> Tokens:
    """Of an episode with random observations and actions."""
    rng, steps = np.random.default_rng(seed), context // 10 + 1
    episode = Episode(task="bench", seed=seed, observations={"": rng.uniform(-1, 1, (steps + 1, 8)).astype(np.float32)},
                      actions={"": rng.integers(0, 4, steps)}, demonstrated=np.ones(steps, bool), rewards=np.zeros(steps),
                      terminated=False, truncated=True)
    return codec().encode_episode(episode)[:context]


def batch(number: int, ranks: Ranks, rows: int, context: int) -> Batch:
    """A rank's rows of a batch."""
    mine = range(rows)[ranks.rows(rows)]
    return Batch(Tokens.stack([row(rows * number + each, context) for each in mine], Vocabulary().pad),
                 np.zeros(len(mine), np.int64))


def trainer(size: str, context: int, ranks: Ranks, shard: Shard = "ddp", stochastic_depth: float = 0.0) -> Trainer[Model]:
    torch.manual_seed(0)
    shape = named_size(size, context)
    shape = replace(shape, backbone=replace(shape.backbone, stochastic_depth=stochastic_depth))
    return Trainer(Model(shape, Vocabulary()), agent_loss(["bench"]), OptimizerConfig(warmup_steps=5),
                   TrainingConfig(steps=STEPS, precision="fp32", shard=shard), ranks=ranks, counts=counts_of)


def losses(size: int, shard: Shard, steps: int) -> list[float]:
    """The loss of each step of a tiny agent on `size` ranks."""
    def trained(ranks: Ranks) -> list[float]:
        one = trainer("tiny", CONTEXT, ranks, shard, stochastic_depth=0.1)
        return [one.train_step([batch(step, ranks, ROWS, CONTEXT)])[0].loss.value for step in range(steps)]

    return results(size, trained)[0]


def difference(ours: list[float], theirs: list[float]) -> float:
    """The largest relative one."""
    return max(abs(one - other) / abs(other) for one, other in zip(ours, theirs, strict=True))


# ---- one process


def overhead(turns: int) -> float:
    """How much longer a step takes the trainer, as torchrun's only rank, than a loop of forward, backward, clip and AdamW."""
    def compared(ranks: Ranks) -> list[float]:
        ours = trainer("small", OVERHEAD_CONTEXT, ranks)
        given = batch(0, ranks, OVERHEAD_ROWS, OVERHEAD_CONTEXT)
        torch.manual_seed(0)
        model = Model(ours.model.config, Vocabulary()).train()
        loss, optimizer = agent_loss(["bench"]), build_optimizer(model, OptimizerConfig(warmup_steps=5))

        def bare() -> None:
            mean, _ = loss(model, given)
            assert isinstance(mean, Mean)
            (mean.total / mean.count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def cpu_seconds(step: Any) -> float:
            began = time.process_time()
            step()
            return time.process_time() - began

        return interleaved(turns, lambda: cpu_seconds(lambda: ours.train_step([given])), lambda: cpu_seconds(bare), warm_up=2)

    (whole, bare), = results(1, compared)
    return float(whole / bare - 1)


# ---- memory


def plan_errors(sizes: tuple[str, ...]) -> dict[str, Any]:
    """Planned and measured megabytes of a rank of two, and the largest relative error."""
    found: dict[str, Any] = {}
    errors = []
    for size in sizes:
        step = Step(model=named_size(size, PLANNED_CONTEXT), rows=PLANNED_ROWS)
        peak = tracked(step)
        for sharded in (False, True):
            name = f"memory_{size}_{'fsdp' if sharded else 'ddp'}"
            paper, real = planned(step, 2, sharded, peak), measured(step, 2, sharded)
            found |= {f"{name}_planned_megabytes": paper / 1e6, f"{name}_measured_megabytes": real / 1e6}
            errors.append(abs(paper / real - 1))
    return found | {"memory_plan_error": max(errors)}
