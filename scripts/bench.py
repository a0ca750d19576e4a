"""`calico bench acting|training|tokenizers|runner|perceiver|data2vec|text`: speed, as ratios measured side by side in one run.

    calico bench acting --json           # cached against uncached, many rows against one; about a minute
    calico bench training                # against Hugging Face's GPT-2 of the same shape, and against the matmul peak
    calico bench training --compile      # the same with torch.compile; two minutes more
    calico bench tokenizers              # tokens per second, vectorised, one core
    calico bench runner                  # environments: the runner beside bare loops, Gymnasium's vector and rendering
    calico bench perceiver --json        # beside transformers and other Perceivers; a quarter of an hour
    calico bench perceiver-scores classify-image cifar10.zip training.minutes=4     # accuracy after equal training, beside them
    calico bench data2vec --json         # version 2.0's masked predictions per second beside version 1's; five minutes
    calico bench text --turns 2 --json   # writing, cached against the whole prefix again for each token; minutes

Both sides of a ratio run in turns, and the median turn counts, so that a drifting machine moves both. Run it on a quiet
machine: another busy process on the same cores slows two-threaded work several times over.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from calico.agent.backbones.perceiver_ar import PerceiverARConfig
from calico.agent.hardware import autocast, keep_freed_memory
from calico.agent.loss import target_mask
from calico.agent.model import Model, matmul_flops_per_token, named_size
from calico.agent.policy import AgentPolicy, for_acting
from calico.agent.sampling import SamplingConfig
from calico.agent.training.agent_loss import agent_loss
from calico.agent.training.optimizer import OptimizerConfig
from calico.agent.training.trainer import Trainer, TrainingConfig
from calico.datasets.mixture import Batch
from calico.envs.registry import get_task
from calico.scripts.benchmarks import perceiver_scores
from calico.scripts.benchmarks.data2vec import bench_data2vec
from calico.scripts.benchmarks.interleaved import seconds
from calico.scripts.benchmarks.perceiver import bench_perceiver
from calico.scripts.benchmarks.runner import bench_runner
from calico.scripts.benchmarks.text import bench_text
from calico.scripts.collect import collect, collect_scenes
from calico.scripts.common import console
from calico.scripts.common.settings import SourceSettings, load_settings
from calico.scripts.common.sources import build_mixture, open_sources, text_tokenizer
from calico.tokenizers.episode import Episode
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.tokens import Tokens
from calico.tokenizers.vocabulary import Vocabulary

OBSERVATION = 20     # tokens of the benchmark's observation, as a 64x64 frame and a few numbers
CONTEXT = 1024
GREEDY = SamplingConfig(temperature=0)
SCORES = "perceiver-scores"     # has a parser of its own


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print."""
    if argv and argv[0] == SCORES:
        return perceiver_scores.main(argv[1:])
    parser = console.make_parser("bench", __doc__)
    parser.add_argument("what", choices=[*BENCHES, SCORES])
    parser.add_argument("--compile", action="store_true", help="training: with torch.compile")
    parser.add_argument("--turns", type=int, default=5, help="how often each side runs (default 5)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.turns < 1:
        raise ValueError(f"--turns {arguments.turns} must be at least 1")
    keep_freed_memory()
    found = {**BENCHES[arguments.what](arguments), "threads": torch.get_num_threads(), "cores": os.cpu_count(),
             "load_average": round(os.getloadavg()[0], 2)}
    if arguments.json:
        console.print_json(found)
    else:
        console.print_table(("figure", "value"), list(found.items()))
    return 0


# ---- acting

def bench_acting(arguments: Any) -> dict[str, Any]:
    """Environment steps per second of the policy alone: 20 observation tokens, one action token, a full window."""
    found: dict[str, Any] = {}
    for size, rows in (("small", 16), ("small", 1), ("tiny", 16), ("tiny", 1)):
        model = acting_model(size)
        cached, full = full_policy(model, rows), uncached_step(model, rows)
        per_step, uncached = seconds(arguments.turns, lambda: [cached() for _ in range(10)], full)  # noqa: B023
        found[f"{size}_rows{rows}_steps_per_second"] = rows / (per_step / 10)
        found[f"{size}_rows{rows}_uncached_steps_per_second"] = rows / uncached
        found[f"{size}_rows{rows}_cache_speedup"] = uncached / (per_step / 10)
    for size in ("tiny", "small"):
        many, one = (full_policy(acting_model(size), rows) for rows in (16, 1))
        together, alone = seconds(arguments.turns, lambda: [many() for _ in range(5)],           # noqa: B023
                                  lambda: [one() for _ in range(5 * 16)])                        # noqa: B023
        found[f"{size}_batch_speedup"] = alone / together
    found |= long_context(arguments.turns)
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


# ---- training

def bench_training(arguments: Any) -> dict[str, Any]:
    """Tokens per second of whole training steps (forward, backward, clip, AdamW) on the demo's kinds of data, bf16."""
    batches, vocabulary = demo_batches()
    config = named_size("tiny", 512)
    ours = trainer(Model(config, vocabulary), arguments.compile)
    turn = iter(range(1 << 30))
    our_seconds, peer_seconds = seconds(arguments.turns, lambda: ours.train_step([batches[next(turn) % len(batches)]]),
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
        ours = trainer(model, arguments.compile)
        batch = state_batch(512, tokens // 512)
        step, matmul = seconds(arguments.turns, lambda: ours.train_step([batch]), matmuls_2048, warm_up=2)  # noqa: B023
        found[f"{size}_tokens_per_second"] = tokens / step
        found[f"{size}_share_of_matmul_peak"] = (flops / step) / (2 * 2048**3 * MATMULS / matmul)
    found["training_share_of_matmul_peak"] = found["medium_share_of_matmul_peak"]
    found["compiled"] = arguments.compile
    return found


def trainer(model: Model, compiled: bool) -> Trainer[Model]:
    return Trainer(model, agent_loss([str(number) for number in range(16)]), OptimizerConfig(),
                   TrainingConfig(compile=compiled, precision="bf16"))


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
    """A batch with one token in ten a target, no patches: what the share of the peak is measured on."""
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
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise ImportError('the peer is Hugging Face\'s GPT-2; run: pip install "calico-agent[dev]"') from error
    b = config.backbone
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary.size, n_positions=b.context, n_embd=b.width, n_layer=b.depth,
                                       n_head=b.heads, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    turn = iter(range(1 << 30))

    def step() -> None:
        ids = torch.from_numpy(batches[next(turn) % len(batches)].tokens.ids).long()
        with autocast(torch.device("cpu"), "bf16"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def matmuls_2048() -> None:
    """Products of two 2048 x 2048 bf16 matrices, warm: the peak that training is held against."""
    a = PEAK.setdefault("a", torch.randn(2048, 2048, dtype=torch.bfloat16))
    for _ in range(MATMULS):
        torch.mm(a, a)


MATMULS = 10
PEAK: dict[str, torch.Tensor] = {}


# ---- tokenizers

def bench_tokenizers(arguments: Any) -> dict[str, Any]:
    """Whole episodes into tokens, on one core."""
    rng = np.random.default_rng(0)
    steps = 2000
    spaces: dict[str, tuple[gym.Space, np.ndarray]] = {
        "state": (gym.spaces.Box(-np.inf, np.inf, (8,)), rng.normal(size=(steps + 1, 8)).astype(np.float32)),
        "frames": (gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
                   rng.integers(0, 256, (steps + 1, 64, 64, 3)).astype(np.uint8))}
    found = {}
    for name, (space, observations) in spaces.items():
        codec = TaskCodec(space, gym.spaces.Discrete(6), Vocabulary(), None)
        episode = Episode(task=name, seed=0, observations={"": observations}, actions={"": rng.integers(0, 6, steps)},
                          demonstrated=np.ones(steps, bool), rewards=np.zeros(steps), terminated=False, truncated=True)
        (taken,) = seconds(arguments.turns, lambda: codec.encode_episode(episode))   # noqa: B023
        found[f"tokens_per_second_{name}"] = len(codec.encode_episode(episode)) / taken
    return found


BENCHES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "acting": bench_acting, "training": bench_training, "tokenizers": bench_tokenizers,
    "runner": lambda arguments: bench_runner(arguments.turns),
    "perceiver": lambda arguments: bench_perceiver(arguments.turns),
    "data2vec": lambda arguments: bench_data2vec(arguments.turns),
    "text": lambda arguments: bench_text(lambda *sides: seconds(arguments.turns, *sides, warm_up=0))}
