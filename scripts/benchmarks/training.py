"""Training: whole steps beside Hugging Face's GPT-2 of the same shape, and beside the peak of matrix products."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from calico.agent.hardware import acting_dtype, autocast, has_fast_bf16
from calico.agent.loss import target_mask
from calico.agent.model import Model, matmul_flops_per_token, named_size
from calico.agent.training.agent_loss import agent_loss
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.trainer import Trainer, TrainingConfig
from calico.datasets.mixture import Batch
from calico.envs.registry import get_task
from calico.scripts.benchmarks.interleaved import peer, seconds
from calico.scripts.common.collecting import collect, collect_scenes
from calico.scripts.common.settings import SourceSettings, load_settings
from calico.scripts.common.sources import build_mixture, open_sources, text_tokenizer
from calico.tokenizers.episode import Episode
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.tokens import Tokens
from calico.tokenizers.vocabulary import Vocabulary


def bench_training(turns: int, compiled: bool) -> dict[str, Any]:
    """Tokens per second of whole training steps (forward, backward, clip, AdamW) on the demo's kinds of data, in the format in
    which this machine is fastest."""
    batches, vocabulary = demo_batches()
    config = named_size("tiny", 512)
    ours = trainer(Model(config, vocabulary), compiled)
    turn = iter(range(1 << 30))
    our_seconds, peer_seconds = seconds(turns, lambda: ours.train_step([batches[next(turn) % len(batches)]]),
                                        gpt2_step(config, vocabulary, batches), warm_up=3)
    tokens = batches[0].tokens.ids.size
    found: dict[str, Any] = {
        "tiny_tokens_per_second": tokens / our_seconds, "gpt2_tokens_per_second": tokens / peer_seconds,
        "training_vs_gpt2": peer_seconds / our_seconds,
        "target_share": float(np.mean([target_mask(b.tokens.to_torch()).float().mean().item() for b in batches])),
    }
    for size in ("small", "medium"):
        model = Model(named_size(size, 512), Vocabulary())
        flops = tokens * 3 * matmul_flops_per_token(model.config, Vocabulary().size, 0.1)
        ours = trainer(model, compiled)
        batch = state_batch(512, tokens // 512)
        step, matmul = seconds(turns, lambda: ours.train_step([batch]), matmuls_2048, warm_up=2)  # noqa: B023
        found[f"{size}_tokens_per_second"] = tokens / step
        found[f"{size}_share_of_matmul_peak"] = (flops / step) / (2 * 2048**3 * MATMULS / matmul)
    found["training_share_of_matmul_peak"] = found["medium_share_of_matmul_peak"]
    found |= {"compiled": compiled, "bf16": has_fast_bf16(torch.device("cpu"))}
    return found


def trainer(model: Model, compiled: bool) -> Trainer[Model]:
    return Trainer(model, agent_loss([str(number) for number in range(16)]), OptimizerConfig(),
                   TrainingConfig(compile=compiled))


def demo_batches(count: int = 8) -> tuple[list[Batch], Vocabulary]:
    """Batches of the demo's mixture in small: states, frames, missions, captions."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [collect(get_task(name), range(episodes), Path(folder))
                 for name, episodes in (("CartPole-v1", 4), ("Acrobot-v1", 10), ("LunarLanderContinuous-v3", 6),
                                        ("BabyAI-GoToLocal-v0", 60), ("ALE/Freeway-v5", 1))]
        paths += collect_scenes("minigrid", range(200), Path(folder))
        settings = load_settings("demo", [])
        settings = replace(settings, data=replace(settings.data, sources=[SourceSettings(path=str(p)) for p in paths]))
        opened = open_sources(settings)
        text, vocabulary = text_tokenizer(settings, opened), Vocabulary(settings.vocabulary)
        mixture = build_mixture(opened, settings, vocabulary, text)
        return [mixture.batch(step) for step in range(count)], vocabulary


def state_batch(context: int, rows: int) -> Batch:
    """A batch with one token in ten a target, no patches: what the fraction of the peak is measured on."""
    vocabulary = Vocabulary()
    space = gym.spaces.Box(-1, 1, (8,))
    steps = context // 10 + 1
    rng = np.random.default_rng(0)
    episode = Episode(task="bench", seed=0, observations={"": rng.uniform(-1, 1, (steps + 1, 8)).astype(np.float32)},
                      actions={"": rng.integers(0, 4, steps)}, demonstrated=np.ones(steps, bool), rewards=np.zeros(steps),
                      terminated=False, truncated=True)
    row = TaskCodec(space, gym.spaces.Discrete(4), vocabulary, None).encode_episode(episode)[:context]
    return Batch(Tokens.stack([row] * rows, vocabulary.pad), np.zeros(rows, np.int64))


def gpt2_step(config: Any, vocabulary: Vocabulary, batches: list[Batch]) -> Callable[[], Any]:
    """The peer: Hugging Face's GPT-2, same width, depth, heads and vocabulary, no dropout, loss at every position."""
    transformers, b = peer("transformers"), config.backbone
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=vocabulary.size, n_positions=b.context, n_embd=b.width, n_layer=b.depth, n_head=b.heads, resid_pdrop=0,
        embd_pdrop=0, attn_pdrop=0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    turn = iter(range(1 << 30))

    def step() -> None:
        ids = torch.from_numpy(batches[next(turn) % len(batches)].tokens.ids).long()
        with autocast(torch.device("cpu"), "auto"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def matmuls_2048() -> None:
    """Products of two 2048 x 2048 matrices in the same format, warm: the peak that training is held against."""
    a = PEAK.setdefault("a", torch.randn(2048, 2048, dtype=acting_dtype(torch.device("cpu"), "auto")))
    for _ in range(MATMULS):
        torch.mm(a, a)


MATMULS = 10
PEAK: dict[str, torch.Tensor] = {}
