"""Acting: environment steps per second of the policy alone, with the cache and without, many rows and one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from calico.agent.backbones.perceiver_ar import PerceiverARConfig
from calico.agent.model import Model, named_size
from calico.agent.policy import AgentPolicy, for_acting
from calico.agent.sampling import SamplingConfig
from calico.scripts.benchmarks.interleaved import seconds
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.tokens import Tokens
from calico.tokenizers.vocabulary import Vocabulary

OBSERVATION = 20     # tokens of the benchmark's observation, as a 64x64 frame and a few numbers
CONTEXT = 1024
GREEDY = SamplingConfig(temperature=0)


def bench_acting(turns: int) -> dict[str, Any]:
    """Environment steps per second of the policy alone: 20 observation tokens, one action token, a full window."""
    found: dict[str, Any] = {}
    for size, rows in (("small", 16), ("small", 1), ("tiny", 16), ("tiny", 1)):
        model = acting_model(size)
        cached, full = full_policy(model, rows), uncached_step(model, rows)
        per_step, uncached = seconds(turns, lambda: [cached() for _ in range(10)], full)  # noqa: B023
        found[f"{size}_rows{rows}_steps_per_second"] = rows / (per_step / 10)
        found[f"{size}_rows{rows}_uncached_steps_per_second"] = rows / uncached
        found[f"{size}_rows{rows}_cache_speedup"] = uncached / (per_step / 10)
    for size in ("tiny", "small"):
        many, one = (full_policy(acting_model(size), rows) for rows in (16, 1))
        together, alone = seconds(turns, lambda: [many() for _ in range(5)],           # noqa: B023
                                  lambda: [one() for _ in range(5 * 16)])                        # noqa: B023
        found[f"{size}_batch_speedup"] = alone / together
    found |= long_context(turns)
    found["acting_cache_speedup"] = found["small_rows16_cache_speedup"]
    found["acting_cache_speedup_one_row"] = found["small_rows1_cache_speedup"]
    found["acting_batch_speedup"] = found["tiny_batch_speedup"]
    return found


def long_context(turns: int, rows: int = 16) -> dict[str, Any]:
    """Seconds per step of the Perceivers with 4,096 tokens of context, as a multiple of the decoder's with 1,024; all full."""
    found = {}
    for kind in ("perceiver", "perceiver-ar"):
        shape = named_size("small", 4 * CONTEXT, kind)
        if isinstance(shape.backbone, PerceiverARConfig):
            shape = replace(shape, backbone=replace(shape.backbone, window=CONTEXT // 2))     # as the decoder's layers
        sides = [full_policy(model, rows) for model in (acting_model("small"), Model(shape, Vocabulary()))]
        decoder, perceiver = seconds(turns, *(lambda act=act: [act() for _ in range(5)] for act in sides))
        found[f"{kind.replace('-', '_')}_4096_cost_vs_decoder_1024"] = perceiver / decoder
    return found


def acting_model(size: str) -> Model:
    torch.manual_seed(0)
    return Model(named_size(size, CONTEXT), Vocabulary())


def acting_codec() -> TaskCodec:
    return TaskCodec(gym.spaces.Box(-1, 1, (OBSERVATION,)), gym.spaces.Discrete(18), Vocabulary(), None)


def full_policy(model: Model, rows: int) -> Callable[[], Any]:
    """One `act` for every row, the windows full."""
    policy = AgentPolicy(model, acting_codec(), GREEDY)
    everyone = list(range(rows))
    for row in everyone:
        policy.reset(row, seed=row)
    observations = list(np.random.default_rng(0).uniform(-1, 1, (rows, OBSERVATION)).astype(np.float32))

    def act() -> Any:
        return policy.act(observations, everyone)

    for _ in range(model.config.backbone.context // (OBSERVATION + 2) + 1):
        act()
    return act


@torch.inference_mode()
def uncached_step(model: Model, rows: int) -> Callable[[], Any]:
    """The same step without a cache: the whole window of 1,024 tokens goes through the network again."""
    acting, codec = for_acting(model, "auto"), acting_codec()
    observation = np.random.default_rng(0).uniform(-1, 1, OBSERVATION).astype(np.float32)
    (step,) = codec.encode_observations([observation])
    history = Tokens.concatenate([step] * (CONTEXT // len(step) + 1))[:CONTEXT]
    tokens = Tokens.stack([history] * rows, codec.vocabulary.pad).to_torch()
    legal = torch.from_numpy(np.flatnonzero(codec.action_mask[0]))

    @torch.inference_mode()
    def act() -> Any:
        return acting.logits(acting(tokens)[:, -1], legal).argmax(-1)

    return act
