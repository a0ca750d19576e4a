"""Acting beside copying memory: which formats are measured, and which one is reported."""

import pytest
import torch

from calico.agent import hardware
from calico.agent.backbones import fp16_linear
from calico.agent.backbones.decoder import Decoder
from calico.agent.backbones.fp16_linear import Fp16Linear, has_fbgemm
from calico.scripts.benchmarks import acting_1b


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network that counts as large, on a CPU that counts as one without bf16 instructions."""
    monkeypatch.setattr(acting_1b, "SIZE", "tiny")
    monkeypatch.setattr(acting_1b, "COPIED", 1 << 16)
    monkeypatch.setattr(fp16_linear, "FEWEST_WEIGHTS", 1)
    monkeypatch.setattr(hardware, "has_fast_bf16", lambda device: False)


def test_the_fastest_format_of_one_row_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found = acting_1b.bench_acting_1b(turns=1)
    forms = ["bf16", "fp16", "int8"] if has_fbgemm() else ["bf16", "int8"]
    speeds = {name.split("_")[2]: value / found[name.replace("tokens", "copy_gigabytes")] for name, value in found.items()
              if name.endswith("rows1_tokens_per_second")}
    assert list(speeds) == forms and min(speeds.values()) > 0
    fastest = max(forms, key=lambda form: speeds[form])
    assert found["acting_1b_format"] == fastest
    assert found["acting_1b_share_of_bandwidth"] == found[f"acting_1b_{fastest}_rows1_share_of_bandwidth"]
    if has_fbgemm():
        assert found["acting_1b_fp16_gigabytes"] == found["acting_1b_bf16_gigabytes"]
    assert 0.5 < found["acting_1b_int8_gigabytes"] / found["acting_1b_bf16_gigabytes"] < 0.52     # one scale an output


def test_fp16_is_measured_only_where_acting_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp16_linear, "FEWEST_WEIGHTS", 10**9)
    assert [form for form, _, _ in acting_1b.formats(acting_1b.random_network(quick=False))] == ["bf16", "int8"]


@pytest.mark.skipif(not has_fbgemm(), reason="PyTorch has no FBGEMM on this processor")
@torch.inference_mode()
def test_the_formats_are_one_network() -> None:
    states = {}
    for form, network, _ in acting_1b.formats(acting_1b.random_network(quick=False)):
        assert isinstance(network.backbone, Decoder)
        assert any(isinstance(module, Fp16Linear) for module in network.modules()) is (form == "fp16")
        dtype = network.embedding.table.weight.dtype
        x = torch.randn(2, 4, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
        states[form], _ = network.backbone.extend(x, network.backbone.new_cache(2, 4, dtype))
    for form in ("bf16", "int8"):
        torch.testing.assert_close(states[form].float(), states["fp16"], atol=0.1, rtol=0.1)
