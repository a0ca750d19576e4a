"""Acting at the paper's largest size: random weights of gato-1.18b generate token by token, beside copying memory.

One token needs every weight of the blocks once, so a core that does nothing but read them needs bytes / bandwidth seconds: the
share says how near acting is to that. The keys and values of a full window are read besides, and not counted.

fp16 is what acting takes on CPUs without bf16 instructions (fp16_linear.py); elsewhere it is left out. int8 is weight-only, one
scale per output, by torch's own kernel (`_weight_int8pack_mm`): half the bytes of the others, at most twice the rate.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calico.agent.backbones.decoder import Decoder, DecoderConfig
from calico.agent.backbones.fp16_linear import Fp16Linear
from calico.agent.model import Model, named_size
from calico.agent.policy import for_acting
from calico.scripts.benchmarks.interleaved import seconds
from calico.tokenizers.vocabulary import Vocabulary

SIZE = "gato-1.18b"
LEGAL = 18                   # actions that are chosen from, as in Atari
QUICK_DEPTH = 4              # blocks of the same width
ROWS = (1, 16)
COPIED = 256 << 20           # bytes: far more than any cache


class Int8Linear(nn.Module):
    """A bias-free matrix in int8 with one bf16 scale per output; states stay in bf16."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """
        Args:
            linear: bf16 weight (outputs, inputs), left as it is.
        """
        super().__init__()
        scale = linear.weight.detach().abs().amax(dim=1).float().clamp(min=1e-8) / 127
        self.register_buffer("weight", torch.empty(linear.weight.shape, dtype=torch.int8))
        self.register_buffer("scale", scale.to(torch.bfloat16))
        for start in range(0, len(scale), 1024):      # a matrix is never held in fp32
            rows = slice(start, start + 1024)
            self.weight[rows] = (linear.weight.detach()[rows].float() / scale[rows, None]).round().to(torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        mixed: Tensor = torch.ops.aten._weight_int8pack_mm(x.flatten(0, -2), self.weight, self.scale)
        return mixed.unflatten(0, x.shape[:-1])


def to_int8(module: nn.Module) -> None:
    """Every matrix below a module, in place, one after another."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            to_int8(child)


@contextmanager
def bf16_by_default() -> Iterator[None]:
    """What is made in this block is bf16 from the start: fp32 would take twice the memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def random_network(quick: bool) -> Model:
    """gato-1.18b with random weights in bf16, in evaluation mode; `quick`: a few of its blocks."""
    config = named_size(SIZE)
    if quick:
        config = replace(config, backbone=replace(config.backbone, depth=QUICK_DEPTH))
    torch.manual_seed(0)
    with bf16_by_default():
        return Model(config, Vocabulary()).eval().requires_grad_(False)


def weight_bytes(network: Model) -> int:
    """Of the blocks: what one token needs; of the table it needs a few rows."""
    blocks = cast(Decoder, network.backbone).blocks
    return sum(tensor.nbytes for block in blocks for tensor in (*block.parameters(), *block.buffers()))


def one_token(network: Model, rows: int) -> Callable[[], Any]:
    """The network reads one more token of each row behind a full window and scores the legal actions."""
    backbone, table = network.config.backbone, network.embedding.table.weight
    assert isinstance(backbone, DecoderConfig), backbone
    cache = network.backbone.new_cache(rows, 1, table.dtype)
    cache.lengths.fill_(backbone.context - 1)
    ids, legal = torch.arange(rows, device=table.device)[:, None], torch.arange(LEGAL, device=table.device)

    @torch.inference_mode()
    def act() -> Tensor:
        hidden, _ = network.extend_embedded(F.embedding(ids, table), cache)   # the same place again: the cache is not kept
        return network.logits(hidden[:, -1], legal).argmax(-1)

    return act


def copying() -> Callable[[], Any]:
    """One copy of COPIED bytes: they are read once and written once."""
    source, target = (torch.ones(COPIED, dtype=torch.uint8) for _ in range(2))
    return lambda: target.copy_(source)


def bench_acting_1b(turns: int, quick: bool = False) -> dict[str, Any]:
    """Tokens per second of each format and number of rows, and the share of the copy bandwidth measured in the same turns."""
    network, copy = random_network(quick), copying()
    found: dict[str, Any] = {"acting_1b_layers": cast(DecoderConfig, network.config.backbone).depth,
                             "acting_1b_parameters": network.parameter_count()}
    speed: dict[str, float] = {}
    for form, acting, size in formats(network):
        for rows in ROWS:
            taken, copied = seconds(turns, one_token(acting, rows), copy)
            bandwidth, name = 2 * COPIED / copied, f"acting_1b_{form}_rows{rows}"
            found[f"{name}_tokens_per_second"] = rows / taken
            found[f"{name}_share_of_bandwidth"] = size / bandwidth / taken
            found[f"{name}_copy_gigabytes_per_second"] = bandwidth / 1e9
        found[f"acting_1b_{form}_gigabytes"] = size / 1e9
        # a token's time in copies of the same turns: between formats the machine may have become slower
        name = f"acting_1b_{form}_rows1"
        speed[form] = found[f"{name}_tokens_per_second"] / found[f"{name}_copy_gigabytes_per_second"]
    fastest = max(speed, key=lambda form: speed[form])
    found["acting_1b_format"] = fastest
    found["acting_1b_share_of_bandwidth"] = found[f"acting_1b_{fastest}_rows1_share_of_bandwidth"]
    return found


def formats(network: Model) -> Iterator[tuple[str, Model, int]]:
    """Each format's name, the network in it and the bytes of its blocks; the bf16 network itself becomes int8 in the end."""
    size = weight_bytes(network)
    yield "bf16", network, size
    acting = for_acting(network, "auto")
    if any(isinstance(module, Fp16Linear) for module in acting.modules()):
        yield "fp16", acting, size            # two bytes a weight, too
    del acting
    to_int8(cast(Decoder, network.backbone))
    yield "int8", network, weight_bytes(network)
