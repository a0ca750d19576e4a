"""Memory of a training step per rank, planned on paper: FakeTensor runs the step without computing or holding anything, torch's
MemTracker adds up what would be there.

    calico bench memory --json      # the paper's sizes under DDP and FSDP2 on eight cards; a few minutes

The stream of the plan is text, a tenth of it targets: pictures add the activations of their block. What the allocator keeps in
reserve and what CUDA and NCCL take for themselves (1 to 2 GB a card) comes on top.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calico.agent.backbones import decoder
from calico.agent.backbones.banded import on_gpus
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.embedding import Embedding
from calico.agent.hardware import glibc
from calico.agent.model import Model, ModelConfig, named_size
from calico.agent.training.optimizer import OptimizerConfig, build_optimizer
from calico.agent.training.ranks import Ranks, joined_ranks, replicated, shard_model
from calico.agent.training.trainer import recompute_blocks
from calico.scripts.common.local_ranks import on_local_ranks
from calico.tokenizers.tokens import Tokens
from calico.tokenizers.vocabulary import Vocabulary

PAPER = ("gato-79m", "gato-364m", "gato-1.18b")
CARDS, CARD_ROWS = 8, 8          # of the table: rows of 1,024 tokens on each card
TARGETS = 0.1                    # of the tokens


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step whose memory is asked for.

    Attributes:
        rows: of each rank.
        cuda: as on a card: bf16 by autocast, attention by torch's fused kernel.
    """

    model: ModelConfig
    rows: int
    recompute: bool = False
    cuda: bool = False

    def network(self) -> Model:
        """With random weights."""
        made = Model(self.model, Vocabulary()).train()
        if self.recompute:
            recompute_blocks(made)
        return made

    def loss(self, network: Model) -> Tensor:
        """Of a batch of one word again and again."""
        b = self.model.backbone
        assert isinstance(b, DecoderConfig), b
        count = int(self.rows * b.context * TARGETS)
        ids, chosen = torch.ones(self.rows, b.context, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.cuda):
            hidden = network(cast(Tokens, Words(ids, torch.zeros_like(ids))), (chosen, chosen))
            return F.cross_entropy(network.logits(hidden).float(), chosen)


class Words(NamedTuple):
    """Stands for Tokens: what depends on their contents, as the number of patches does, FakeTensor cannot run."""

    ids: Tensor
    segment: Tensor


def words_alone() -> Any:
    """In this block models take `Words` in place of Tokens."""
    return mock.patch.object(Embedding, "forward", lambda self, words: self.table(words.ids) + self.positions(words.ids))


def tracked(step: Step) -> dict[str, int]:
    """Bytes at the peak of one process's second step, by what they are for."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    attention = on_gpus if step.cuda else decoder.banded_attention
    with FakeTensorMode(), mock.patch.object(decoder, "banded_attention", attention), words_alone():
        network = step.network()
        optimizer = build_optimizer(network, OptimizerConfig())
        tracker = MemTracker()
        tracker.track_external(network, optimizer)
        with tracker:
            for _ in range(2):
                step.loss(network).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                tracker.reset_mod_stats()
        (found,) = tracker.get_tracker_snapshot("peak").values()
    return {str(getattr(kind, "value", kind)): size for kind, size in found.items()}


def planned(step: Step, ranks: int = 1, sharded: bool = False, peak: Mapping[str, int] | None = None) -> int:
    """Bytes that a rank needs; peak: `tracked` of the step, where it is known."""
    found = dict(peak or tracked(step))
    total, weights, states = found["Total"], found["Parameter"], found["Optstate"]
    if ranks == 1:
        return total
    if not sharded:
        return total + weights                     # DDP's buckets: gradients on their way
    with torch.device("meta"):
        network = Model(step.model, Vocabulary())
    blocks = cast(decoder.Decoder, network.backbone).blocks
    block = sum(weight.nbytes for weight in blocks[0].parameters())
    root = weights - block * len(blocks)
    passing = total - weights - states - found["Gradient"]        # activations, and what an operation needs for a moment
    # The root's weights stay whole through the step; two blocks are whole at a time, the next one on its way, and the gradient
    # of one.
    during = (weights + states) // ranks + root + 3 * block + passing
    return max(during, 2 * (weights + states) // ranks)


def measured(step: Step, ranks: int, sharded: bool) -> int:
    """Bytes that a rank's memory really grows by in three steps of `ranks` processes: the largest of them."""
    def rank() -> int:
        libc = glibc()
        if libc is None or not os.path.exists("/proc/self/clear_refs"):
            raise ValueError("memory is measured on Linux with glibc only")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 16)     # freed blocks go back at once: what is needed, not what is kept
        libc.mallopt(m_trim_threshold, 1 << 17)
        with joined_ranks("cpu") as here, words_alone():
            smallest = named_size("tiny", 64)
            train(Step(model=replace(smallest, backbone=replace(smallest.backbone, depth=1)), rows=2), here, sharded)
            with open("/proc/self/clear_refs", "w") as file:     # kernels are loaded: the peak is counted from here
                file.write("5")
            before = status("VmRSS")
            train(step, here, sharded)
            return status("VmHWM") - before

    found = on_local_ranks(ranks, rank)
    if not all(isinstance(size, int) and size > 1 << 16 for size in found):
        raise ChildProcessError(f"a rank ended before it was measured: {found}")
    return max(found)


def train(step: Step, ranks: Ranks, sharded: bool) -> None:
    """Three steps."""
    network = step.network()
    loss: Callable[[], Tensor] = lambda: step.loss(network)      # noqa: E731
    if sharded:
        shard_model(network, ranks)
    elif ranks.together:
        shared: nn.Module = replicated(network, lambda model, batch: step.loss(model))
        loss = lambda: shared(None)      # noqa: E731
    optimizer = build_optimizer(network, OptimizerConfig())
    for _ in range(3):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def status(name: str) -> int:
    """A size of this process, in bytes: VmRSS is its memory, VmHWM the largest that it was."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def bench_memory(turns: int) -> dict[str, Any]:
    """Gigabytes per card for the paper's sizes; `turns` does not matter, for nothing is measured."""
    found: dict[str, Any] = {"rows_per_card": CARD_ROWS, "context": 1024, "cards": CARDS}
    for size in PAPER:
        for recompute in (False, True):
            step = Step(model=named_size(size), rows=CARD_ROWS, recompute=recompute, cuda=True)
            peak = tracked(step)
            for sharded in (False, True):
                name = f"{size}_{'fsdp' if sharded else 'ddp'}{'_recompute' if recompute else ''}_gigabytes"
                found[name] = planned(step, CARDS, sharded, peak) / 1e9
    return found
