"""data2vec over the agent's token stream, with both mixers and both versions."""

from dataclasses import replace

import pytest
import torch

from calico.agent.data2vec.encoders import TransformerConfig
from calico.agent.data2vec.masks import kept_positions
from calico.agent.data2vec.objective import OBJECTIVES, Data2Vec, PredictorConfig
from calico.agent.data2vec.stream import StreamEncoder
from calico.agent.perceiver.layers import LatentConfig

from ..conftest import batch_of, make_model, stream

MIXERS: dict[str, TransformerConfig | LatentConfig] = {
    "transformer": TransformerConfig(width=32, depth=2, heads=4, feedforward=48),
    "perceiver": LatentConfig(latents=8, width=48, layers=2, heads=4),
}
TOKENS = batch_of(stream(24, 0), stream(15, 1))


def make(mixer: str, places: int = 24) -> StreamEncoder:
    embedding = make_model().embedding
    return StreamEncoder(embedding, MIXERS[mixer], places).eval()


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("version", ["text-v1", "text-v2"])
def test_a_window_is_memorised(mixer: str, version: str) -> None:
    config = replace(OBJECTIVES[version], top_layers=1, loss_scale="root", layer_norm="layer")
    if config.decoder is not None:
        config = replace(config, copies=2, decoder=PredictorConfig(channels=32, groups=4, depth=2))
    objective = Data2Vec(make(mixer), config).eval()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(40):
        outcome = objective(TOKENS)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        losses.append(outcome.loss.item())
    assert losses[-1] < 0.5 * losses[0]
    unused = [name for name, p in objective.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # nobody sees masked places in version 2; a bias of the keys does nothing, whatever the attention
    assert {name for name in unused if not name.endswith("key.bias")} == ({"mask_token"} if config.decoder else set())


@torch.no_grad()
@pytest.mark.parametrize("mixer", MIXERS)
def test_padding_and_positions_that_are_not_kept_change_nothing(mixer: str) -> None:
    encoder = make(mixer)
    features = encoder.features(TOKENS)
    assert features.real is not None and features.real.sum(1).tolist() == [24, 15]
    alone = encoder(batch_of(stream(15, 1))).hidden[0]
    torch.testing.assert_close(encoder(TOKENS).hidden[1, :15], alone, atol=1e-5, rtol=0)
    masked = torch.rand(2, 24) < 0.5
    kept = kept_positions(masked, features.real)
    other = replace(features, x=torch.where((masked | ~features.real)[..., None], 1000.0, features.x))
    one, two = (encoder.encode(f, kept=kept).hidden for f in (features, other))
    torch.testing.assert_close(one[kept >= 0], two[kept >= 0])


def test_windows_and_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="a window of 24 tokens is longer than the encoder's 20 places"):
        make("transformer", places=20).features(TOKENS)
    with pytest.raises(ValueError, match="width=48 of the transformer must be the embedding's, 32"):
        StreamEncoder(make_model().embedding, TransformerConfig(width=48, heads=4), 24)
