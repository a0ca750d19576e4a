"""`calico pretrain` and `calico finetune` under torchrun: the losses of one process, one writer, and refusals."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calico.agent import checkpoint
from calico.agent.data2vec.objective import between_fraction, normalize, std_over_rows
from calico.agent.training.batch_part import ROWS, Span, dropout, part_of_batch, rand, randn_like
from calico.agent.training.ranks import joined_ranks
from calico.scripts.common.local_ranks import on_local_ranks
from calico.scripts.main import main

from .test_pretrain import RHYTHM, curves, data, words  # noqa: F401  (data: a fixture)

# Batches that two ranks cannot halve; every kind of chance, and statistics over the batch.
CONFIGS = {
    "vision": """
modality: vision
vision: {width: 16, depth: 2, heads: 2, feedforward: 24, image_size: 16, patch_size: 4, layer_scale: 0.0, dropout: 0.1,
         drop_path: 0.2, absolute_positions: true, relative_positions: none}
data: {batch_size: 5}
objective: {copies: 2, top_layers: 2, mean_norm: place, tau_start: 0.9,
            decoder: {axes: 2, channels: 16, depth: 1, kernel: 3, groups: 4}}
""",
    "speech": """
modality: speech
speech: {width: 16, depth: 2, heads: 2, feedforward: 24, sample_rate: 1000, conv_channels: [8, 8], conv_kernels: [10, 3],
         conv_strides: [5, 2], position_layers: 1, position_groups: 2}
data: {batch_size: 5, seconds: 0.5}
objective: {copies: 2, top_layers: 2, mean_norm: place, tau_start: 0.9, decoder: {channels: 16, depth: 1, kernel: 3, groups: 4}}
""",
    "text": """
modality: text
version: 1
text: {width: 16, depth: 2, heads: 2, feedforward: 24, max_length: 12}
data: {batch_size: 5, pieces: 300}
objective: {top_layers: 2, layer_norm: layer, mean_norm: place, tau_start: 0.9}
""",
}


def on_ranks(size: int, *arguments: object) -> list[Any]:
    """Exit codes of a command on `size` ranks; 0 is None."""
    def rank() -> None:
        if code := main(list(map(str, arguments))):
            raise SystemExit(code)

    return on_local_ranks(size, rank)


@pytest.mark.parametrize("modality", [
    "vision", pytest.param("speech", marks=pytest.mark.skipif(find_spec("av") is None, reason="PyAV decodes sounds")), "text"])
def test_two_ranks_pretrain_as_one_process_does(modality: str, data: dict[str, Path], tmp_path: Path,  # noqa: F811
                                                capfd: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS[modality] + RHYTHM + "\n"
    fp32 = "training.precision=fp32"
    assert main(words(modality, data[modality], tmp_path / "one", fp32, config=config)) == 0
    capfd.readouterr()
    command = words(modality, data[modality], tmp_path / "two", fp32, config=config)
    assert on_ranks(2, *command) == [None, None]
    assert capfd.readouterr().err.count("wrote ") == 1
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two")
    assert len(one["loss/train"]) == 4 and one.keys() == two.keys()
    for name in ("loss/train", "train/targets", "train/target_variance", "train/prediction_variance", "train/feature_variance",
                 "train/content_share", "optimizer/gradient_norm"):
        tolerance = 1e-5 if name in ("loss/train", "train/targets") else 1e-3      # of fp32 sums in another order
        np.testing.assert_allclose([value for _, value in two[name]], [value for _, value in one[name]], rtol=tolerance,
                                   err_msg=name)
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert checkpoint.load(tmp_path / "two").step == 4
    # What two ranks began one process continues.
    assert main([*command, "training.steps=5"]) == 0 and checkpoint.load(tmp_path / "two").step == 5


def test_two_ranks_finetune_as_one_process_does(data: dict[str, Path], tmp_path: Path,  # noqa: F811
                                                capfd: pytest.CaptureFixture[str]) -> None:
    pretrained = tmp_path / "pretrained"
    assert main(words("vision", data["vision"], pretrained, config=CONFIGS["vision"] + RHYTHM)) == 0
    command = ["finetune", str(pretrained), str(data["vision"]), "training.steps=4", "training.log_every=1", "batch_size=5",
               "training.precision=fp32", "--json"]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    capfd.readouterr()
    assert on_ranks(2, *command, "--out", tmp_path / "two") == [None, None]
    report = json.loads(capfd.readouterr().out)                     # one document, of one rank
    for name in ("loss/train", "train/accuracy"):
        one, two = ([value for _, value in curves(tmp_path / run)[name]] for run in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-5)
    alone = json.loads((tmp_path / "one" / "held_out.json").read_text())
    assert report["steps"] == 4 and report["accuracy"] == alone["accuracy"]
    weights = [load_file(checkpoint.find(tmp_path / run) / "model.safetensors") for run in ("one", "two")]
    assert all(torch.allclose(tensor, weights[1][name], atol=1e-4) for name, tensor in weights[0].items())


@pytest.mark.parametrize("command, said", [
    (["pretrain", "CONFIG", "data.batch_size=1"], "data.batch_size=1 rows cannot be shared by 2 ranks; raise it to at least 2"),
    (["pretrain", "CONFIG", "training.shard=fsdp"], "training.shard=fsdp works with the backbone decoder, not Data2Vec"),
    (["improve", "calico-small", "CartPole-v1"], "calico improve works in one process; start it without torchrun"),
    (["fewshot", "calico-small", "CartPole-v1"], "calico fewshot works in one process; start it without torchrun"),
    (["demo"], "calico demo works in one process; start it without torchrun"),
], ids=["rows", "fsdp", "improve", "fewshot", "demo"])
def test_what_ranks_cannot_do_is_said_in_a_line(command: list[str], said: str, data: dict[str, Path],  # noqa: F811
                                               tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if command[0] == "pretrain":
        command = [*words("vision", data["vision"], tmp_path / "run", config=CONFIGS["vision"] + RHYTHM), *command[2:]]
    else:
        command = [*command, *(["--out", str(tmp_path / "run")] if command[0] != "demo" else [f"out={tmp_path / 'run'}"])]
    assert on_ranks(2, *command) == [2, 2]
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("calico ") and "rank 0" in line]
    assert len(errors) == 1 and said in errors[0], errors
    assert not (tmp_path / "run").exists()


def test_ranks_with_other_pictures_are_refused(data: dict[str, Path], tmp_path: Path,  # noqa: F811
                                               capfd: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS["vision"] + RHYTHM

    def other_data() -> None:
        os.chdir(data["vision"] if os.environ["RANK"] == "0" else data["vision"] / "dark")
        raise SystemExit(main(words("vision", Path("."), tmp_path / "run", config=config)))

    assert on_local_ranks(2, other_data) == [2, 2]
    assert "rank 1 has other data than rank 0: fingerprint is " in capfd.readouterr().err


# ---- the parts

def test_what_is_drawn_for_copies_of_a_part_are_the_rows_of_what_is_drawn_for_all() -> None:
    """Rows 2 and 3 of five, three copies each."""
    whole, part, mine = torch.ones(15, 4), torch.ones(6, 4), slice(6, 12)
    for draw in (lambda x: rand(x.shape, x.device, of=ROWS), randn_like, lambda x: dropout(x, 0.5, True)):
        torch.manual_seed(0)
        expected = draw(whole)[mine]
        torch.manual_seed(0)
        with part_of_batch({ROWS: Span(2, 2, 5)}):
            found = draw(part)
        assert torch.equal(found, expected) and len(set(found.flatten().tolist())) > 1


def test_statistics_over_the_batch_count_the_rows_of_all_ranks() -> None:
    torch.manual_seed(0)
    x, real = torch.randn(5, 6, 4), torch.arange(6)[None] < torch.tensor([6, 5, 4, 6, 3])[:, None]

    def figures(x: torch.Tensor, real: torch.Tensor) -> list[Any]:
        return [std_over_rows(x.flatten(0, 1)), between_fraction(x, real), normalize(x, "place", real).flatten().tolist()]

    expected = figures(x, real)

    def statistics() -> Any:
        with joined_ranks("cpu") as ranks:
            mine = ranks.rows(5)
            with part_of_batch({ROWS: Span(mine.start, mine.stop - mine.start, 5)}):
                return figures(x[mine], real[mine])

    one, two = on_local_ranks(2, statistics)
    assert one[:2] == two[:2] == pytest.approx(expected[:2], rel=1e-5)
    np.testing.assert_allclose([*one[2], *two[2]], expected[2], rtol=1e-4, atol=1e-5)
