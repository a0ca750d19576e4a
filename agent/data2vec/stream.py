"""The agent's token stream as an input of data2vec: text, pictures, values and actions of one window, mixed in both directions.

Local vectors come from the agent's own embedding (embedding.py), so that what is learnt here fits the backbones. They are
mixed by a transformer, or by a Perceiver IO: its latents have no places, so its targets are what it decodes for each place,
and there is one such layer (`top_layers=1`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...tokenizers.tokens import Kind, Tokens
from ..embedding import Embedding
from ..perceiver.layers import CrossAttend, LatentConfig
from ..perceiver.layers import Encoder as LatentEncoder
from .encoders import Encoded, Encoder, Features, Transformer, TransformerConfig, initialize, padding_bias, select


class StreamEncoder(Encoder):
    """Tokens (B, S) with tensors, padded on the right -> (B, S, width)."""

    def __init__(self, embedding: Embedding, mixer: TransformerConfig | LatentConfig, places: int) -> None:
        """
        Args:
            embedding: trained along; the teacher gets a copy.
            mixer: a transformer as wide as the embedding, or a Perceiver IO of any width.
            places: longest window.
        """
        super().__init__()
        self.embedding, self.width = embedding, embedding.table.embedding_dim
        if isinstance(mixer, TransformerConfig) and mixer.width != self.width:
            raise ValueError(f"width={mixer.width} of the transformer must be the embedding's, {self.width}")
        self.positions = nn.Embedding(places, self.width)
        self.mask_token = nn.Parameter(torch.randn(self.width) * 0.02)
        self.mixer = TransformerMixer(mixer) if isinstance(mixer, TransformerConfig) else PerceiverMixer(mixer, self.width)
        for part in (self.positions, self.mixer):
            initialize(part)

    def forward(self, tokens: Tokens) -> Encoded:
        """Nothing masked."""
        return self.encode(self.features(tokens))

    def features(self, tokens: Tokens) -> Features:
        """Raises ValueError where the window is too long."""
        if len(tokens) > self.positions.num_embeddings:
            raise ValueError(f"a window of {len(tokens)} tokens is longer than the encoder's {self.positions.num_embeddings} "
                             "places; cut it or raise places")
        real = tokens.kind != Kind.PAD
        return Features(self.embedding(tokens), None if bool(real.all()) else real, (len(tokens),))

    def encode(self, features: Features, masked: Tensor | None = None, kept: Tensor | None = None) -> Encoded:
        """See Encoder."""
        x = features.x
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_token.to(x.dtype), x)
        positions = self.positions.weight[: x.shape[1]].expand_as(x)
        chosen, real = select(x + positions, features.real, kept)
        return self.mixer(chosen, select(positions, None, kept)[0], real)


class TransformerMixer(nn.Module):
    """Every place looks at every other."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.transformer = Transformer(config)
        self.dropout, self.depth = config.dropout, config.depth

    def forward(self, x: Tensor, positions: Tensor, real: Tensor | None) -> Encoded:
        """x, positions: (B, S, width); real: bool (B, S)."""
        bias = None if real is None else padding_bias(real)
        return self.transformer(F.dropout(self.norm(x), self.dropout, self.training), [bias] * self.depth)


class PerceiverMixer(nn.Module):
    """Latents read the places, and each place's position asks the latents what is there."""

    def __init__(self, config: LatentConfig, width: int) -> None:
        super().__init__()
        self.encoder = LatentEncoder(config, width)
        self.decoder = CrossAttend(config, width, config.width)

    def forward(self, x: Tensor, positions: Tensor, real: Tensor | None) -> Encoded:
        """x, positions: (B, S, width); real: bool (B, S)."""
        decoded = self.decoder(positions, self.encoder(x, real))
        return Encoded(decoded, (x, decoded), (decoded,))
