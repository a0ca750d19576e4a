"""The tabs Talk, See and Tokens: what they show, and files that are none."""

import re
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.envs import scenes
from calico.scripts.web import see, talk, tokens
from calico.scripts.web.desk import Desk, streamed
from calico.tokenizers.tokens import Kind


def no_remark(said: str) -> None:
    raise AssertionError(said)


def test_a_reply_grows_and_is_that_of_the_python_api(desk: Desk) -> None:
    grown = list(talk.replies(desk, "who are you?", [], [], 0.0, no_remark))
    assert len(grown) > 3 and all(grown[-1].startswith(part) for part in grown)
    assert grown[-1] == desk.agent.chat("who are you?")


def test_a_history_of_the_page_is_one_of_the_chat(desk: Desk, tmp_path: Path) -> None:
    picture = talk.example_picture(tmp_path)
    history = [{"role": "user", "content": [{"type": "file", "file": {"path": picture}}]},
               {"role": "user", "content": [{"type": "text", "text": "what do you see?"}]},
               {"role": "assistant", "content": [{"type": "text", "text": "a ball"}]}]
    shown = {"type": "image", "image": picture}
    assert talk.history_messages(history) == [
        {"role": "user", "content": [shown, {"type": "text", "text": "what do you see?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a ball"}]}]
    assert list(talk.replies(desk, "and what else?", [], history, 0.0, no_remark))[-1]


def test_what_a_long_chat_leaves_out_is_told(desk: Desk) -> None:
    history = [{"role": role, "content": "what do you see? " * 8} for _ in range(20) for role in ("user", "assistant")]
    remarks: list[str] = []
    list(talk.replies(desk, "hello", [], history, 0.0, remarks.append))
    assert len(remarks) == 1 and "oldest turn" in remarks[0] and "left out" in remarks[0]


def test_a_reader_that_leaves_ends_the_reply_and_frees_the_network() -> None:
    lock, ended = threading.Lock(), threading.Event()

    def work(show: Callable[[str], None]) -> str:
        try:
            for number in range(10**9):
                show(str(number))
        finally:
            ended.set()
        return ""

    reading = streamed(work, lock)
    assert next(reading) == "0"
    reading.close()
    assert ended.wait(20) and lock.acquire(timeout=20)


def test_files_that_are_no_pictures_are_told_in_one_sentence(desk: Desk, tmp_path: Path) -> None:
    words = tmp_path / "words.png"
    words.write_text("no picture")
    for look in (lambda: see.describe(desk, str(words)), lambda: see.answer(desk, str(words), "what?"),
                 lambda: list(talk.replies(desk, "what?", [str(words)], [], 0.0, no_remark)),
                 lambda: tokens.of_words(desk, "what?", str(words))):
        with pytest.raises(ValueError, match=r"words\.png: not a readable image.*it is no image"):
            look()


def test_a_picture_of_sixty_thousand_pixels_is_refused_or_shrunk(desk: Desk, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)      # a page that was built before sets Pillow's own limit
    wide, huge = tmp_path / "wide.png", tmp_path / "huge.png"
    Image.new("L", (60_000, 8)).save(wide)
    Image.new("1", (60_000, 600)).save(huge)
    assert isinstance(see.describe(desk, str(wide)), str)
    with pytest.raises(ValueError, match="60000 x 600 pixels, the limit is"):
        see.describe(desk, str(huge))


@pytest.mark.parametrize("look, says", [
    (lambda desk: see.describe(desk, None), "there is no picture yet"),
    (lambda desk: see.answer(desk, None, " "), "ask something"),
    (lambda desk: list(talk.replies(desk, " ", [], [], 0.0, no_remark)), "say something first"),
    (lambda desk: list(talk.replies(desk, "", ["a.png"], [], 0.0, no_remark)), "say something about the picture"),
    (lambda desk: tokens.of_words(desk, " ", None), "write some words"),
])
def test_nothing_given(look: Callable[[Desk], object], says: str, desk: Desk) -> None:
    with pytest.raises(ValueError, match=says):
        look(desk)


def test_every_world_has_a_button_and_what_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(see.buttons()) == list(scenes.WORLDS) and set(see.WORDS) == set(scenes.WORLDS)
    monkeypatch.setattr(see, "missing_module", lambda family: "miniworld" if family == "miniworld" else None)
    found = see.buttons()
    assert found["miniworld"] == ("Draw a room in 3D (not installed)", False) and found["sokoban"] == ("Draw crates", True)
    monkeypatch.setitem(scenes.WORLDS, "ponds", scenes.WORLDS["minigrid"])
    monkeypatch.setitem(scenes.FAMILIES, "ponds", "minigrid")
    assert see.buttons()["ponds"] == ("Draw ponds", True)


def test_a_world_whose_process_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(*arguments: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(see.ProcessPoolExecutor, "submit", died)
    with pytest.raises(ValueError, match="the process that draws miniworld died"):
        see.draw("miniworld", 1)


@pytest.mark.parametrize("world", ["minigrid", "lander", "sokoban", *(pytest.param(world, marks=pytest.mark.slow) for world in (
    "freeway", "breakout", "miniworld"))])
def test_drawn_pictures_bring_questions_and_their_truth(world: str, desk: Desk) -> None:
    picture, facts = see.draw(world, see.FIRST_DRAWN)
    asked = see.offered(facts)
    assert picture.shape == (64, 64, 3) or picture.shape == (48, 48, 3)
    assert "what do you see?" in asked and 3 < len(asked) <= see.OFFERED and len(set(asked)) == len(asked)
    assert see.judged_caption("a dragon", facts).startswith("✗ the truth is: ")
    truth = see.judged_caption("a dragon", facts).removeprefix("✗ the truth is: ")
    assert see.judged_caption(truth, facts) == "✓ right" == see.judged_answer(truth, "what do you see?", facts)
    assert see.judged_answer("yes", "who made you?", facts) == "" == see.judged_caption("a dragon", [])


def test_tokens_are_cards_patches_and_marks(desk: Desk) -> None:
    shown = desk.agent.tokens("BabyAI-GoToLocal-v0", steps=2)
    page = tokens.tokens_html(shown)
    patches = int((shown.tokens.kind == Kind.PATCH).sum())
    assert page.count('alt="patch"') == patches > 0
    assert page.count('class="token"') == len(shown.tokens) - patches
    assert page.count('class="target"') == int(shown.tokens.loss_mask.sum())
    assert "step 0" in page and "step 1" in page and len(re.findall('class="step"', page)) == 2


def test_words_of_foreign_files_are_no_html(desk: Desk) -> None:
    page = tokens.tokens_html(tokens.of_words(desk, "<script>alert(1)</script>", None))
    assert "<script" not in page and "&lt;" in page


def test_a_message_shows_its_picture(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "room.png"
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(path)
    page = tokens.tokens_html(tokens.of_words(desk, "what is it?", str(path)))
    assert page.count('alt="patch"') == 6 and "--columns:3" in page
