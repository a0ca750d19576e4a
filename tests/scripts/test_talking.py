"""`calico caption`, `calico vqa`, `calico chat`: what is printed is what the network writes; odd pictures are one line."""

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calico.agent.agent import Agent
from calico.agent.talk import Speaker, user_message
from calico.datasets.images import MAX_PIXELS
from calico.scripts.caption import read_picture
from calico.scripts.console import printable
from calico.scripts.main import main

from ..conftest import SmallRun

Refused = Callable[..., str]
Answered = Callable[..., Any]


@pytest.fixture(scope="module")
def speaker(small_run: SmallRun) -> Speaker:
    return Speaker(Agent.load(small_run.run))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures of different sizes and formats."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "room.png", tmp_path / "wide.jpg"]
    for path, (height, width) in zip(paths, ((64, 64), (90, 200)), strict=True):
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)
    return paths


# ---- caption


def test_captions_are_what_the_speaker_says(small_run: SmallRun, speaker: Speaker, pictures: list[Path],
                                            answered: Answered, capsys: pytest.CaptureFixture[str]) -> None:
    said = answered("caption", small_run.run, *pictures)
    expected = speaker.captions([read_picture(path) for path in pictures])
    assert said == [{"image": str(path), "caption": text} for path, text in zip(pictures, expected, strict=True)]
    assert any(expected)
    assert main(["caption", str(small_run.run), *map(str, pictures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"{path}: ") for line, path in zip(lines, pictures, strict=True))


def test_large_pictures_are_reduced(pictures: list[Path]) -> None:
    assert read_picture(pictures[1]).shape == (29, 64, 3)
    assert read_picture(pictures[1], 20).shape == (9, 20, 3)
    assert read_picture(pictures[1], 1000).shape == (90, 200, 3)


def test_sampled_captions_depend_on_the_seed(small_run: SmallRun, pictures: list[Path], answered: Answered) -> None:
    words = ("caption", small_run.run, pictures[0], "--temperature", 2, "--seed")
    one, same, other = (answered(*words, seed) for seed in (1, 1, 2))
    assert one == same != other


def bomb(path: Path, side: int) -> Path:
    """A PNG of a few kilobytes that claims side x side pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side + 1) * 64)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:700])
    return path


@pytest.mark.parametrize("verb, more", [("caption", []), ("vqa", ["what is it?"])])
def test_a_picture_that_is_none_is_one_line(small_run: SmallRun, pictures: list[Path], tmp_path: Path, refused: Refused,
                                            verb: str, more: list[str]) -> None:
    text = tmp_path / "text.png"
    text.write_text("this is no picture")
    side = int(MAX_PIXELS**0.5) + 1
    for path, says in ((text, "not a readable PNG, JPEG or WEBP image"),
                       (cut(pictures[0]), "not a readable PNG"),
                       (bomb(tmp_path / "bomb.png", side), f"{side} x {side} pixels, the limit is {MAX_PIXELS}"),
                       (tmp_path / "nothing.png", "is not a file; give a PNG, JPEG or WebP image"),
                       (tmp_path, "is not a file; give a PNG")):
        said = refused(verb, small_run.run, path, *more)
        assert str(path) in said and says in said


@pytest.mark.parametrize("words, says", [
    (["--max-side", 0], "--max-side 0 must be at least 1"),
    (["--temperature", "-1"], "temperature=-1"),
    (["--device", "abacus"], "device 'abacus' cannot be used here"),
])
def test_wrong_options_of_caption(small_run: SmallRun, pictures: list[Path], refused: Refused, words: list[object],
                                  says: str) -> None:
    assert says in refused("caption", small_run.run, *pictures, *words)


def test_a_run_that_is_not_there(tmp_path: Path, pictures: list[Path], refused: Refused) -> None:
    assert "nowhere does not exist" in refused("caption", tmp_path / "nowhere", *pictures)
    assert "nowhere does not exist" in refused("vqa", tmp_path / "nowhere", pictures[0], "what?")
    assert "nowhere does not exist" in refused("chat", tmp_path / "nowhere", "--message", "hello")


# ---- vqa


def test_an_answer_is_the_speakers(small_run: SmallRun, speaker: Speaker, pictures: list[Path], answered: Answered,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    said = answered("vqa", small_run.run, pictures[0], "what do you see?")
    (expected,) = speaker.answers([read_picture(pictures[0])], ["what do you see?"])
    assert said == {"image": str(pictures[0]), "question": "what do you see?", "answer": expected}
    assert main(["vqa", str(small_run.run), str(pictures[0]), "what do you see?"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(small_run: SmallRun, pictures: list[Path], refused: Refused, question: str) -> None:
    assert "the question is empty; ask something" in refused("vqa", small_run.run, pictures[0], question)


def test_a_question_that_is_no_text_is_refused(small_run: SmallRun, pictures: list[Path], refused: Refused) -> None:
    """Bytes of the command line that are not UTF-8 come as lone surrogates."""
    assert "holds the surrogate U+DCFF" in refused("vqa", small_run.run, pictures[0], "what \udcff?")


# ---- chat


def test_one_message_one_reply(small_run: SmallRun, pictures: list[Path], answered: Answered) -> None:
    speaker = Speaker(Agent.load(small_run.run), max_tokens=128)
    said = answered("chat", small_run.run, "--message", "who are you?")
    assert said == {"message": "who are you?", "reply": speaker.replies([[user_message(None, "who are you?")]])[0]}
    shown = answered("chat", small_run.run, "--message", "what do you see?", "--image", pictures[0])
    picture = read_picture(pictures[0])
    assert shown["reply"] == speaker.replies([[user_message(picture, "what do you see?")]])[0]


def talk(monkeypatch: pytest.MonkeyPatch, run: Path, *lines: str) -> int:
    """A conversation at the terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(["chat", str(run)])


def test_a_conversation_remembers_shows_and_forgets(small_run: SmallRun, pictures: list[Path], monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    speaker = Speaker(Agent.load(small_run.run), max_tokens=128)
    lines = ("hello", "", "what was that?", f"/image {pictures[0]}", "what do you see?", "/reset", "hello", "/quit", "not said")
    assert talk(monkeypatch, small_run.run, *lines) == 0
    out = capsys.readouterr().out
    messages: list[dict[str, Any]] = []
    for line, picture in (("hello", None), ("what was that?", None), ("what do you see?", read_picture(pictures[0]))):
        messages.append(user_message(picture, line))
        messages.append({"role": "assistant", "content": speaker.replies([messages])[0]})
    replies = [str(message["content"]) for message in messages if message["role"] == "assistant"]
    streamed = [part.split("\nyou> ")[0].split("\n(")[0].rstrip("\n") for part in out.split("calico> ")[1:]]
    assert streamed == [printable(reply) for reply in (*replies, replies[0])]
    assert "(64x64 pixels go with your next message)" in out and "(forgotten)" in out


def test_what_can_not_be_shown_or_said_does_not_end_a_conversation(
        small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk(monkeypatch, small_run.run, f"/image {tmp_path / 'nothing.png'}", "half \ud800 of it", "hello") == 0   # Ctrl-D
    out = capsys.readouterr().out
    assert "nothing.png is not a file; give a PNG, JPEG or WebP image)" in out and "holds the surrogate U+D800" in out
    assert out.count("calico> ") == 2


@pytest.mark.parametrize("words, says", [
    (["--json"], "--json prints the reply to one --message"),
    (["--message", " "], "--message is empty"),
    (["--message", "hello", "--image", "nothing.png"], "nothing.png is not a file"),
    (["--message", "hello", "--temperature", "-1"], "temperature=-1"),
    (["--mesage", "hello"], "did you mean --message?"),
])
def test_wrong_words_of_chat(small_run: SmallRun, refused: Refused, words: list[str], says: str) -> None:
    assert says in refused("chat", small_run.run, *words)
