"""docs/extending.md, walked: a backbone and a modality from outside the package, which is not edited.

Both stay registered in this process, as they would in a program; tests that go through all kinds are given them by name.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from calico.agent import backbones, embedding
from calico.agent.agent import Agent
from calico.agent.backbones import register_backbone
from calico.agent.backbones.cache import Cache
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.config_json import from_json
from calico.agent.embedding import EmbeddingConfig, register_block
from calico.agent.loss import target_losses, trained_targets
from calico.agent.model import Model, ModelConfig, named_size
from calico.agent.policy import AgentPolicy
from calico.agent.sampling import SamplingConfig
from calico.agent.training.optimizer import OptimizerConfig, build_optimizer
from calico.datasets.mixture import Mixture
from calico.datasets.sources import Targets
from calico.scripts.common.token_view import Inspected, render
from calico.scripts.main import main
from calico.tokenizers import tokens as token_tables
from calico.tokenizers.document import Special, Text, encode_document
from calico.tokenizers.task import TaskCodec
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import Modality, Tokens, register_modality
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

from .conftest import SmallRun

VOCABULARY = Vocabulary(VocabularyConfig(text=300, discrete=64, continuous=128))
WORDS = TextTokenizer.train(["how far is the door? near", "how far is the ball? far away"], 300)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What these tests register is gone behind them."""
    tables = [(backbones, "KINDS"), (embedding, "BLOCKS")]
    tables += [(token_tables, name) for name in ("MODALITIES", "CONTENTS", "BESIDE", "DTYPES")]
    before = [(getattr(module, name), dict(getattr(module, name))) for module, name in tables]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


# ---- a backbone

@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """A running mean over all tokens so far, then a feed-forward per layer."""

    kind: Literal["average"] = "average"
    width: int = 32
    depth: int = 1
    heads: int = 1
    context: int = 64

    @property
    def limit(self) -> None:
        """Any length can be read."""
        return None


class Average(nn.Module):
    """The mean of all tokens so far beside the newest one, through layers."""

    def __init__(self, config: AverageConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [2 * config.width] + [config.width] * config.depth
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))

    def sample_targets(self, targets: Tensor) -> Tensor:
        """All."""
        return targets

    def forward(self, x: Tensor, where: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, S, width) -> (B, S, width), or (n, width)."""
        return self.mix(x, x.cumsum(1), torch.arange(1, x.shape[1] + 1, device=x.device), where)

    def mix(self, x: Tensor, sums: Tensor, counts: Tensor, where: tuple[Tensor, Tensor] | None) -> Tensor:
        """sums (B, S, width) over counts (S,) or (B, S) tokens."""
        states = torch.cat([x, sums / counts[..., None]], dim=-1)
        states = states if where is None else states[where]
        for layer in self.layers:
            states = torch.tanh(layer(states))
        return states

    def new_cache(self, batch: int, chunk: int, dtype: torch.dtype = torch.float32) -> Cache:
        """One slot: the sum so far."""
        device = next(self.parameters()).device
        return Cache((torch.zeros(batch, 1, 1, self.config.width, dtype=dtype, device=device),), (),
                     torch.zeros(batch, dtype=torch.int64, device=device))

    def extend(self, x: Tensor, cache: Cache, counts: Tensor | None = None,
               where: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Cache]:
        """As forward over the whole history."""
        batch, seq, _ = x.shape
        counts = torch.full((batch,), seq, device=x.device) if counts is None else counts
        places = torch.arange(seq, device=x.device)
        begun = torch.where(cache.lengths[:, None] > 0, cache.keys[0][:, 0, 0], 0)     # rows that were reset hold old sums
        x = x * (places < counts[:, None])[..., None]
        sums = begun[:, None] + x.cumsum(1)
        states = self.mix(x, sums, cache.lengths[:, None] + 1 + places, where)
        return states, Cache((sums[:, -1:, None],), (), cache.lengths + counts)


def average_model() -> Model:
    register_backbone(AverageConfig, Average)
    torch.manual_seed(0)
    return Model(ModelConfig(embedding=EmbeddingConfig(patch_channels=4), backbone=AverageConfig()), VOCABULARY).eval()


@torch.no_grad()
def test_a_backbone_from_outside_acts_as_it_would_uncached() -> None:
    """Through the real policy, rows joining and resetting: the actions are those of one pass over the whole history."""
    model, codec = average_model(), TaskCodec(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(5), VOCABULARY, None)
    policy = AgentPolicy(model, codec, SamplingConfig(temperature=0), precision="fp32")
    codec.observation_space.seed(0)
    histories: dict[int, list[Tokens]] = {}
    for step in range(8):
        rows = [0, 1] if step < 3 else [0, 1, 2]
        for row in rows:
            if row not in histories or (row, step) == (1, 5):
                policy.reset(row, seed=row)
                histories[row] = []
        observations = [codec.observation_space.sample() for _ in rows]
        actions = policy.act(observations, rows)
        for row, action, encoded in zip(rows, actions, codec.encode_observations(observations), strict=True):
            histories[row].append(encoded)
            whole = Tokens.stack([Tokens.concatenate(histories[row])], VOCABULARY.pad).to_torch()
            (ids,) = (np.flatnonzero(mask) for mask in codec.action_mask)
            best = int(ids[model.logits(model(whole)[0, -1]).numpy()[ids].argmax()])
            assert codec.encode_actions([action]).tolist() == [[best]]
            histories[row].append(Tokens.of(np.array([best]), codec.action_kinds, token_tables.ACTION))


def test_a_backbone_from_outside_is_trained_by_the_command(small_run: SmallRun, tmp_path: Path) -> None:
    """`backbone: {kind: average, ...}` in a config, a checkpoint, and play."""
    register_backbone(AverageConfig, Average)
    run = tmp_path / "run"
    assert main(["train", str(small_run.config), f"data.sources=[{{path: {small_run.data / 'CartPole-v1'}}}]", f"out={run}",
                 "backbone={kind: average, width: 24, depth: 2}", "training.steps=3"]) == 0
    agent = Agent.load(run)
    assert agent.model.config.backbone == AverageConfig(width=24, depth=2, heads=2, context=128)    # the rest is the file's
    assert main(["rollout", str(run), "CartPole-v1", "--episodes", "1"]) == 0
    assert named_size("tiny", kind="average").backbone == AverageConfig(width=128, depth=4, heads=4, context=512)


def test_a_kind_that_is_taken_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(AverageConfig):
        kind: Literal["decoder"] = "decoder"  # type: ignore[assignment]

    with pytest.raises(ValueError, match="backbone kind 'decoder' is DecoderConfig already; give Mine another one"):
        register_backbone(Mine, Average)


# ---- a modality

DISTANCE = Modality(kind=64, name="distance", shown_as="distance", colour="#88c0a8",
                    beside={"meters": np.zeros((0, 1), np.float32)}, describe=lambda row: f"{row['meters'][0]:.1f} m")


class DistanceBlock(nn.Module):
    """float32 meters (n, 1) -> (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(1, 16), nn.Linear(16, width)

    def forward(self, tokens: Tokens) -> Tensor:
        """(n, width)."""
        return self.out(torch.tanh(self.up(tokens.more["meters"].to(self.up.weight.dtype))))


def encode_distances(meters: np.ndarray) -> Tokens:
    """Distances (n,) in meters, one token each."""
    return Tokens.of(np.full(len(meters), VOCABULARY.patch), DISTANCE.kind, meters=meters[:, None])


class Distances:
    """A source: a distance, a question, and whether it is near or far away."""

    name = "distances"

    def sample(self, rng: np.random.Generator, length: int) -> Tokens:
        """See datasets/sources.py."""
        far = rng.random() < 0.5
        answer = encode_document([Special("separator"), Text("far away" if far else "near", True), Special("end", True)],
                                 VOCABULARY, WORDS)
        return Tokens.concatenate([encode_distances(np.array([8.0 if far else 0.5])), answer])[:length]

    def targets(self, length: int) -> Targets:
        """Every document has some."""
        return Targets("documents", 1)

    def describe(self) -> dict[str, Any]:
        """What identifies the data."""
        return {"data": "distances"}


@pytest.fixture
def distances() -> None:
    register_modality(DISTANCE)
    register_block("distance", DistanceBlock)


def distance_model(*modalities: str) -> Model:
    torch.manual_seed(0)
    config = ModelConfig(embedding=EmbeddingConfig(patch_channels=4, modalities=modalities),
                         backbone=DecoderConfig(width=32, depth=1, heads=2, context=32))
    return Model(config, VOCABULARY)


def test_a_modality_from_outside_goes_from_reader_to_loss(distances: None) -> None:
    """What only the new tokens tell is learnt: near or far away."""
    mixture = Mixture([Distances()], {"distances": 1.0}, vocabulary=VOCABULARY, context=32, batch_size=8)
    model = distance_model("distance").train()
    optimizer = build_optimizer(model, OptimizerConfig())
    for group in optimizer.param_groups:
        group["lr"] = 5e-3
    for step in range(40):
        batch = mixture.batch(step).tokens
        assert batch.more["meters"].shape == ((batch.kind == 64).sum(), 1)
        tokens = batch.to_torch()
        losses, _ = target_losses(model, tokens, trained_targets(model, tokens))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    asked = encode_document([Special("separator")], VOCABULARY, None)
    questions = [Tokens.concatenate([encode_distances(np.array([meters])), asked]) for meters in (0.5, 8.0)]
    with torch.no_grad():
        hidden = model.eval()(Tokens.stack(questions, VOCABULARY.pad).to_torch())[:, -1]
    assert model.logits(hidden).argmax(-1).tolist() == [int(WORDS.encode(word)[0]) for word in ("near", "far away")]


def test_its_tokens_are_cut_joined_and_shown_with_all_others(distances: None) -> None:
    word = encode_document([Text("near", False)], VOCABULARY, WORDS)
    tokens = Tokens.concatenate([encode_distances(np.array([1.0, 2.0])), word, encode_distances(np.array([3.0]))])
    assert tokens[1:].more["meters"][:, 0].tolist() == [2, 3] and tokens[:1].more["meters"].tolist() == [[1]]
    batch = Tokens.stack([tokens[1:], word], VOCABULARY.pad)
    assert batch.more["meters"][:, 0].tolist() == [2, 3] and len(batch.patches) == 0
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(Inspected(title="t", details=[], tokens=tokens, vocabulary=VOCABULARY, text=WORDS), 110, True, True))
    said = console.export_text()
    assert "2.0 m" in said and "distance  3 (id" in said


def test_a_checkpoint_with_a_modality_from_outside_comes_back(distances: None, tmp_path: Path) -> None:
    values = EmbeddingConfig(modalities=("distance",))
    assert from_json(EmbeddingConfig, {"modalities": ["distance"]}) == values
    with pytest.raises(ValueError, match="no block for depth; import the module that registers it"):
        EmbeddingConfig(modalities=("depth",))
    row = Tokens.stack([encode_distances(np.array([1.0]))], VOCABULARY.pad).to_torch()
    with pytest.raises(ValueError, match=r"modality 'distance' in the stream.*embedding.modalities=\[distance\]"):
        distance_model()(row)


@pytest.mark.parametrize("change, says", [({"kind": 6}, "kinds from outside are 64 to 255"), ({"kind": 300}, "64 to 255"),
                                          ({"name": "audio"}, "must be new .audio"),
                                          ({"beside": {"patches": np.zeros(0)}}, "must be new .patches"),
                                          ({"name": "other", "beside": {}}, "kind 64 is modality 'distance' already")])
def test_a_modality_that_clashes_is_refused(distances: None, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        register_modality(replace(Modality(kind=64, name="distance", shown_as="distance"), **change))
    with pytest.raises(ValueError, match="'depth' is no modality from outside"):
        register_block("depth", DistanceBlock)
