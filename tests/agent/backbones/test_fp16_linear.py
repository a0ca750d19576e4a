"""Matrices in fp16: the same products, who acts with them, and that an agent with them stays exact."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from calico.agent import hardware
from calico.agent.backbones import fp16_linear
from calico.agent.backbones.decoder import Decoder, DecoderConfig
from calico.agent.backbones.fp16_linear import Fp16Linear, fp16_matrices, has_fbgemm
from calico.agent.backbones.perceiver_ar import PerceiverARConfig
from calico.agent.hardware import Precision
from calico.agent.model import Model
from calico.agent.policy import AgentPolicy, for_acting
from calico.agent.sampling import SamplingConfig

from ..conftest import batch_of, make_model, stream
from ..test_policy import make_codec, observations_of

needs_fbgemm = pytest.mark.skipif(not has_fbgemm(), reason="PyTorch has no FBGEMM on this processor")
CPU = torch.device("cpu")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network counts as large, and this CPU as one without bf16 instructions."""
    monkeypatch.setattr(fp16_linear, "FEWEST_WEIGHTS", 1)
    monkeypatch.setattr(hardware, "has_fast_bf16", lambda device: False)


def decoder_of(model: Model) -> Decoder:
    assert isinstance(model.backbone, Decoder)
    return model.backbone


def converted(module: nn.Module) -> int:
    return sum(isinstance(child, Fp16Linear) for child in module.modules())


@needs_fbgemm
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs, outputs", [(1, 1), (7, 5), (13, 131), (257, 17), (2048, 33)])
def test_products_are_those_of_the_rounded_weights(inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias)
    packed = Fp16Linear(linear)
    for shape in ((1,), (3,), (16,), (0,), (2, 3), (4, 0)):
        x = torch.randn(*shape, inputs)
        expected = F.linear(x, linear.weight.half().float(), linear.bias)
        torch.testing.assert_close(packed(x), expected, atol=1e-5, rtol=1e-5)
    x = torch.randn(4, 6, inputs)
    torch.testing.assert_close(packed(x[:, 3]), packed(x)[:, 3])           # not contiguous


@needs_fbgemm
def test_weights_saved_in_bf16_stay_the_same_numbers() -> None:
    linear = nn.Linear(300, 50, bias=False).bfloat16()
    linear.weight.data[:, 0] = 1e-6
    x = torch.eye(300)
    exact = F.linear(x, linear.weight.float())
    found = Fp16Linear(linear)(x)
    normal = exact.abs() >= 2**-14
    assert torch.equal(found[normal], exact[normal])
    torch.testing.assert_close(found, exact, atol=3e-8, rtol=0)
    assert found.dtype == torch.float32


@needs_fbgemm
@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("precision, count", [("auto", 8), ("fp32", 0), ("bf16", 0)])
def test_a_precision_that_the_user_names_is_kept(precision: Precision, count: int, model: Model) -> None:
    acting = for_acting(model, precision)
    assert converted(acting) == count                       # four matrices a block
    assert acting.embedding.table.weight.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert not converted(model) and all(weights.requires_grad for weights in model.parameters())


@pytest.mark.usefixtures("large")
def test_small_networks_bf16_processors_gpus_and_arm_keep_their_format(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    decoder = decoder_of(model)
    assert not fp16_matrices(decoder, torch.device("cuda"), "auto")
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "has_fast_bf16", lambda device: True)
        assert not fp16_matrices(decoder, CPU, "auto")
    with monkeypatch.context() as patch:
        patch.setattr(fp16_linear, "has_fbgemm", lambda: False)
        assert not fp16_matrices(decoder, CPU, "auto")
    weights = sum(child.weight.numel() for child in decoder.modules() if isinstance(child, nn.Linear))
    for fewest, count in ((weights, 8), (weights + 1, 0)):
        monkeypatch.setattr(fp16_linear, "FEWEST_WEIGHTS", fewest)
        assert len(fp16_matrices(decoder, CPU, "auto")) == (count if has_fbgemm() else 0)


@pytest.mark.parametrize("engine, has", [("x86", True), ("fbgemm", True), ("qnnpack", False), ("none", False)])
def test_other_engines_have_no_such_matrices(engine: str, has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp16_linear.torch.backends, "quantized", type("Engine", (), {"engine": engine}))
    assert has_fbgemm() is has


@needs_fbgemm
@pytest.mark.usefixtures("large")
def test_other_backbones_keep_fp32() -> None:
    assert not converted(for_acting(make_model(PerceiverARConfig(width=32, depth=2, heads=2, context=16, window=8)), "auto"))


@needs_fbgemm
@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("number", [65_520.0, -1e9, float("nan"), float("inf")])
def test_a_matrix_beyond_the_range_stays_as_it_is(number: float, model: Model) -> None:
    weight = decoder_of(model).blocks[0].attention.qkv.weight.data
    weight[0, 0] = number
    acting = for_acting(model, "auto")
    assert converted(acting) == 7
    torch.testing.assert_close(decoder_of(acting).blocks[0].attention.qkv.weight.data, weight, rtol=0, atol=0, equal_nan=True)


@needs_fbgemm
@pytest.mark.usefixtures("large")
@torch.inference_mode()
def test_cached_acting_equals_an_uncached_pass(model: Model) -> None:
    acting, tokens = for_acting(model, "auto"), batch_of(stream(30, 1), stream(30, 2))
    assert converted(acting) == 8
    whole = acting(tokens)
    embedded, cache, found = acting.embedding(tokens), acting.backbone.new_cache(2, 5), []
    for start in range(0, 30, 5):
        states, cache = acting.extend_embedded(embedded[:, start:start + 5], cache)
        found.append(states)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, model(tokens), atol=5e-3, rtol=5e-3)    # 11 bits of the weights
    torch.testing.assert_close(copy.deepcopy(acting)(tokens), whole)
    torch.testing.assert_close(for_acting(acting, "auto")(tokens), whole)


@needs_fbgemm
@pytest.mark.usefixtures("large")
def test_a_network_saved_in_bf16_plays_as_in_fp32() -> None:
    model, codec = make_model(DecoderConfig(width=32, depth=2, heads=2, context=64, window=64)), make_codec("three, mixed")
    model = model.bfloat16().float()
    rows = [0, 1, 2]
    policies = [AgentPolicy(model, codec, SamplingConfig(temperature=0), precision=precision) for precision in ("auto", "fp32")]
    assert [converted(policy.model) for policy in policies] == [8, 0]
    seen: list[list[np.ndarray]] = [[], []]
    for policy, logits in zip(policies, seen, strict=True):
        policy.on_logits = lambda place, found, logits=logits: logits.append(found)
        for row in rows:
            policy.reset(row, seed=row)
        for step in range(20):
            policy.act(observations_of(codec, 3, seed=step), rows)
    assert len(seen[0]) == 60
    for ours, theirs in zip(*seen, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
