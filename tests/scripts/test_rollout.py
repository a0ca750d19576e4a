"""`calico rollout`: a run plays what it says it plays, scores are those of its seeds, and faults are one line."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.policy import AgentPolicy
from calico.agent.sampling import SamplingConfig
from calico.envs import scores
from calico.envs.registry import make
from calico.envs.runner import rollout
from calico.scripts.evaluation.control import aggregates, film_of
from calico.scripts.evaluation.report import TaskScore
from calico.scripts.main import main
from calico.tokenizers.task import TaskCodec

from ..conftest import SmallRun
from ..counting import FAULTS, FIRST_FAULTY_SEED, STEPS

Refused = Callable[..., str]
Answered = Callable[..., Any]


def test_scores_are_those_of_its_seeds_whatever_stands_beside_them(small_run: SmallRun, answered: Answered) -> None:
    words = ("rollout", small_run.run, "CartPole-v1", "--episodes", 3, "--seed", 50)
    (one,), (many,) = answered(*words, "--num-envs", 1), answered(*words, "--num-envs", 3)
    assert one == many == answered(*words, "--num-envs", 2, "--spread", 2)[0]
    policy = Agent.load(small_run.run).policy("CartPole-v1", SamplingConfig())
    played = {e.seed: e.score for e in rollout("CartPole-v1", policy, range(50, 53), record=False)}
    assert one["returns"] == [played[seed] for seed in (50, 51, 52)]
    assert one["score"] == pytest.approx(np.mean(one["returns"])) and one["family"] == "classic"
    known = scores.reference("CartPole-v1")
    assert (one["random"], one["expert"]) == (known.random, known.expert)
    assert one["normalised"] == pytest.approx(known.normalise(one["score"]))


def test_greedy_play_differs_and_repeats(small_run: SmallRun, answered: Answered) -> None:
    words = ("rollout", small_run.run, "CartPole-v1", "--episodes", 4)
    greedy = answered(*words, "--temperature", 0)
    assert greedy == answered(*words, "--temperature", 0) == answered(*words, "--top-k", 1)
    assert greedy != answered(*words)


def test_without_names_it_plays_all_that_it_knows(small_run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", str(small_run.run), "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "BabyAI-GoToLocal-v0" in out and "CartPole-v1" in out and "of expert" in out


def test_a_checkpoint_of_the_run_plays_too(small_run: SmallRun, answered: Answered) -> None:
    older, newest = checkpoint.checkpoints(small_run.run)
    words = ("CartPole-v1", "--episodes", 2)
    assert answered("rollout", newest, *words) == answered("rollout", small_run.run, *words)
    assert answered("rollout", older, *words)


def test_films_show_the_first_episodes_side_by_side(small_run: SmallRun, tmp_path: Path, answered: Answered,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av")
    words = ("rollout", small_run.run, "CartPole-v1", "--episodes", 4, "--num-envs", 2)
    (played,) = answered(*words)
    folder = tmp_path / "films"
    assert main([*map(str, words), "--video", str(folder), "--gif", str(folder)]) == 0
    said = capsys.readouterr().err
    assert "CartPole-v1.mp4" in said and "CartPole-v1.gif" in said
    with av.open(str(folder / "CartPole-v1.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        frames = list(film.decode(video=0))
    assert len(frames) == max(played["returns"]) + 1 + 30          # a step earns 1; the last frame stays for a second
    assert (frames[0].width, frames[0].height) == (484, 344)       # two by two tiles of 240 x 160, gap and strip
    with Image.open(folder / "CartPole-v1.gif") as gif:
        assert gif.size == (484, 344) and getattr(gif, "n_frames", 1) > 2


def test_a_film_that_ends_before_its_episode_says_so(small_run: SmallRun) -> None:
    agent, sampling = Agent.load(small_run.run), SamplingConfig()
    short, whole = (film_of(agent, "CartPole-v1", 7, sampling, max_steps=steps) for steps in (3, 500))
    assert short and whole
    assert (short.cut, short.score) == (3, 3) and whole.cut == 0 and whole.score > 3


def test_films_without_pyav_name_the_command_before_playing(small_run: SmallRun, tmp_path: Path, refused: Refused,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)   # makes `import av` fail
    said = refused("rollout", small_run.run, "CartPole-v1", "--episodes", 1, "--video", tmp_path / "films")
    assert 'run: pip install "calico-agent[media]"' in said and not (tmp_path / "films").exists()
    assert main(["rollout", str(small_run.run), "CartPole-v1", "--episodes", "1", "--gif", str(tmp_path / "films")]) == 0


def test_each_episode_begins_after_the_demonstration(small_run: SmallRun, tmp_path: Path, answered: Answered,
                                                     refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command hands the best episode's first tokens to the policy, which has read them before it acts."""
    run, data = tmp_path / "run", small_run.data / "CartPole-v1"
    assert "plays the task without memory, so a prompt would not be seen" in refused(
        "rollout", small_run.run, "CartPole-v1", "--prompt", data)
    assert main(["train", str(small_run.config), f"data.sources=[{{path: {data}, memory: true}}]", "training.steps=1",
                 f"out={run}"]) == 0
    read: list[int] = []
    make_policy = Agent.policy

    def watched(self: Agent, *args: Any, **kwargs: Any) -> AgentPolicy:
        policy = make_policy(self, *args, **kwargs)
        read.append(0 if policy.prompted is None else int(policy.prompted.lengths[0]))
        return policy

    monkeypatch.setattr(Agent, "policy", watched)
    words = ("rollout", run, "CartPole-v1", "--episodes", 3)
    shown = ("--prompt", data, "--prompt-tokens", 60)
    assert answered(*words, *shown) == answered(*words, *shown)
    answered(*words)
    assert read == [60, 60, 0]
    answered(*words, *shown[:3], 65)
    assert read[3] == 60                                    # ten timesteps of six tokens: none is cut


def test_prompts_leave_room_for_a_step(small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       refused: Refused) -> None:
    """Without a window the context is all that is ever seen: the prompt is cut between timesteps, and it is said."""
    run, data = tmp_path / "run", small_run.data / "CartPole-v1"
    assert main(["train", str(small_run.config), f"data.sources=[{{path: {data}, memory: true}}]", "training.steps=1",
                 f"out={run}", "backbone.context=32", "backbone.window=32"]) == 0
    words = ("rollout", run, "CartPole-v1", "--episodes", 1, "--prompt", data)
    capsys.readouterr()
    assert main(list(map(str, words))) == 0
    assert "--prompt: 24 of 256 tokens are shown, so that a step fits the model's context of 32" in capsys.readouterr().err
    assert "the first timestep of CartPole-v1 has 6 tokens, and 5 may be shown; raise --prompt-tokens" in refused(
        *words, "--prompt-tokens", 5)


# ---- what cannot be right


@pytest.mark.parametrize("words, says", [
    (["CartPol-v1"], "this checkpoint has no spec for the task 'CartPol-v1'; did you mean CartPole-v1?"),
    (["Pendulum-v1"], "this checkpoint has no spec for the task 'Pendulum-v1'"),
    (["--episodes", 0], "--episodes 0"),
    (["--num-envs", 0], "--num-envs 0 must be at least 1"),
    (["--seed", -1], "--seed -1 must be at least 0"),
    (["--spread", -1], "--spread -1 must be at least 0"),
    (["--spread", 2, "--isolate"], "--spread 2 must be at least 0, and is not for --isolate"),
    (["--temperature", -1], "temperature=-1.0"),
    (["--top-k", -1], "top_k=-1"),
    (["--device", "abacus"], "device 'abacus' cannot be used here"),
    (["--prompt", "nowhere"], "nowhere does not exist"),
    (["CartPole-v1", "--prompt-tokens", 0], "--prompt-tokens 0 must be at least 1"),
])
def test_wrong_words_are_one_line(small_run: SmallRun, refused: Refused, words: list[object], says: str) -> None:
    assert says in refused("rollout", small_run.run, *words)


def test_a_place_for_films_that_is_none_is_known_before_playing(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    assert "File exists" in refused("rollout", small_run.run, "--gif", tmp_path / "file")


def test_no_word_at_all_does_not_play_hundreds_of_tasks(refused: Refused) -> None:
    assert "name at least one task for calico-small to play" in refused("rollout")


def test_a_prompt_of_another_task_is_refused(small_run: SmallRun, refused: Refused) -> None:
    said = refused("rollout", small_run.run, "CartPole-v1", "--prompt", small_run.data / "BabyAI-GoToLocal-v0")
    assert "holds episodes of BabyAI-GoToLocal-v0, not of CartPole-v1" in said


def test_a_run_that_is_not_there_is_one_line(small_run: SmallRun, tmp_path: Path, refused: Refused) -> None:
    assert "rnu does not exist; did you mean" in refused("rollout", small_run.run.with_name("rnu"))
    assert "holds no checkpoint" in refused("rollout", tmp_path)
    weights = checkpoint.find(small_run.run) / "model.safetensors"
    assert "is a file; give the folder" in refused("rollout", weights)


@pytest.mark.parametrize("name", ["model.safetensors", "tasks.json", "tokenizer.model", "optimizer.safetensors"])
def test_one_flipped_bit_is_named_with_the_way_out(own_run: Path, refused: Refused, answered: Answered, name: str) -> None:
    file = checkpoint.find(own_run) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    said = refused("rollout", own_run)
    older = checkpoint.checkpoints(own_run)[0]
    assert f"{file} does not match its SHA-256" in said and f"{older}: give that path" in said
    assert answered("rollout", older, "CartPole-v1", "--episodes", 1)


def test_a_cut_checkpoint_is_named(own_run: Path, refused: Refused) -> None:
    file = checkpoint.find(own_run) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file} has " in refused("rollout", own_run)


@pytest.fixture
def knows_counting(own_run: Path, counting: None) -> Path:
    """The small run, its checkpoint rewritten to know the counting tasks too, and CartPole with other spaces."""
    agent = Agent.load(own_run)
    env = make("Counting-v0")
    codec = TaskCodec(env.observation_space, env.action_space, agent.vocabulary, agent.text)
    specs = {f"Counting{fault.capitalize()}-v0": {"codec": codec.to_json(), "data": {}} for fault in ("", *FAULTS)}
    specs["Unknown-v0"] = {"codec": codec.to_json(), "data": {}}
    specs["CartPole-v1"] = {"codec": codec.to_json(), "data": {"environment": {"versions": {"gymnasium": "0.1"}}}}
    saved = checkpoint.load(own_run)
    shutil.rmtree(own_run)
    checkpoint.save(own_run, 8, tensors=saved.tensors, documents=saved.documents | {"tasks": specs}, files=saved.files)
    return own_run


def test_actions_of_any_space_are_legal(knows_counting: Path, answered: Answered) -> None:
    """The runner refuses an action outside the space, so ten whole episodes say that there was none."""
    (played,) = answered("rollout", knows_counting, "Counting-v0", "--episodes", 10, "--temperature", 5)
    assert len(played["returns"]) == 10 and all(0 <= score <= STEPS for score in played["returns"])
    assert played["random"] is played["expert"] is played["normalised"] is None   # nobody measured them


def test_a_film_that_fails_does_not_cost_the_scores(knows_counting: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    """The counting environment draws no frames: `render` raises."""
    words = ["rollout", str(knows_counting), "Counting-v0", "--episodes", "2"]
    assert main([*words, "--gif", str(tmp_path / "films"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)[0]["returns"]) == 2 and not any((tmp_path / "films").iterdir())
    assert "not filmed: Counting-v0, seed 10000, step 0: render raised NotImplementedError" in err
    assert "no film of Counting-v0" in err
    assert film_of(Agent.load(knows_counting), "Counting-v0", 7, SamplingConfig()) is None


@pytest.mark.parametrize("fault, says", [
    ("Nan", "step 2: observation 'time' holds 1 NaN of 1 values"),
    ("Outside", "step 2: observation 'digit' is 5, outside Discrete(5)"),
    ("Crash", "step 2: step raised ZeroDivisionError: the game divides by zero"),
    ("Reset", "step 0: reset raised OSError: the game is gone"),
])
def test_a_faulty_environment_costs_its_episode(knows_counting: Path, refused: Refused, fault: str, says: str,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rollout", str(knows_counting), f"Counting{fault}-v0", "--episodes", "9", "--num-envs", "2"]
    assert main([*words, "--seed", "0", "--json"]) == 0
    out, err = capsys.readouterr()
    (played,) = json.loads(out)
    assert f"failed: Counting{fault}-v0, seed {FIRST_FAULTY_SEED}, {says}" in err
    assert played["failed"] == 9 - FIRST_FAULTY_SEED
    assert len(played["returns"]) == FIRST_FAULTY_SEED             # no score of random play is known to put in their place
    said = refused(*words, "--seed", FIRST_FAULTY_SEED)            # none survives
    assert said == f"calico rollout: Counting{fault}-v0, seed {FIRST_FAULTY_SEED}, {says}"


def test_a_failed_episode_counts_as_random_play() -> None:
    score = TaskScore.of("CartPole-v1", [500.0] * 3, failed=1)
    assert score.random is not None and score.returns == [500, 500, 500, score.random]
    assert score.normalised == pytest.approx(75) and score.failed == 1


def test_aggregates_are_those_of_the_tasks() -> None:
    known = scores.reference("CartPole-v1")
    assert known.random is not None
    found = aggregates([TaskScore.of("CartPole-v1", [500.0] * 4), TaskScore.of("Acrobot-v1", [-500.0] * 4),
                        TaskScore.of("ALE/Adventure-v5", [3.0])])
    cart_pole, acrobot = (TaskScore.of(n, [v]).normalised for n, v in (("CartPole-v1", 500.0), ("Acrobot-v1", -500.0)))
    assert cart_pole is not None and acrobot is not None
    assert found.keys() == {"all", "classic"} and found["all"]["tasks"] == 2      # nobody knows what an Adventure is worth
    assert found["all"]["mean"]["value"] == pytest.approx((cart_pole + acrobot) / 2)
    assert found["all"]["mean"]["low"] == pytest.approx(found["all"]["mean"]["high"])
    assert found["all"]["share_at_50"] == 0.5


def test_a_task_that_changed_since_the_training_is_refused(knows_counting: Path, refused: Refused) -> None:
    said = refused("rollout", knows_counting, "CartPole-v1")
    assert said.startswith("calico rollout: CartPole-v1: its observation space is Box(")
    assert " here but was Dict('digit'" in said and "(gymnasium 0.1); install" in said


def test_a_task_that_is_not_installed_here_is_refused(knows_counting: Path, refused: Refused) -> None:
    assert "unknown task 'Unknown-v0'" in refused("rollout", knows_counting, "Unknown-v0")


def test_a_missing_package_names_the_command(small_run: SmallRun, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)   # makes `import minigrid` fail
    said = refused("rollout", small_run.run, "BabyAI-GoToLocal-v0")
    assert "BabyAI-GoToLocal-v0 needs the package 'minigrid'" in said and 'run: pip install calico-agent' in said
