"""Tokens for people: nothing is lost, with and without colours, and foreign text can not steer the terminal."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from calico.scripts.common.inspecting import inspect_target
from calico.scripts.common.token_view import Inspected, render, token_rows
from calico.scripts.main import main
from calico.tokenizers.document import Image, encode_document
from calico.tokenizers.vocabulary import Vocabulary

from ...tones import write_tones


def page(target: str, width: int = 100, colour: bool = True, table: bool = False, **options: object) -> str:
    """What would be printed, without escape codes."""
    shown = inspect_target(target, **options)   # type: ignore[arg-type]
    console = Console(file=io.StringIO(), record=True, width=width, force_terminal=colour, highlight=False)
    console.print(render(shown, width, colour, table))
    return console.export_text()


def test_the_page_shows_every_token_and_fits_100_columns() -> None:
    text = page("BabyAI-GoToLocal-v0", steps=2)
    rows = token_rows(inspect_target("BabyAI-GoToLocal-v0", steps=2))
    assert max(map(len, text.splitlines())) <= 100
    for row in rows:
        if row["kind"] != "patch":
            assert str(row["id"]) in text
    assert "step 0" in text and "step 1" in text and "target of the loss: 12 of" not in text.split("step 0")[0]
    assert "▀" in text   # the pictures


def test_pictures_are_drawn_patch_by_patch() -> None:
    lines = [line for line in page("ALE/Pong-v5", steps=1).splitlines() if "▀" in line]
    assert len(lines) == 4 * 8 // 2                       # four rows of patches, eight pixels each, two per character
    assert all(line.count("▀") == 4 * 8 for line in lines)


def test_sounds_are_drawn_as_bars(tmp_path: Path) -> None:
    pytest.importorskip("av")
    manifest = write_tones(tmp_path, {"low": 200.0}, seconds=4.0)
    lines = [line for line in page(str(manifest), width=60).splitlines() if "█" in line]   # a sine is 3 dB below the loudest
    assert sum(line.count("█") for line in lines) == 100 and max(map(len, lines)) <= 60
    assert "sound  100 (id" in page(str(manifest)) and "audio/" in page(str(manifest), colour=False)
    assert token_rows(inspect_target(str(manifest)))[2]["meaning"] == "audio 0.04-0.08 s"


def test_without_colours_everything_is_in_the_words() -> None:
    text = page("CartPole-v1", colour=False, steps=1)
    (line,) = [line for line in text.splitlines() if line.startswith("step 0 r 1 ")]
    assert "separator/4096" in line and line.split()[-1].startswith("*")   # the action is a target


def test_labels_stand_beside_the_actions_that_replaced_them(tmp_path: Path) -> None:
    assert main(["collect", "CartPole-v1", "--episodes", "1", "--noise", "0.5", "--workers", "0", "--out", str(tmp_path)]) == 0
    data = str(tmp_path / "CartPole-v1")
    shown = inspect_target(data, steps=30)
    labels = shown.tokens.labels.tolist()
    replaced = [row for row in token_rows(shown) if "label" in row]
    assert replaced and all(row["position"] == "action" and row["label"] == labels[row["place"]] for row in replaced)
    assert {row["meaning"] for row in replaced} <= {"0→1", "1→0"}
    for colour in (False, True):
        text = page(data, colour=colour, steps=30)
        assert all(f"{row['id']}→{row['label']}" in text for row in replaced)
        assert f"{len(replaced)} of them a→b: a was done, b is asked for" in " ".join(text.split())


def test_table_lists_each_field() -> None:
    text = page("CartPole-v1", steps=1, table=True)
    for name in ("place", "id", "kind", "meaning", "position", "timestep", "segment", "loss", "●"):
        assert name in text


def test_names_from_files_can_not_steer_the_terminal(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a\x1b[31mb\u202e"}]
    path = tmp_path / "\x1b[2Jd.jsonl"
    path.write_text(json.dumps({"messages": messages}) + "\n")
    text = page(str(path), table=True)
    assert "\x1b" not in text and "\u202e" not in text and r"\x1b[2Jd.jsonl" in text


@pytest.mark.parametrize("shape, patch_rows, columns", [
    ((64, 64, 3), 4, 4),      # a pixel of the page is 2 x 2 of the picture
    ((16, 160, 1), 1, 10),    # grey; ten patches of eight columns would not fit 91
    ((20, 500, 3), 2, 32),    # too wide at any size: lines of patches are wrapped, none is lost
])
def test_every_patch_of_a_picture_is_drawn(shape: tuple[int, int, int], patch_rows: int, columns: int) -> None:
    vocabulary = Vocabulary()
    tokens = encode_document([Image(np.full(shape, 200, np.uint8))], vocabulary, None)
    assert len(tokens) == patch_rows * columns
    shown = Inspected(title="picture", details=[], tokens=tokens, vocabulary=vocabulary, text=None)
    console = Console(file=io.StringIO(), record=True, width=100, force_terminal=True, highlight=False)
    console.print(render(shown, 100, True, False))
    lines = [line for line in console.export_text().splitlines() if "▀" in line]
    assert max(map(len, lines)) <= 100
    blocks = sum(line.count("▀") for line in lines)
    assert blocks in {len(tokens) * side * side // 2 for side in (8, 4, 2)}
