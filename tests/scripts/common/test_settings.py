"""Settings of a run: a size and a kind of backbone give the defaults, the file and the command line change them."""

from pathlib import Path

import pytest

from calico.agent.backbones import KINDS
from calico.agent.backbones.decoder import DecoderConfig
from calico.agent.backbones.masked_encoder import MaskedEncoderConfig
from calico.agent.backbones.perceiver import PerceiverConfig
from calico.agent.backbones.perceiver_ar import PerceiverARConfig
from calico.agent.model import SIZES, named_size
from calico.scripts.common.config import config_from_json, config_to_json
from calico.scripts.common.settings import RunSettings, load_settings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [*SIZES, "demo"])
def test_the_shipped_sizes_and_the_demo_train_every_kind(config: str, kind: str) -> None:
    settings = load_settings(config, [f"backbone={kind}"])
    assert settings.backbone.kind == kind
    assert settings.backbone.width == named_size(settings.size).backbone.width
    assert config_from_json(RunSettings, config_to_json(settings)) == settings      # what a checkpoint keeps


def test_sizes_are_starting_points() -> None:
    small = SIZES["small"].backbone
    assert load_settings(None, ["size=small"]).backbone == small
    assert load_settings(None, ["size=small", "backbone=perceiver"]).backbone == PerceiverConfig(
        width=small.width, depth=small.depth, heads=small.heads, latents=32)


def test_the_kind_may_stand_in_the_file_or_on_the_command_line_in_short_or_in_full(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    for text, overrides in (("backbone: perceiver-ar", []), ("backbone: {kind: perceiver-ar}", []),
                            ("", ["backbone=perceiver-ar"]), ("", ["backbone.kind=perceiver-ar"]),
                            ("", ["backbone={kind: perceiver-ar}"]), ("backbone: data2vec", ["backbone=perceiver-ar"])):
        file.write_text(text)
        chosen = load_settings(file, [*overrides, "backbone.context=2048"]).backbone
        assert chosen == PerceiverARConfig(context=2048, window=256)                 # the size's window, not the class's
    file.write_text("backbone: {latents: 5}")
    assert load_settings(file, ["backbone=perceiver", "backbone.depth=2"]).backbone == PerceiverConfig(latents=5, depth=2)
    file.write_text("backbone: {kind: data2vec, window: 64}")
    assert load_settings(file, []).backbone == MaskedEncoderConfig(window=64)
    file.write_text("backbone: {context: 64}")
    assert load_settings(file, []).backbone == DecoderConfig(context=64, heads=4, segments=True)


@pytest.mark.parametrize("overrides, says", [
    (["backbone=percever"], "backbone 'percever' is unknown; choose one of decoder, perceiver, perceiver-ar, data2vec"),
    (["backbone=7"], "backbone must be one of decoder, perceiver, perceiver-ar, data2vec, or a mapping of its keys, not 7"),
    (["backbone.latents=5"], "unknown key backbone.latents of kind decoder; there are: backbone.kind, backbone.width"),
    (["backbone=perceiver", "backbone.latnets=5"], "backbone.latnets of kind perceiver; did you mean backbone.latents?"),
    (["backbone=perceiver", "backbone.latents=0"], "backbone.latents=0 must be at least 1"),
    (["backbone=data2vec", "backbone.prefixes=0"], "backbone.prefixes=0 must be at least 1"),
    (["backbone=perceiver-ar", "backbone.window=0"], "backbone.window=0 must be at least 1"),
])
def test_wrong_backbones_are_one_line(overrides: list[str], says: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_settings(None, overrides)
    assert says in str(caught.value) and "\n" not in str(caught.value)
