"""The whole path, as a user walks it: collect, train, play, evaluate, caption, ask, chat, look at the tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.agent.agent import Agent
from calico.agent.backbones import KINDS
from calico.agent.sampling import SamplingConfig
from calico.envs.experts import RandomPolicy
from calico.envs.runner import rollout
from calico.envs.scenes import scenes
from calico.scripts.main import main

from .conftest import CONFIG, SmallRun
from .counting import STEPS


def test_one_run_plays_describes_answers_and_chats(small_run: SmallRun, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    """`small_run` has collected and trained; one checkpoint then does all the rest."""
    run, picture = str(small_run.run), str(tmp_path / "room.png")
    (scene,) = scenes("minigrid", [5])
    Image.fromarray(scene.image).save(picture)
    verbs = {
        "rollout": [run, "CartPole-v1", "BabyAI-GoToLocal-v0", "--episodes", "2"],
        "evaluate": [run, "--episodes", "2", "--pictures", "2", "--worlds", "minigrid"],
        "caption": [run, picture],
        "vqa": [run, picture, "what do you see?"],
        "chat": [run, "--message", "hello"],
        "inspect": [str(small_run.data / "BabyAI-GoToLocal-v0"), "--index", "1", "--steps", "2"],
    }
    said = {}
    for verb, words in verbs.items():
        capsys.readouterr()
        assert main([verb, *words, "--json"]) == 0, verb
        said[verb] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [played["task"] for played in said["rollout"]] == ["CartPole-v1", "BabyAI-GoToLocal-v0"]
    assert all(len(played["returns"]) == 2 for played in said["rollout"])
    assert set(said["evaluate"]["tasks"]) == {"CartPole-v1", "BabyAI-GoToLocal-v0"}
    assert 0 <= said["evaluate"]["caption_accuracy"] <= 1 and 0 <= said["evaluate"]["question_accuracy"] <= 1
    assert isinstance(said["caption"][0]["caption"], str) and isinstance(said["vqa"]["answer"], str)
    assert said["chat"]["message"] == "hello" and isinstance(said["chat"]["reply"], str)
    kinds = {token["kind"] for token in said["inspect"]["tokens"]}
    assert kinds == {"text", "patch", "discrete", "special"}
    for name in ("minigrid-captions", "minigrid-dialogues", "CartPole-v1"):
        assert main(["inspect", str(small_run.data / name)]) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "decoder"])
def test_every_backbone_goes_the_same_way(small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                          kind: str) -> None:
    """Trained in two parts, then it plays both tasks, describes, answers, chats and is judged."""
    run, picture = tmp_path / "run", tmp_path / "room.png"
    (scene,) = scenes("minigrid", [5])
    Image.fromarray(scene.image).save(picture)
    sources = ", ".join(f"{{path: {path}}}" for path in sorted(small_run.data.iterdir()))
    for steps in (2, 4):
        assert main(["train", str(small_run.config), f"backbone={kind}", f"data.sources=[{sources}]", f"training.steps={steps}",
                     "optimizer.warmup_steps=0", f"out={run}"]) == 0
    agent = Agent.load(run)
    assert agent.model.config.backbone.kind == kind and agent.about["step"] == 4
    for words in (["evaluate", str(run), "--episodes", "1", "--pictures", "1", "--worlds", "minigrid"],
                  ["rollout", str(run), "CartPole-v1", "--episodes", "2"], ["caption", str(run), str(picture)],
                  ["vqa", str(run), str(picture), "what do you see?"], ["chat", str(run), "--message", "hello"]):
        capsys.readouterr()
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_an_agent_learns_to_count_and_acts_legally(counting: None, tmp_path: Path) -> None:
    """Its actions have a digit and two real numbers; the runner refuses any that lies outside their space."""
    config, run = tmp_path / "counting.yaml", tmp_path / "run"
    config.write_text(CONFIG)
    assert main(["collect", "Counting-v0", "--episodes", "60", "--workers", "0", "--out", str(tmp_path)]) == 0
    assert main(["train", str(config), f"data.sources=[{{path: {tmp_path / 'Counting-v0'}}}]", "data.batch_size=8",
                 "backbone.context=64", "backbone.window=16", "training.steps=400", "training.save_every=400",
                 f"out={run}"]) == 0
    policy = Agent.load(run).policy("Counting-v0", SamplingConfig(temperature=1))
    seeds = range(1000, 1020)
    episodes = list(rollout("Counting-v0", policy, seeds, num_envs=8))
    assert len(episodes) == 20 and all(len(episode) == STEPS for episode in episodes)
    learnt = np.mean([episode.score for episode in episodes])
    random = np.mean([episode.score for episode in rollout("Counting-v0", RandomPolicy(), seeds)])
    assert learnt > 8 > 4 > random   # the expert has 10, chance 2
    pushes = np.concatenate([episode.actions["push"] for episode in episodes])
    assert np.abs(pushes - [0.5, -0.5]).mean() < 0.2   # a bin is 0.03 wide
