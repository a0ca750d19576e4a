"""data2vec's encoder as a backbone: what a place sees. The rest is in test_backbones.py."""

import pytest
import torch

from calico.agent.backbones import masked_encoder as data2vec_backbone
from calico.agent.backbones.masked_encoder import MaskedEncoder, MaskedEncoderConfig

CONFIG = MaskedEncoderConfig(width=32, depth=2, heads=2, context=16, window=8)


@pytest.fixture
def encoder() -> MaskedEncoder:
    torch.manual_seed(0)
    return MaskedEncoder(CONFIG).eval()


def test_a_place_sees_exactly_its_window(encoder: MaskedEncoder) -> None:
    x = torch.randn(1, 20, 32)
    for back, is_seen in ((7, True), (8, False)):
        changed = x.clone()
        changed[:, 19 - back] = torch.randn(32)
        assert torch.allclose(encoder(x)[:, 19], encoder(changed)[:, 19], atol=1e-6) != is_seen


def test_windows_at_once_change_nothing(encoder: MaskedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the room before a short history, which is left out where no row needs it."""
    x = torch.randn(2, 30, 32)
    expected = encoder(x)
    monkeypatch.setattr(data2vec_backbone, "AT_ONCE", 7)
    torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoder(x[:, :3]), expected[:, :3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wrong, message", [
    ({"heads": 3}, "width=32 does not split into 3 heads"), ({"window": 0}, "window=0 must be at least 1"),
    ({"prefixes": 0}, "prefixes=0 must be at least 1"),
])
def test_sizes_that_do_not_work_are_named(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedEncoderConfig(**{"width": 32, **wrong})  # type: ignore[arg-type]
