"""`calico.load` and what its agent says and shows."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import calico
from calico.agent.agent import SHIPPED
from calico.agent.checkpoint import CheckpointError
from calico.envs.scenes import scenes
from calico.scripts.common.shipped import DEFAULT_RUN
from calico.scripts.main import main
from calico.tokenizers.tokens import Kind

from ...conftest import SmallRun


@pytest.fixture(scope="module")
def agent(small_run: SmallRun) -> calico.Agent:
    return calico.load(str(small_run.run))


@pytest.fixture(scope="module")
def room() -> np.ndarray:
    (scene,) = scenes("minigrid", [5])
    return scene.image


def test_it_says_what_it_is(agent: calico.Agent, small_run: SmallRun) -> None:
    assert agent.tasks == ["BabyAI-GoToLocal-v0", "CartPole-v1"]
    assert agent.path.parent.parent == small_run.run and "2 tasks" in repr(agent)


def test_a_picture_in_any_form_has_one_caption(agent: calico.Agent, room: np.ndarray, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(room).save(tmp_path / "room.png")
    caption = agent.caption(tmp_path / "room.png")
    assert caption == agent.caption(str(tmp_path / "room.png")) == agent.caption(room) == agent.caption(Image.fromarray(room))
    assert main(["caption", str(agent.path), str(tmp_path / "room.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'room.png'}: {caption}\n"
    assert agent.caption(room, temperature=3, seed=1) == agent.caption(room, temperature=3, seed=1)
    assert isinstance(agent.caption(np.zeros((300, 200), np.uint8)), str)     # grey and large


def test_pictures_that_are_none(agent: calico.Agent, tmp_path: Path) -> None:
    for shown, says in ((tmp_path / "no.png", "is not a file"), (np.zeros((4, 4)), r"picture or sound of float64 \(4, 4\)"),
                        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"), (np.zeros((0, 4, 3), np.uint8), "shape"),
                        (3, "of type int: give a file's name")):
        with pytest.raises(ValueError, match=says):
            agent.caption(shown)   # type: ignore[arg-type]


def test_it_chats_as_the_command_does(agent: calico.Agent, room: np.ndarray, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(agent.path), "--message", "hello"]) == 0
    reply = capsys.readouterr().out.removesuffix("\n")
    grown: list[str] = []
    assert agent.chat("hello") == agent.chat([{"role": "user", "content": "hello"}], on_text=grown.append) == reply
    assert not reply or grown[-1] == reply
    Image.fromarray(room).save(tmp_path / "room.png")
    assert main(["vqa", str(agent.path), str(tmp_path / "room.png"), "what do you see?"]) == 0
    assert capsys.readouterr().out.removesuffix("\n") == agent.answer(room, "what do you see?")
    shown = [{"type": "image", "image": str(tmp_path / "room.png")}, {"type": "text", "text": "what do you see?"}]
    talk: list[dict[str, Any]] = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": reply}]
    talk.append({"role": "user", "content": shown})
    assert isinstance(agent.chat(talk, max_tokens=5), str)
    with pytest.warns(UserWarning, match="oldest turn.* did not fit the model's window"):
        agent.chat([{"role": "user", "content": "hello " * 30}, {"role": "assistant", "content": "hi"}] * 3
                   + [{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("messages, says", [
    ([], "the last message must be the user's"), ("  ", "the last message must be the user's and say something"),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "the last message must be the user's"),
    ([{"role": "cat", "content": "a"}, {"role": "user", "content": "a"}], "message 0 must be .* got 'cat'"),
    ({"role": "user", "content": "a"}, "messages of type dict: give a text, or a list of"),
    (5, "messages of type int: give a text, or a list of"),
    ([{"role": "user"}, {"role": "user", "content": "a"}], "message 0 is"),
    ([{"role": "user", "content": [{"type": "image", "image": "nowhere.png"}]}], "nowhere.png is not a file"),
    ([{"role": "user", "content": [{"type": "film"}]}], "content is a string, or a list"),
])
def test_messages_of_another_form(agent: calico.Agent, messages: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        agent.chat(messages)   # type: ignore[arg-type]


def test_messages_of_openai_and_of_sharegpt_are_the_same(agent: calico.Agent, room: np.ndarray, tmp_path: Path) -> None:
    """Other names of the roles, and pictures under image_url, as the data may have them."""
    Image.fromarray(room).save(tmp_path / "room.png")
    asked = {"type": "text", "text": "what do you see?"}
    plain = agent.tokens([{"role": "user", "content": [{"type": "image", "image": room}, asked]}])
    address = {"type": "image_url", "image_url": {"url": str(tmp_path / "room.png")}}
    other = agent.tokens([{"role": "human", "content": [address, asked]}])
    assert other.words == plain.words and (other.tokens.ids == plain.tokens.ids).all()
    alone = agent.tokens(tmp_path / "room.png")          # a picture's file, as documented
    assert alone.words == agent.tokens(room).words


def test_tokens_are_what_the_command_shows(agent: calico.Agent, small_run: SmallRun, room: np.ndarray,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "CartPole-v1", "--run", str(agent.path)]) == 0
    printed = capsys.readouterr().out
    shown = agent.tokens("CartPole-v1")
    assert [line.rstrip() for line in str(shown).splitlines()] == [line.rstrip() for line in printed.splitlines()]
    assert len(shown.words) == len(shown.tokens) == len(shown.tokens.ids)
    assert agent.tokens(small_run.data / "CartPole-v1", index=1, steps=2).title == "CartPole-v1"
    assert (agent.tokens(room).tokens.kind == Kind.PATCH).sum() == np.ceil(np.array(room.shape[:2]) / 16).prod()
    words = agent.tokens([{"role": "user", "content": "hello"}]).words
    assert words[0] == "user" and words[-2:] == ["end", "assistant"] and "hello" in "".join(word.strip("'") for word in words)


def test_what_is_no_run(agent: calico.Agent, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        calico.load(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        calico.load(tmp_path / "runs")
    with pytest.raises(CheckpointError, match="Hugging Face Hub, 'nobody/nothing'"):
        calico.load("nobody/nothing@main")
    with pytest.raises(ValueError, match="cuda:7"):
        calico.load(agent.path, device="cuda:7")


@pytest.mark.skipif(DEFAULT_RUN in SHIPPED, reason="the weights are here")
def test_without_the_weights_that_come_with_calico(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="calico-small, .* is not in this installation; .*pip install.*runs/demo"):
        calico.load()
    assert main(["chat", "--message", "hello"]) == 2
    assert "is not in this installation" in capsys.readouterr().err


def test_a_run_that_never_saw_pictures_describes_none(small_run: SmallRun, room: np.ndarray, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "words.txt"
    texts.write_text("Some words to learn from.\n\n" * 20)
    talk = tmp_path / "talk.jsonl"
    talk.write_text('{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}\n' * 3)
    Image.fromarray(room).save(tmp_path / "room.png")
    for number, source in enumerate((small_run.data / "CartPole-v1", texts, talk)):
        run = tmp_path / str(number)
        words = ["train", str(small_run.config), f"data.sources=[{{path: {source}}}]", f"out={run}", "training.steps=1"]
        assert main(words) == 0
        with pytest.raises(ValueError, match="never saw a picture with words: it was trained on .*captioned pictures"):
            calico.load(run).caption(room)
        for verb in (["caption"], ["vqa"]):
            capsys.readouterr()
            assert main([*verb, str(run), str(tmp_path / "room.png"), *(["what is it?"] if verb == ["vqa"] else [])]) == 2
            assert "never saw a picture with words" in capsys.readouterr().err


START = """
import sys, time
began = time.perf_counter()
import calico
took = time.perf_counter() - began
print(took, sorted({"torch", "numpy", "gymnasium", "calico.agent"} & set(sys.modules)), calico.__version__)
"""


def test_importing_calico_loads_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    took, loaded = done.stdout.split(" ", 1)
    assert loaded.startswith("[] 0.") and float(took) < 0.05


def test_names_that_are_not_there() -> None:
    assert set(calico.__all__) <= set(dir(calico)) and all(hasattr(calico, name) for name in calico.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'laod'; there are: .*load"):
        getattr(calico, "laod")   # noqa: B009


def test_tasks_and_their_environments() -> None:
    assert "CartPole-v1" in [task.name for task in calico.tasks("classic")]
    env = calico.make("BabyAI-GoToLocal-v0", render_mode="rgb_array", **calico.tasks("minigrid")[0].compact_view)
    env.reset(seed=0)
    assert np.asarray(env.render()).ndim == 3
    env.close()
    assert calico.make_vec("CartPole-v1", 3).reset(seed=0)[0].shape == (3, 4)
    unfit: list[tuple[dict[str, Any], str]] = [({"render_mode": "human"}, "render_mode='human'"),
                                               ({"frames": 3}, "no view setting 'frames'")]
    for wrong, says in unfit:
        with pytest.raises(ValueError, match=says):
            calico.make("CartPole-v1", **wrong)
    with pytest.raises(ValueError, match="num_envs=0 must be at least 1"):
        calico.make_vec("CartPole-v1", 0)
    with pytest.raises(ValueError, match="unknown family 'clasic'"):
        calico.tasks("clasic")
