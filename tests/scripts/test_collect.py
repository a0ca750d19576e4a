"""`calico collect`: what lies in the folder is what the expert played and what the pictures show."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from calico.datasets.documents import CaptionReader, DialogueReader
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.open_data import open_data
from calico.datasets.synthetic.captions import caption_is_right
from calico.envs import scores
from calico.envs.experts import PLAYERS, make_expert
from calico.envs.registry import get_task, make
from calico.envs.runner import rollout
from calico.envs.scenes import scenes
from calico.scripts import collect as verb
from calico.scripts.main import main
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import space_from_json

from ..counting import FIRST_FAULTY_SEED, STEPS

Refused = Callable[..., str]
pytestmark = pytest.mark.usefixtures("counting")


def collect(out: Path, *words: object) -> None:
    assert main(["collect", *map(str, words), "--workers", "0", "--out", str(out)]) == 0


def assert_equal(one: Sequence[Episode], other: Sequence[Episode]) -> None:
    by_seed = {episode.seed: episode for episode in other}
    assert {episode.seed for episode in one} == by_seed.keys()
    for episode in one:
        same = by_seed[episode.seed]
        for name in episode.observations:
            np.testing.assert_array_equal(episode.observations[name], same.observations[name])
        for name in episode.actions:
            np.testing.assert_array_equal(episode.actions[name], same.actions[name])
        np.testing.assert_array_equal(episode.demonstrated, same.demonstrated)


def test_the_help_names_the_players_that_there_are() -> None:
    assert verb.PLAYERS == PLAYERS


def test_episodes_are_the_experts_and_say_where_they_come_from(tmp_path: Path) -> None:
    collect(tmp_path, "Counting-v0", "Acrobot-v1", "--episodes", 3, "--seed", 5)
    reader = EpisodeReader(tmp_path / "Counting-v0")
    assert sorted(reader.seeds.tolist()) == [5, 6, 7]
    assert reader.scores.tolist() == [STEPS] * 3 and all(episode.demonstrated.all() for episode in reader[:])
    env = make("Counting-v0")
    assert space_from_json(reader.task["observation_space"]) == env.observation_space
    assert space_from_json(reader.task["action_space"]) == env.action_space
    told = {key: reader.task[key] for key in ("name", "policy", "expert", "noise")}
    assert told == {"name": "Counting-v0", "policy": "expert", "expert": "next", "noise": 0.0}
    assert reader.task["environment"] == get_task("Counting-v0").to_json()
    assert (EpisodeReader(tmp_path / "Acrobot-v1").scores > -200).all()   # random play has -500


def test_a_slash_in_a_name_makes_no_folders(tmp_path: Path) -> None:
    collect(tmp_path, "ALE/Pong-v5", "--episodes", 1, "--policy", "random")
    reader = EpisodeReader(tmp_path / "ALE-Pong-v5")
    assert (reader.task["name"], reader.task["policy"], reader.task["expert"]) == ("ALE/Pong-v5", "random", None)


def test_a_stopped_collection_goes_on_and_equals_one_that_was_not(tmp_path: Path) -> None:
    """Two episodes, then the folder is asked for five; noise too depends on the episode's seed alone."""
    words = ("Counting-v0", "--noise", 0.3)
    collect(tmp_path / "parts", *words, "--episodes", 2)
    first = (tmp_path / "parts" / "Counting-v0" / "part-00000.parquet").read_bytes()
    collect(tmp_path / "parts", *words, "--episodes", 5)
    collect(tmp_path / "whole", *words, "--episodes", 5)
    parts, whole = (EpisodeReader(tmp_path / name / "Counting-v0") for name in ("parts", "whole"))
    assert_equal(parts[:], whole[:])
    assert (tmp_path / "parts" / "Counting-v0" / "part-00000.parquet").read_bytes() == first
    demonstrated = np.concatenate([episode.demonstrated for episode in whole[:]])
    assert 0.5 < demonstrated.mean() < 0.9
    collect(tmp_path / "whole", *words, "--episodes", 5)   # nothing is missing, nothing is added
    assert len(EpisodeReader(tmp_path / "whole" / "Counting-v0")) == 5


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = EpisodeWriter.append

    def append_two(writer: EpisodeWriter, episode: Episode) -> None:
        if episode.seed == 2:
            raise KeyboardInterrupt
        append(writer, episode)

    words = ["collect", "Counting-v0", "--episodes", "4", "--workers", "0", "--out", str(tmp_path)]
    monkeypatch.setattr(EpisodeWriter, "append", append_two)
    assert main(words) == 130
    assert EpisodeReader(tmp_path / "Counting-v0").seeds.tolist() == [0, 1]
    monkeypatch.undo()
    assert main(words) == 0
    assert EpisodeReader(tmp_path / "Counting-v0").seeds.tolist() == [0, 1, 2, 3]


def test_other_settings_do_not_mix_in_one_folder(tmp_path: Path, refused: Refused) -> None:
    collect(tmp_path, "Counting-v0", "--episodes", 1)
    for other in (["--noise", 0.5], ["--policy", "random"], ["--noise-steps", 3]):
        said = refused("collect", "Counting-v0", "--episodes", 2, "--workers", 0, "--out", tmp_path, *other)
        assert ("Counting-v0 holds episodes of {'policy': 'expert', 'noise': 0.0, 'noise_steps': 1, 'keep': None, "
                "'max_steps': None}, not") in said
        assert "choose another --out, or the same settings" in said
    assert len(EpisodeReader(tmp_path / "Counting-v0")) == 1


def test_views_do_not_mix_in_one_folder(tmp_path: Path, refused: Refused) -> None:
    words = ("collect", "Sokoban-6x6-1", "--workers", 0, "--out", tmp_path)
    assert main([*map(str, words), "--compact", "--episodes", "1"]) == 0
    reader = EpisodeReader(tmp_path / "Sokoban-6x6-1")
    assert reader.task["environment"]["view"] == {"tile": 2} and reader[0].observations[""].shape[1:] == (16, 16, 3)
    said = refused(*words, "--episodes", 2)
    assert "holds episodes in the view {'tile': 2}, not in {'tile': 8}; choose another --out, or the same view" in said
    assert main([*map(str, words), "--compact", "--episodes", "2"]) == 0
    assert len(EpisodeReader(tmp_path / "Sokoban-6x6-1")) == 2


def test_a_noisy_collection_keeps_the_experts_actions(tmp_path: Path) -> None:
    collect(tmp_path, "Counting-v0", "--noise", 0.5, "--episodes", 3)
    for episode in EpisodeReader(tmp_path / "Counting-v0")[:]:
        assert episode.labels is not None
        for name, labels in episode.labels.items():
            np.testing.assert_array_equal(labels[episode.demonstrated], episode.actions[name][episode.demonstrated])
    assert any((episode.labels[name] != actions).any() for episode in EpisodeReader(tmp_path / "Counting-v0")[:]
               for name, actions in episode.actions.items())


def test_pictures_come_with_true_captions_and_questions_about_them(tmp_path: Path) -> None:
    collect(tmp_path, "--scenes", "minigrid", "--episodes", 12, "--seed", 3)
    captions, dialogues = open_data(tmp_path / "minigrid-captions"), open_data(tmp_path / "minigrid-dialogues")
    assert isinstance(captions, CaptionReader) and isinstance(dialogues, DialogueReader)
    for told, scene in zip(captions, scenes("minigrid", range(3, 15)), strict=True):
        np.testing.assert_array_equal(told.image, scene.image)
        assert told.extra["facts"] == scene.facts and caption_is_right(told.captions[0], scene.facts)
    shown = [dialogue for dialogue in dialogues if dialogue.images]
    assert len(shown) == 12 and len(dialogues) > 12   # some are told in words
    for dialogue, scene in zip(shown, scenes("minigrid", range(3, 15)), strict=True):
        (image,) = dialogue.images.values()
        np.testing.assert_array_equal(image, scene.image)
        assert [message["role"] for message in dialogue.messages[:2]] == ["user", "assistant"]


@pytest.mark.parametrize("fault, says", [
    ("Nan", r"step 2: observation 'time' holds 1 NaN of 1 values"),
    ("Outside", r"step 2: observation 'digit' is 5, outside Discrete(5)"),
    ("Crash", r"step 2: step raised ZeroDivisionError: the game divides by zero"),
    ("Reset", r"step 0: reset raised OSError: the game is gone"),
])
def test_a_faulty_episode_is_named_and_the_others_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                            refused: Refused, fault: str, says: str) -> None:
    name = f"Counting{fault}-v0"
    collect(tmp_path, name, "--episodes", 9)
    line = f"{name}, seed {FIRST_FAULTY_SEED}, {says}"
    assert f"failed: {line}" in capsys.readouterr().err
    assert EpisodeReader(tmp_path / name).seeds.tolist() == list(range(FIRST_FAULTY_SEED))
    left_out = [json.loads(text) for text in (tmp_path / name / "left-out.jsonl").read_text().splitlines()]
    assert left_out[0] == {"seed": FIRST_FAULTY_SEED, "fault": line}
    said = refused("collect", name, "--episodes", 9, "--workers", 0, "--out", tmp_path)   # again: none of the rest survives
    assert said.splitlines()[-1] == f"calico collect: {line}"


def test_only_what_is_worth_it_is_kept_and_the_rest_is_not_played_again(tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    collect(tmp_path, "Acrobot-v1", "--episodes", 12, "--keep", 101)
    kept = EpisodeReader(tmp_path / "Acrobot-v1")
    expert, random = (scores.table()["measured"]["Acrobot-v1"][who]["mean"] for who in ("expert", "random"))
    assert 0 < len(kept) < 12 and (kept.scores >= random + 1.01 * (expert - random)).all()
    monkeypatch.setattr("calico.envs.workers.play", lambda task, player, seeds, **_: iter(seeds))
    collect(tmp_path, "Acrobot-v1", "--episodes", 12, "--keep", 101)


def test_what_an_expert_could_not_plan_is_no_demonstration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Noise pushes boxes into corners: the level is lost, and its expert plays at random from there."""
    task = "Sokoban-7x7-2"
    lost = {episode.seed for episode in rollout(task, make_expert(task), range(12), noise=0.3) if "guesses" in episode.info}
    assert 0 < len(lost) < 12
    for _ in range(2):                                                     # the second time there is nothing left to play
        collect(tmp_path, task, "--episodes", 12, "--noise", 0.3)
        assert set(EpisodeReader(tmp_path / task).seeds.tolist()) == set(range(12)) - lost
        left_out = [json.loads(line) for line in (tmp_path / task / "left-out.jsonl").read_text().splitlines()]
        assert [entry["seed"] for entry in left_out] == sorted(lost) and all(entry["guesses"] > 0 for entry in left_out)
    assert f"{task}: {len(lost)} of 12 episodes are left out" in capsys.readouterr().err


@pytest.mark.parametrize("words, says", [
    (["CartPol-v1"], "unknown task 'CartPol-v1'; nearest: CartPole-v1"),
    (["Counting-v0", "CartPol-v1"], "unknown task 'CartPol-v1'"),
    (["--scenes", "minigird"], "unknown world 'minigird'; nearest: minigrid"),
    ([], "name at least one task, --scenes WORLD or --recipe NAME"),
    (["MiniGrid-Playground-v0"], "MiniGrid-Playground-v0 has no scripted expert"),
    (["Counting-v0", "--episodes", 0], "--episodes 0 must be at least 1"),
    (["Counting-v0", "--seed", -1], "--seed -1 must be at least 0"),
    (["Counting-v0", "--noise", 2], "noise=2.0 in [0, 1]"),
    (["Counting-v0", "--workers", -1], "workers=-1"),
    (["Counting-v0", "--time-limit", 0], "time_limit=0.0"),
    (["Counting-v0", "--keep", 80], "--keep 80: Counting-v0 has no reference scores; run `calico score Counting-v0 --write`"),
    (["Counting-v0", "--policy", "best"], "unknown policy 'best'; there are: expert, random, npz:FILE"),
    (["Counting-v0", "--episods", 3], "did you mean --episodes?"),
])
def test_wrong_words_are_one_line_and_nothing_is_written(tmp_path: Path, refused: Refused, words: list[object],
                                                         says: str) -> None:
    assert says in refused("collect", "--workers", 0, *words, "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["BabyAI-GoToLocal-v0"], ["--scenes", "minigrid"]])
def test_a_missing_package_names_the_command(tmp_path: Path, refused: Refused, words: list[str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)   # makes `import minigrid` fail
    said = refused("collect", *words, "--out", tmp_path)
    assert "needs the package 'minigrid'" in said and 'run: pip install calico-agent' in said


def test_a_place_that_can_not_be_written_is_one_line(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    said = refused("collect", "Counting-v0", "--episodes", 1, "--workers", 0, "--out", tmp_path / "file")
    assert str(tmp_path / "file") in said


def write_recording(folder: Path) -> None:
    """Two games of Pong in which nobody moves, of 30 and 31 steps after 5 and 8 idle frames: not to their ends."""
    lengths = [5 + 4 * 30, 8 + 4 * 31]
    np.savez(folder / "Pong.npz", actions=np.zeros(sum(lengths), np.uint8), episode_start=[0, lengths[0]],
             episode_length=lengths, episode_terminal=[True, True])


def test_a_recording_becomes_episodes_in_calicos_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    write_recording(tmp_path)
    monkeypatch.setattr("calico.envs.recordings.FRAME_CAP", 100)   # the games are far from over
    collect(tmp_path / "data", "ALE/Pong-v5", "--policy", f"replay:{tmp_path}", "--episodes", 10)
    assert f"replay:{tmp_path} holds 2 whole episodes of ALE/Pong-v5" in capsys.readouterr().err
    reader = EpisodeReader(tmp_path / "data" / "ALE-Pong-v5")
    assert sorted(reader.seeds.tolist()) == [0, 1] and reader.task["policy"] == f"replay:{tmp_path}"
    environment = reader.task["environment"]
    assert environment["view"]["repeat_action_probability"] == 0 and environment["view"]["frame_skip"] == 4
    assert reader.task["observation_space"]["shape"] == [64, 64, 2]


def test_a_recording_is_not_disturbed_nor_played_past_its_end(tmp_path: Path, refused: Refused) -> None:
    write_recording(tmp_path)
    words = ("collect", "ALE/Pong-v5", "--policy", f"replay:{tmp_path}", "--workers", 0, "--out", tmp_path / "data")
    assert "fits undisturbed games only" in refused(*words, "--noise", 0.1)
    assert "holds 2 whole episodes of ALE/Pong-v5, with seeds 0 to 1" in refused(*words, "--seed", 2)


def test_an_expert_is_trained_once_and_collected_from(tmp_path: Path, refused: Refused,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    words = ("CartPole-v1", "--train-expert", "--train-steps", 600, "--episodes", 2)
    collect(tmp_path, *words)
    assert "train PPO on CartPole-v1" in capsys.readouterr().err
    model = tmp_path / "experts" / "CartPole-v1"
    first = model.with_suffix(".npz").read_bytes()
    assert model.with_suffix(".zip").is_file()
    assert EpisodeReader(tmp_path / "CartPole-v1").task["policy"] == f"npz:{model}.npz"
    collect(tmp_path, *words[:-1], 3)
    assert "train PPO" not in capsys.readouterr().err and model.with_suffix(".npz").read_bytes() == first
    assert len(EpisodeReader(tmp_path / "CartPole-v1")) == 3
    again = ("collect", "CartPole-v1", "--train-expert", "--out", tmp_path)
    assert "was trained for 600 steps, not 700" in refused(*again, "--train-steps", 700)
    assert "exclude each other" in refused(*again, "--policy", "random")
    assert "which Stable-Baselines3 has no network for" in refused("collect", "BabyAI-GoToLocal-v0", *again[2:])


def test_who_collects_from_a_file_that_can_run_code_is_told(tmp_path: Path, refused: Refused,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "CartPole-v1", "--policy", f"sb3:{tmp_path}/no.zip", "--out", str(tmp_path)]) == 2
    told, complaint = capsys.readouterr().err.splitlines()
    assert "which can run code when they are loaded" in told and "no.zip is no model of Stable-Baselines3" in complaint


def test_cut_episodes_show_more_beginnings(tmp_path: Path, refused: Callable[..., str]) -> None:
    collecting = ["collect", "Pendulum-v1", "--workers", "0", "--out", str(tmp_path)]
    assert main([*collecting, "--episodes", "5", "--max-steps", "12"]) == 0
    episodes = list(EpisodeReader(tmp_path / "Pendulum-v1"))
    assert [len(episode) for episode in episodes] == [12] * 5 and all(episode.truncated for episode in episodes)
    assert "choose another --out, or the same settings" in refused(*collecting, "--episodes", "6")
    assert "must be at least 1" in refused(*collecting, "--max-steps", "0")
    assert "leave one out" in refused(*collecting, "--max-steps", "9", "--keep", "80")
    assert "a recipe says itself" in refused("collect", "--recipe", "forty", "--max-steps", "9", "--out", tmp_path)
