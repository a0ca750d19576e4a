"""The embedding function: positions, patch intervals, patches that land on their own tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from calico.agent.blocks import waves
from calico.agent.embedding import Embedding, EmbeddingConfig
from calico.agent.model import Model, ModelConfig
from calico.agent.training.optimizer import OptimizerConfig, build_optimizer
from calico.tokenizers.continuous import inverse_mu_law
from calico.tokenizers.document import Image, Part, Sound, Special, encode_document
from calico.tokenizers.tokens import ACTION, NO_POSITION, VECTOR_SIZE, Kind, Tokens

from .conftest import BACKBONES, VOCABULARY, batch_of, make_model, stream


def test_no_position_adds_nothing_and_all_actions_share_one(model: Model) -> None:
    tokens = batch_of(stream(3, patch_share=0))
    table = model.embedding.table(tokens.ids.long())
    nowhere = replace(tokens, position=torch.full_like(tokens.position, NO_POSITION))
    torch.testing.assert_close(model.embedding(nowhere), table)
    actions = model.embedding(replace(tokens, position=torch.full_like(tokens.position, ACTION))) - table
    torch.testing.assert_close(actions[0, 0], actions[0, 2])
    assert actions.abs().sum() > 0


SOUNDS_TOO = ModelConfig(embedding=EmbeddingConfig(patch_channels=4, sounds=True), backbone=BACKBONES[0])
PICTURE, TONE = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3), np.sin(np.arange(1300) * 0.2)


@pytest.fixture
def embedding() -> Embedding:
    """One for pictures and sounds."""
    torch.manual_seed(0)
    return Model(SOUNDS_TOO, VOCABULARY).eval().embedding


def test_pictures_and_sounds_get_their_place_in_the_observation(embedding: Embedding) -> None:
    """The place of a token inside its timestep, whatever its kind."""
    tokens = batch_of(encode_document([Image(PICTURE), Sound(TONE), Special("end")], VOCABULARY, None))
    for position in (NO_POSITION, ACTION, 0, 7):
        placed = embedding(replace(tokens, position=torch.full_like(tokens.position, position)))
        added = (placed - embedding(tokens))[0]
        expected = embedding.positions.weight[position - NO_POSITION]
        torch.testing.assert_close(added, expected.expand_as(added), atol=1e-6, rtol=1e-5)


def test_no_position_adds_nothing_to_pictures_and_sounds_even_after_training(embedding: Embedding) -> None:
    tokens = batch_of(encode_document([Image(PICTURE), Sound(TONE), Special("end")], VOCABULARY, None))
    for _ in range(2):
        x = embedding(tokens)
        for kind, alone in ((Kind.PATCH, embedding.embed_patches(tokens)), (Kind.AUDIO, embedding.embed_sounds(tokens))):
            torch.testing.assert_close(x[tokens.kind == kind], alone, atol=0, rtol=0)
        optimizer = build_optimizer(embedding, OptimizerConfig())
        x.square().sum().backward()
        optimizer.step()
        embedding.zero_grad()


def test_older_checkpoints_add_what_they_learnt_to_add(embedding: Embedding) -> None:
    """The first row of positions was trained by the pictures and sounds of documents."""
    tokens = batch_of(encode_document([Image(PICTURE), Sound(TONE), Special("end")], VOCABULARY, None))
    before = embedding(tokens)
    with torch.no_grad():
        embedding.positions.weight[0] = torch.linspace(-1, 1, embedding.width)
    added = (embedding(tokens) - before)[0]
    torch.testing.assert_close(added[:-1], embedding.positions.weight[0].expand_as(added[:-1]), atol=1e-5, rtol=1e-5)
    assert not added[-1].any()


def test_patches_land_on_their_own_tokens(model: Model) -> None:
    """Embedding a batch equals embedding its rows one by one: no patch moves to another row."""
    rows = [stream(12, seed) for seed in range(3)]
    together = model.embedding(batch_of(*rows))
    for row, tokens in enumerate(rows):
        torch.testing.assert_close(together[row], model.embedding(batch_of(tokens))[0], atol=1e-5, rtol=1e-5)


def test_unused_channels_do_not_matter(model: Model) -> None:
    tokens = batch_of(stream(12))
    noisy = tokens.patches.clone()
    noisy[:, 3] = 255                                     # the streams' patches have three channels
    torch.testing.assert_close(model.embedding(replace(tokens, patches=noisy)), model.embedding(tokens))


def test_training_samples_the_interval_and_evaluation_takes_its_mean(model: Model) -> None:
    tokens = batch_of(stream(12, patch_share=1))          # row interval [0, 32), column interval [32, 64)
    assert torch.equal(model.embedding.embed_patches(tokens), model.embedding.embed_patches(tokens))
    without = model.embedding.encode_patches(tokens)
    expected = model.embedding.rows.weight[15] + model.embedding.columns.weight[47]
    torch.testing.assert_close((model.embedding.embed_patches(tokens) - without)[0], expected, atol=1e-5, rtol=1e-5)
    model.train()
    drawn = model.embedding.embed_patches(tokens) - without
    assert len({tuple(row.round(decimals=4).tolist()) for row in drawn}) > 1


def test_sounds_land_on_their_own_tokens_beside_patches(embedding: Embedding) -> None:
    sounds = [np.sin(np.arange(length) * 0.2) for length in (1300, 700, 12_000)]
    documents: list[list[Part]] = [[Sound(sounds[0]), Image(PICTURE), Sound(sounds[1]), Special("end")], [Image(PICTURE)],
                                   [Special("end"), Sound(sounds[2])]]
    rows = [encode_document(parts, VOCABULARY, None) for parts in documents]
    together = embedding(batch_of(*rows))
    for row, tokens in enumerate(rows):
        torch.testing.assert_close(together[row, :len(tokens)], embedding(batch_of(tokens))[0], atol=1e-5, rtol=1e-5)
    late = batch_of(rows[2])
    earlier = embedding.embed_sounds(replace(late, moments=torch.zeros_like(late.moments)))
    assert not torch.allclose(embedding.embed_sounds(late)[5], earlier[5])          # what a stretch is depends on when it is
    beyond = replace(late, moments=late.moments + 10_000)
    assert embedding.embed_sounds(beyond).isfinite().all()


def vectors_of(*counts: int) -> Tokens:
    """A row of vectors that hold so many numbers, with a word before each."""
    row, rng = stream(2 * len(counts), patch_share=0), np.random.default_rng(sum(counts))
    row.kind[1::2], row.ids[1::2] = Kind.VECTOR, VOCABULARY.patch
    return replace(row, vectors=rng.uniform(-1, 1, (len(counts), VECTOR_SIZE)).astype(np.float32),
                   numbers=np.array(counts, np.uint8))


def test_vectors_land_on_their_own_tokens() -> None:
    model = make_model(vectors=True)
    rows = [vectors_of(32, 3), vectors_of(7), vectors_of(1, 20, 32)]
    together = model.embedding(batch_of(*rows))
    for row, tokens in enumerate(rows):
        torch.testing.assert_close(together[row, :len(tokens)], model.embedding(batch_of(tokens))[0], atol=1e-6, rtol=1e-5)


def test_a_vector_is_its_real_numbers_and_their_waves() -> None:
    model = make_model(vectors=True)
    tokens = batch_of(vectors_of(5))
    assert model.embedding.vector_block is not None
    values = tokens.vectors[0, :5].double()
    plain = torch.from_numpy(inverse_mu_law(values.numpy()))
    assert plain.abs().max() > 8
    found = waves(tokens.vectors, tokens.numbers)[0].double()
    angles = [values * torch.pi * 2**k for k in range(6)]
    slow = [plain * torch.pi * 2.0**k for k in range(-3, 4)]
    expected = [values, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles), torch.ones(5),
                plain.clamp(-8, 8), *(angle.sin() for angle in slow), *(angle.cos() for angle in slow)]
    torch.testing.assert_close(found[:5], torch.stack(expected, dim=-1).double(), atol=5e-3, rtol=1e-5)
    torch.testing.assert_close(found[:5, :15], torch.stack(expected, dim=-1).double()[:, :15], atol=1e-5, rtol=1e-5)
    assert (found[5:] == 0).all()
    beyond = tokens.vectors.clone()
    beyond[:, 5:] = 9
    assert torch.equal(model.embedding.embed_vectors(replace(tokens, vectors=beyond)), model.embedding.embed_vectors(tokens))
    near = replace(tokens, vectors=tokens.vectors + 1e-3)
    assert not torch.allclose(model.embedding.embed_vectors(near), model.embedding.embed_vectors(tokens), atol=1e-4)
    size = model.embedding.embed_vectors(batch_of(vectors_of(*[32] * 20))).std()
    assert 0.01 < size < 0.1                                              # the table's rows have 0.02


def test_a_model_without_a_block_for_vectors_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="without any; encode with numbers='binned', or train one with data.numbers=vector"):
        make_model().embedding(batch_of(vectors_of(4)))


def test_too_long_an_observation_is_named(model: Model) -> None:
    tokens = batch_of(stream(4, patch_share=0))
    with pytest.raises(ValueError, match="61 observation tokens, the model 48 positions"):
        model.embedding(replace(tokens, position=torch.full_like(tokens.position, 60)))
