"""Pre-trained encoders as front ends: their own outputs arrive at the right tokens, frozen ones stay as they are, and a
checkpoint rebuilds them without the folder that they came from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.backbones import BackboneConfig
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.data2vec.batches import text_vocabulary
from calico.agent.data2vec.encoders import (
    Encoder,
    SpeechEncoder,
    SpeechEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
    VisionEncoder,
    VisionEncoderConfig,
    standardize,
)
from calico.agent.data2vec.pretrained import TOKENIZER_FILE, encoder_document
from calico.agent.embedding import EmbeddingConfig
from calico.agent.front_end import FrontEndConfig, in_groups
from calico.agent.generate import read
from calico.agent.model import Model, ModelConfig
from calico.tokenizers.document import Image, Part, Sound, Special, Text, encode_document
from calico.tokenizers.sounds import decode_sound, encode_sound
from calico.tokenizers.text import TextTokenizer
from calico.tokenizers.tokens import ACTION, Tokens
from calico.tokenizers.vocabulary import Vocabulary, VocabularyConfig

from ..tones import tone
from .conftest import every_backbone

WORDS = TextTokenizer.train(["go to the red ball", "what do you hear? a dog", "open the door"], 300)
VOCABULARY = Vocabulary(VocabularyConfig(text=300, discrete=16, continuous=32))
SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "feedforward": 48}
RNG = np.random.default_rng(0)
WIDE, TALL = (RNG.integers(0, 256, shape).astype(np.uint8) for shape in ((16, 48, 3), (40, 20, 3)))
LONG, SHORT = tone(300, 0.32), tone(900, 0.12)   # whole tokens: on silence the encoder's norms blow up rounding errors


def vision(patch: int = 8, channels: int = 3) -> VisionEncoder:
    torch.manual_seed(1)
    encoder = VisionEncoder(VisionEncoderConfig(**SMALL, image_size=32, patch_size=patch, channels=channels, layer_scale=0.5))
    for table in encoder.tables:
        torch.nn.init.normal_(table)
    return encoder.eval()


def speech(rate: int = 16_000, kernels: tuple[int, ...] = (10, 8, 4), strides: tuple[int, ...] = (10, 8, 4)) -> SpeechEncoder:
    torch.manual_seed(2)
    return SpeechEncoder(SpeechEncoderConfig(**SMALL, sample_rate=rate, conv_channels=(8,) * len(kernels), conv_kernels=kernels,
                                      conv_strides=strides, position_layers=1, position_groups=4)).eval()


def reading() -> TextEncoder:
    torch.manual_seed(3)
    return TextEncoder(TextEncoderConfig(**SMALL, **text_vocabulary(WORDS), max_length=12)).eval()


def model(freeze: bool = True, backbone: BackboneConfig | None = None, **encoders: Encoder) -> Model:
    wanted = {name: FrontEndConfig(encoder="somewhere", freeze=freeze) for name in encoders}
    torch.manual_seed(0)
    config = ModelConfig(embedding=EmbeddingConfig(observation_positions=48, patch_channels=4, **wanted),   # type: ignore[arg-type]
                         backbone=backbone or DecoderConfig(width=24, depth=2, heads=2, context=512, window=16))
    return Model(config, VOCABULARY, encoders).eval()


def document(*parts: Part) -> Tokens:
    return encode_document(parts, VOCABULARY, WORDS)


def batch(*rows: Tokens) -> Tokens:
    return Tokens.stack(rows, VOCABULARY.pad).to_torch()


def test_groups_come_back_in_order() -> None:
    begins = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)            # runs of 1, 2, 1, 3, 1: the first place begins
    lengths = []

    def embed(places: Tensor, key: int) -> Tensor:
        lengths.append(places.shape[1])
        return places[..., None].float()

    assert in_groups(begins, embed)[:, 0].tolist() == list(range(8))
    assert lengths == [1, 2, 3]


# ---- vision

@pytest.mark.parametrize("patch", [4, 16])
def test_an_encoder_sees_whole_images_whatever_stands_beside_them(patch: int) -> None:
    """Each image by itself through the encoder, its places cut into the stream's patches by hand."""
    encoder = vision(patch)
    network = model(vision=encoder)
    tokens = batch(document(Image(WIDE), Special("end"), Image(TALL), Image(WIDE)), document(Image(TALL)))
    found = network.embedding.encode_patches(tokens)
    project, side = network.embedding.front_end("vision").project, 16 // patch
    expected = []
    for image in (WIDE, TALL, WIDE, TALL):
        rows, columns = -(-image.shape[0] // 16), -(-image.shape[1] // 16)
        pixels = np.zeros((rows * 16, columns * 16, 3), np.float32)
        pixels[:image.shape[0], :image.shape[1]] = image
        with torch.no_grad():
            hidden = encoder(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]).hidden[0, 1:]
        grid = hidden.unflatten(0, (rows * side, columns * side))
        expected += [grid[r * side:(r + 1) * side, c * side:(c + 1) * side].reshape(-1)
                     for r in range(rows) for c in range(columns)]
    torch.testing.assert_close(found, project(torch.stack(expected)), atol=1e-4, rtol=1e-4)


def test_rows_of_a_batch_do_not_mix_and_pictures_of_other_shapes_neither() -> None:
    """Rows that begin inside a picture or a sound behind rows that end with one; as many patches in another arrangement."""
    network = model(vision=vision(), audio=speech())
    wide, tall = (RNG.integers(0, 256, shape).astype(np.uint8) for shape in ((32, 48, 3), (48, 32, 3)))
    rows = [document(Image(wide)), document(Image(tall))[2:], document(Special("end"), Image(tall)), document(Image(wide))[3:],
            document(Sound(LONG)), document(Sound(LONG))[2:], document(Image(255 - wide)), document(Sound(-LONG))]
    together = network.embedding(batch(*rows))
    for row, tokens in enumerate(rows):
        torch.testing.assert_close(together[row, :len(tokens)], network.embedding(batch(tokens))[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("given, seen", [(1, [0, 0, 0]), (2, [0, 1, 1]), (3, [0, 1, 2]), (4, [1, 2, 3])])
def test_the_last_channels_are_seen(given: int, seen: list[int]) -> None:
    network = model(vision=vision())
    pixels = RNG.integers(0, 256, (16, 32, given)).astype(np.uint8)
    found, expected = (network.embedding.encode_patches(batch(document(Image(image))))
                       for image in (pixels, pixels[..., seen]))
    torch.testing.assert_close(found, expected)


def test_an_image_that_is_cut_off_is_no_error() -> None:
    network = model(vision=vision())
    whole = document(Special("end"), Image(TALL), Special("end"))                # three rows of two patches
    for start, stop in ((0, 5), (0, 2), (3, 8), (2, 4)):
        piece = whole[start:stop]
        assert network.embedding(batch(piece)).isfinite().all()


def test_patches_that_do_not_divide_the_streams_are_refused() -> None:
    encoder = VisionEncoder(VisionEncoderConfig(**SMALL, image_size=36, patch_size=12))
    with pytest.raises(ValueError, match="embedding.vision: somewhere has patches of 12 pixels, which do not divide .* 16"):
        model(vision=encoder)


# ---- audio

@pytest.mark.parametrize("rate", [16_000, 8000])
def test_an_encoder_hears_whole_sounds_whatever_stands_beside_them(rate: int) -> None:
    encoder = speech(rate)
    network = model(audio=encoder)
    tokens = batch(document(Sound(LONG), Sound(SHORT)),
                   document(Special("end"), Sound(SHORT), Text("a dog", True), Sound(LONG)))
    found = network.embedding.embed_sounds(tokens)
    front_end, moments = network.embedding.front_end("audio"), network.embedding.moments
    assert moments is not None
    expected = []
    for sound in (LONG, SHORT, SHORT, LONG):
        wave = torch.from_numpy(decode_sound(encode_sound(sound)[0]))[None]
        if rate == 8000:
            wave = torch.nn.functional.interpolate(wave[:, None, None], (1, wave.shape[1] // 2), mode="bicubic",
                                                   antialias=True)[:, 0, 0]
        count = -(-len(sound) // 640)
        with torch.no_grad():
            hidden = encoder(standardize(wave)).hidden[0]
        assert len(hidden) == 2 * count * rate // 16_000
        expected += [*front_end.project(hidden.unflatten(0, (count, -1)).flatten(1)) + moments.weight[:count]]
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-4, rtol=2e-4)


def test_wav2vecs_own_strides_fit_and_others_are_refused() -> None:
    usual = speech(kernels=(10, 3, 3, 3, 3, 2, 2), strides=(5, 2, 2, 2, 2, 2, 2))     # 20 ms a vector, which sees 25 ms
    assert model(audio=usual).embedding(batch(document(Sound(LONG)))).isfinite().all()
    with pytest.raises(ValueError, match="a vector of 210 samples at 16000 Hz, which does not divide a token's 40 ms"):
        model(audio=speech(kernels=(30, 7), strides=(30, 7)))


def test_a_model_without_ears_says_so() -> None:
    with pytest.raises(ValueError, match="a sound in the stream, and this model was trained without any"):
        model().embedding(batch(document(Sound(SHORT))))


# ---- text

def test_words_that_are_read_are_told_and_words_that_are_written_are_not() -> None:
    network = model(text=reading())
    plain = model()
    plain.load_state_dict(network.state_dict(), strict=False)
    question = WORDS.encode("open the door")
    row = document(Special("user"), Text("open the door", False), Special("end"), Text("a dog", True))
    added = (network.embedding(batch(row)) - plain.embedding(batch(row)))[0]
    spoken = torch.zeros(len(row), dtype=torch.bool)
    spoken[1:1 + len(question)] = True
    front_end = network.embedding.front_end("text")
    expected = front_end.project(front_end.encoder(torch.from_numpy(question)[None].long() + 1).hidden[0])
    torch.testing.assert_close(added[spoken], expected, atol=1e-5, rtol=1e-5)
    assert not added[~spoken].any()


def test_long_texts_are_read_in_pieces_and_rows_do_not_mix() -> None:
    network = model(text=reading())
    long = document(Text("open the door go to the red ball open the door open the door", False))
    assert len(long) > 12
    together = network.embedding(batch(long, document(Text("a dog", False)), long))
    torch.testing.assert_close(together[2, :len(long)], network.embedding(batch(long))[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[0, :12], network.embedding(batch(long[:12]))[0], atol=1e-5, rtol=1e-5)


def test_observed_words_must_not_be_targets() -> None:
    network = model(text=reading())
    tokens = batch(document(Text("open the door", True)))
    observed = replace(tokens, position=torch.zeros_like(tokens.position))
    with pytest.raises(ValueError, match="which are targets in this run; set data.observation_text_loss=false"):
        network.embedding(observed)
    acted = replace(tokens, position=torch.full_like(tokens.position, ACTION))
    network.embedding(acted)


# ---- in the agent

def test_frozen_encoders_stay_and_trained_ones_learn() -> None:
    row = batch(document(Image(WIDE), Sound(SHORT), Text("a dog", False)))
    for freeze in (True, False):
        network = model(freeze, vision=vision(), audio=speech(), text=reading()).train()
        assert network.embedding.front_end("vision").encoder.training is not freeze
        network.embedding(row).square().sum().backward()
        for name in network.embedding.front_ends:
            front_end = network.embedding.front_end(name)
            learning = [p.grad is not None and bool(p.grad.any()) for p in front_end.encoder.parameters()]
            assert any(learning) is not freeze, name
            assert front_end.project.weight.grad is not None and front_end.project.weight.grad.any()


@every_backbone
def test_reading_in_pieces_equals_one_pass(backbone: BackboneConfig) -> None:
    """Also where a piece would end inside an image: what an encoder looks at is never cut."""
    network = model(backbone=backbone, vision=vision(), audio=speech())
    rows = [document(Text("go to the red ball " * 12, False), Image(np.tile(TALL, (8, 6, 1))), Sound(np.tile(LONG, 10)),
                     Text("a dog", True)) for _ in range(2)]
    assert len(rows[0]) > 300
    with torch.no_grad():
        expected = network(batch(*rows))[:, -1]
    torch.testing.assert_close(read(network, rows, VOCABULARY.pad).last, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def encoders(tmp_path: Path) -> dict[str, Path]:
    """Runs of encoders, as `calico pretrain` leaves them."""
    made = {}
    for name, encoder in (("vision", vision()), ("audio", speech()), ("text", reading())):
        made[name] = tmp_path / name
        files = {TOKENIZER_FILE: WORDS.to_bytes()} if name == "text" else {}
        tensors = {"model": {f"encoder.{key}": value for key, value in encoder.state_dict().items()}}
        checkpoint.save(made[name], 1, tensors=tensors, documents={"encoder": encoder_document(encoder)}, files=files)
    return made


def test_a_checkpoint_holds_its_encoders(tmp_path: Path, encoders: dict[str, Path]) -> None:
    wanted = {name: FrontEndConfig(encoder=str(folder)) for name, folder in encoders.items()}
    config = ModelConfig(embedding=EmbeddingConfig(patch_channels=4, **wanted),   # type: ignore[arg-type]
                         backbone=DecoderConfig(width=24, depth=1, heads=2))
    agent = Agent.build(config, VOCABULARY, WORDS, {})
    for name, encoder in (("vision", vision()), ("audio", speech()), ("text", reading())):   # not initialised anew
        theirs = agent.model.embedding.front_end(name).encoder.state_dict()
        assert all(torch.equal(theirs[key], value) for key, value in encoder.state_dict().items())
    checkpoint.save(tmp_path / "run", 1, tensors={"model": agent.model.state_dict()}, documents=agent.documents(),
                    files=agent.files())
    for folder in encoders.values():
        shutil.rmtree(folder)
    again = Agent.load(tmp_path / "run")
    assert again.model.config == agent.model.config
    row = batch(document(Image(WIDE), Sound(SHORT), Text("a dog", False)))
    torch.testing.assert_close(again.model(row), agent.model.eval()(row))
    assert json.dumps(agent.documents())


def test_wrong_encoders_are_named(encoders: dict[str, Path], tmp_path: Path) -> None:
    def build(pieces: TextTokenizer = WORDS, **folders: Path) -> None:
        wanted = {name: FrontEndConfig(encoder=str(folder)) for name, folder in folders.items()}
        Agent.build(ModelConfig(embedding=EmbeddingConfig(**wanted)), VOCABULARY, pieces, {})   # type: ignore[arg-type]

    with pytest.raises(ValueError, match="holds a speech encoder, vision was asked for"):
        build(vision=encoders["audio"])
    with pytest.raises(ValueError, match="nowhere"):
        build(audio=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="embedding.text: .* was pre-trained with other text pieces than this run's"):
        build(TextTokenizer.train(["quite other words"], 270), text=encoders["text"])
