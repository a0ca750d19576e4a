"""`calico inspect`: what it says of a token is what the tokenizers say, for tasks, files and documents."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.agent.agent import Agent
from calico.datasets.episodes import EpisodeWriter
from calico.envs.experts import RandomPolicy, make_expert
from calico.envs.registry import get_task, make
from calico.envs.runner import rollout
from calico.scripts.common.inspecting import inspect_target
from calico.scripts.common.token_view import token_rows
from calico.scripts.inspect import main
from calico.tokenizers.spaces import space_to_json
from calico.tokenizers.tokens import Kind

from ..conftest import SmallRun


def test_cartpole_reads_like_the_paper() -> None:
    shown = inspect_target("CartPole-v1", steps=2)
    rows = token_rows(shown)
    step = [("continuous", i, False) for i in range(4)] + [("special", None, False), ("discrete", "action", True)]
    assert [(r["kind"], r["position"], r["loss"]) for r in rows] == step * 2
    assert [r["timestep"] for r in rows] == [0] * 6 + [1] * 6
    assert rows[4]["meaning"] == "separator"
    assert [r["id"] for r in rows] == shown.tokens.ids.tolist()


def test_a_meaning_is_the_value_that_the_environment_gave() -> None:
    shown = inspect_target("CartPole-v1", steps=1, seed=5)
    env = make("CartPole-v1")
    observation, _ = env.reset(seed=5)
    env.close()
    said = [float(r["meaning"]) for r in token_rows(shown)[:4]]
    # Half a bin of mu-law (mu 100, M 256) and 1,024 bins: d ln(100 |x| + 1) = ln(25601) / 1024.
    np.testing.assert_allclose(said, observation, rtol=0.0101, atol=0.0101 / 100)


def test_the_layout_moves_the_ids() -> None:
    disjoint = token_rows(inspect_target("CartPole-v1", steps=1))
    gato = token_rows(inspect_target("CartPole-v1", steps=1, layout="gato"))
    assert [r["meaning"] for r in disjoint] == [r["meaning"] for r in gato]
    assert disjoint[5]["id"] - gato[5]["id"] == 2048   # there integers have a range of their own, after the text


def test_a_window_starts_where_asked() -> None:
    rows = token_rows(inspect_target("CartPole-v1", start=3, steps=2))
    assert {r["timestep"] for r in rows} == {3, 4}


def test_a_stored_episode_reads_as_it_was_played(tmp_path: Path) -> None:
    task = get_task("CartPole-v1")
    env = make(task)
    sidecar = {**task.to_json(), "observation_space": space_to_json(env.observation_space),
               "action_space": space_to_json(env.action_space)}
    env.close()
    with EpisodeWriter(tmp_path / "part.parquet", sidecar) as writer:
        for episode in rollout(task, RandomPolicy(), [7, 8], num_envs=1):
            writer.append(episode)
    stored = inspect_target(str(tmp_path / "part.parquet"), index=1, steps=3)
    played = inspect_target("CartPole-v1", seed=8, steps=3, random=True)
    assert token_rows(stored) == token_rows(played)
    with pytest.raises(ValueError, match="holds the numbers 0 to 1"):
        inspect_target(str(tmp_path / "part.parquet"), index=2)
    with pytest.raises(ValueError, match="--start 5000"):
        inspect_target(str(tmp_path / "part.parquet"), start=5000)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    (tmp_path / "captions").mkdir()
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(tmp_path / "captions" / "a.png")
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "a.png", "caption": "a red ball"}) + "\n")
    return tmp_path / "captions.jsonl"


def test_a_caption_document(captions: Path) -> None:
    rows = token_rows(inspect_target(str(captions)))
    kinds = [r["kind"] for r in rows]
    assert kinds[:4] == ["patch"] * 4 and rows[4]["meaning"] == "separator" and rows[-1]["meaning"] == "end"
    assert "".join(r["meaning"][1:-1] for r in rows if r["kind"] == "text") == "a red ball"
    assert [r["loss"] for r in rows] == [k == "text" or r["meaning"] == "end" for k, r in zip(kinds, rows, strict=True)]


def test_a_dialogue_document(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi"}]
    (tmp_path / "d.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    rows = token_rows(inspect_target(str(tmp_path / "d.jsonl")))
    assert [r["meaning"] for r in rows if r["kind"] == "special"] == ["user", "end", "assistant", "end"]
    answer = next(i for i, r in enumerate(rows) if r["meaning"] == "assistant")
    assert not any(r["loss"] for r in rows[: answer + 1]) and all(r["loss"] for r in rows[answer + 1:])


def test_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_text("one cat\nmany cats")
    shown = inspect_target(str(tmp_path / "cats.txt"))
    assert shown.text is not None
    np.testing.assert_array_equal(shown.tokens.ids[:-1], shown.text.encode("one cat\nmany cats"))
    assert shown.tokens.kind[-1] == Kind.SPECIAL


def test_a_run_shows_what_it_sees(small_run: SmallRun, tmp_path: Path) -> None:
    agent = Agent.load(small_run.run)
    shown = inspect_target("BabyAI-GoToLocal-v0", steps=2, run=small_run.run)
    (episode,) = rollout("BabyAI-GoToLocal-v0", make_expert("BabyAI-GoToLocal-v0"), [0], num_envs=1, max_steps=2)
    expected = agent.codec("BabyAI-GoToLocal-v0").encode_episode(episode)
    np.testing.assert_array_equal(shown.tokens.ids, expected.ids)
    np.testing.assert_array_equal(shown.tokens.loss_mask, expected.loss_mask)
    (tmp_path / "x.txt").write_text("go to the red ball")
    shown = inspect_target(str(tmp_path / "x.txt"), run=small_run.run)
    np.testing.assert_array_equal(shown.tokens.ids[:-1], agent.text.encode("go to the red ball"))
    stranger = inspect_target("Acrobot-v1", steps=1, run=small_run.run)   # not one of its tasks: its ids all the same
    assert stranger.vocabulary.to_json() == agent.vocabulary.to_json()


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        inspect_target("CartPole-v1", run=tmp_path / "nowhere")


@pytest.mark.parametrize("target, message", [
    ("CartPol-v1", "CartPole-v1"),                       # the nearest task
    ("no/such.parquet", "does not exist"),
])
def test_wrong_targets_are_named(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect_target(target)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("hello\n")
    with pytest.raises(ValueError, match="first line is not a JSON object"):
        inspect_target(str(tmp_path / "x.jsonl"))


def test_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["Pendulum-v1", "--steps", "1", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["title"] == "Pendulum-v1" and values["vocabulary"]["layout"] == "disjoint"
    assert [t["kind"] for t in values["tokens"]] == ["continuous"] * 3 + ["special", "continuous"]
