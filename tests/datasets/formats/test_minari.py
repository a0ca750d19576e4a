"""Minari and back: own episodes come back equal, Minari itself reads what was written, and what it wrote is imported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("minari")
pytest.importorskip("h5py")

import minari  # noqa: E402
from minari.data_collector.episode_buffer import EpisodeBuffer  # noqa: E402
from minari.dataset.minari_storage import MinariStorage  # noqa: E402

from calico.datasets.formats.importing import Spaces  # noqa: E402
from calico.datasets.formats.minari import minari_id, read_minari, write_minari  # noqa: E402
from calico.tokenizers.episode import Episode  # noqa: E402
from calico.tokenizers.spaces import AnyText, flatten, space_to_json, stack_leaves  # noqa: E402

from ..test_episodes import assert_equal  # noqa: E402

SPACES: dict[str, Spaces] = {
    "numbers": (spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4)),
    "picture": (spaces.Box(0, 255, (40, 33, 3), np.uint8), spaces.Box(-2, 2, (2,), np.float32)),
    "mission": (spaces.Dict(image=spaces.Box(0, 255, (7, 7, 3), np.uint8), mission=AnyText(), way=spaces.Discrete(4)),
                spaces.Discrete(7)),
    "nested": (spaces.Tuple([spaces.MultiBinary(3),
                             spaces.Dict(a=spaces.MultiDiscrete([2, 5]), b=spaces.Discrete(3, start=-1))]),
               spaces.Dict(say=spaces.Text(5), turn=spaces.Box(-1, 1, (1,), np.float64))),
}


def make_task(name: str) -> dict[str, Any]:
    observation, action = SPACES[name]
    return {"name": f"Test/{name}-v1", "observation_space": space_to_json(observation), "action_space": space_to_json(action),
            "policy": "expert", "expert": "nobody", "noise": 0.25, "view": {"height": 64}}


def make_episodes(name: str, lengths: tuple[int, ...] = (4, 1, 9)) -> list[Episode]:
    observation, action = SPACES[name]
    observation.seed(0), action.seed(1)
    rng = np.random.default_rng(2)
    return [Episode(
        task=f"Test/{name}-v1", seed=50 + number,
        observations=stack_leaves([flatten(observation, observation.sample()) for _ in range(steps + 1)]),
        actions=stack_leaves([flatten(action, action.sample()) for _ in range(steps)]),
        demonstrated=rng.random(steps) < 0.5, rewards=rng.normal(size=steps), terminated=number % 2 == 0,
        truncated=number % 2 == 1, info={"success": number == 1, "é": "–"}) for number, steps in enumerate(lengths)]


@pytest.mark.parametrize("name", SPACES)
def test_episodes_come_back_from_minari_bit_for_bit(tmp_path: Path, name: str) -> None:
    episodes, task = make_episodes(name), make_task(name)
    folder = write_minari(tmp_path, task, episodes)
    back = read_minari(folder)
    assert back.task == task and back.total == 3
    for one, other in zip(episodes, back.episodes, strict=True):
        assert_equal(one, other)
    assert next(read_minari(folder / "data").episodes).seed == 50


def test_minari_finds_it_by_its_id_and_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = make_episodes("mission")
    write_minari(tmp_path, make_task("mission"), episodes)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert list(minari.list_local_datasets()) == ["Test/mission-v1/expert-v0"] == [minari_id(make_task("mission"))]
    data = minari.load_dataset("Test/mission-v1/expert-v0")
    assert (data.total_episodes, data.total_steps) == (3, 14)
    assert isinstance(data.observation_space["mission"], spaces.Text)     # AnyText has no name outside Calico
    for episode, values in zip(episodes, data, strict=True):
        np.testing.assert_array_equal(values.observations["image"], episode.observations["image"])
        assert values.observations["mission"] == episode.observations["mission"].tolist()
        assert all(text in data.observation_space["mission"] for text in values.observations["mission"])
        np.testing.assert_array_equal(values.actions, episode.actions[""])
        assert values.terminations.tolist() == [*[False] * (len(episode) - 1), episode.terminated]
        assert values.truncations.tolist() == [*[False] * (len(episode) - 1), episode.truncated]


def test_pictures_are_not_changed_by_jpeg(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, make_task("picture"), make_episodes("picture"))
    assert MinariStorage.read(folder / "data").jpeg_encoding is False


def written_by_minari(folder: Path, data_format: str, rewards: list[list[float]], **more: Any) -> Path:
    """A data set of Pendulum-like episodes that knows nothing of Calico."""
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", spaces.Box(-8, 8, (2,), np.float64), spaces.Box(-1, 1, (1,), np.float32),
                                data_format=data_format)
    storage.update_episodes(EpisodeBuffer(
        id=number, seed=more.get("seed"), observations=np.arange(2.0 * len(row) + 2).reshape(-1, 2),
        actions=np.full((len(row), 1), 0.5, np.float32), rewards=np.array(row), terminations=np.zeros(len(row), bool),
        truncations=np.arange(len(row)) == len(row) - 1, infos={}) for number, row in enumerate(rewards))
    storage.update_metadata({"dataset_id": "pendulum/medium-v1", "minari_version": minari.__version__, "algorithm_name": "SAC"})
    return folder


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_a_data_set_of_others_is_imported(tmp_path: Path, data_format: str) -> None:
    """The second episode's rewards are whole numbers, which Minari's own reader of Arrow refuses beside the first's."""
    found = read_minari(written_by_minari(tmp_path / "set", data_format, [[0.5, 1.5, 2.5], [1, 2]]))
    assert found.task["name"] == "pendulum/medium-v1"
    assert found.task["source"] == {"format": "minari", "id": "pendulum/medium-v1", "environment": None,
                                    "algorithm_name": "SAC", "minari_version": minari.__version__}
    first, second = found.episodes
    assert first.rewards.tolist() == [0.5, 1.5, 2.5] and second.rewards.tolist() == [1.0, 2.0]
    assert first.observations[""].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]] and first.actions[""].shape == (3, 1)
    assert (first.seed, second.seed) == (0, 1) and first.demonstrated.all()
    assert first.truncated and not first.terminated


def test_another_name_and_other_spaces_may_be_given(tmp_path: Path) -> None:
    folder = written_by_minari(tmp_path / "set", "hdf5", [[1.0]], seed=7)
    both = spaces.Box(-8, 8, (2,), np.float32), spaces.Box(-2, 2, (1,), np.float32)
    found = read_minari(folder, "Mine-v0", both)
    (episode,) = found.episodes
    assert found.task["name"] == episode.task == "Mine-v0" and episode.seed == 7
    assert episode.observations[""].dtype == np.float32 and found.task["observation_space"]["dtype"] == "float32"
    with pytest.raises(ValueError, match=r"set, episode 0, observation has the shape \(2,\) per step, expected \(3,\)"):
        next(read_minari(folder, "Mine-v0", (spaces.Box(-8, 8, (3,)), both[1])).episodes)


def test_what_is_no_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no Minari data set \(no data/metadata.json\)"):
        read_minari(tmp_path)
    folder = written_by_minari(tmp_path / "set", "hdf5", [[1.0], [2.0]])
    file = folder / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="set(, episode 0)? cannot be read"):
        list(read_minari(folder).episodes)
    metadata = folder / "data" / "metadata.json"
    metadata.write_text("{}")
    with pytest.raises(ValueError, match="set cannot be read .ValueError: its metadata.json has no action_space and no obs"):
        read_minari(folder)
    metadata.write_text("hello")
    with pytest.raises(ValueError, match="set cannot be read .JSONDecodeError"):
        read_minari(folder)


def test_a_damaged_description_of_the_task_is_named(tmp_path: Path) -> None:
    folder = write_minari(tmp_path, make_task("numbers"), make_episodes("numbers"))
    metadata = folder / "data" / "metadata.json"
    values = json.loads(metadata.read_text())
    for key, wrong in (("observation_space", None), ("action_space", {"type": "Bax"}), ("name", 3)):
        task = json.loads(values["calico_task"])
        task.update({key: wrong}) if wrong else task.pop(key)
        metadata.write_text(json.dumps(values | {"calico_task": json.dumps(task)}))
        with pytest.raises(ValueError, match=f"cannot be read .*({key}|Bax)"):
            read_minari(folder)


def test_a_lost_step_is_named(tmp_path: Path) -> None:
    import h5py

    folder = written_by_minari(tmp_path / "set", "hdf5", [[1.0], [2.0, 3.0]])
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1"].attrs["total_steps"] = 3
    found = read_minari(folder).episodes
    next(found)
    with pytest.raises(ValueError, match="set, episode 1 cannot be read .ValueError: 2 rewards, its metadata says 3 steps"):
        next(found)


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    episodes, task = make_episodes("numbers"), make_task("numbers")
    empty = replace(episodes[0], rewards=np.zeros(0), demonstrated=np.zeros(0, bool), actions={"": np.zeros(0, int)})
    with pytest.raises(ValueError, match=r"episode 1 \(seed 50\) has no steps"):
        write_minari(tmp_path / "sets", task, [episodes[0], empty])
    (spoken,) = make_episodes("mission", (1,))
    spoken.observations["mission"][0] = "go to\0the ball"
    with pytest.raises(ValueError, match=r"the episode with seed 50 holds the character NUL.*'go to\\x00the ball'"):
        write_minari(tmp_path / "sets", make_task("mission"), [spoken])
    with pytest.raises(ValueError, match="come without their spaces"):
        write_minari(tmp_path / "sets", {"name": "Bare-v0"}, episodes)
    assert not [path for path in (tmp_path / "sets").rglob("*") if path.is_file()]
    folder = write_minari(tmp_path / "sets", task, episodes)
    with pytest.raises(ValueError, match="is there already"):
        write_minari(tmp_path / "sets", task, episodes)
    assert json.loads((folder / "data" / "metadata.json").read_text())["total_episodes"] == 3


def test_a_relative_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_minari(Path("datasets"), make_task("mission"), make_episodes("mission"))
    assert read_minari(tmp_path / "datasets" / minari_id(make_task("mission"))).total == 3


def test_a_data_set_is_named_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = make_episodes("numbers")
    write_minari(tmp_path / "sets", make_task("numbers"), episodes)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    found = list(read_minari(Path("Test/numbers-v1/expert-v0")).episodes)
    assert len(found) == len(episodes)

    def unreachable(name: str) -> None:
        raise ConnectionError(f"no server for {name}\nat all")

    monkeypatch.setattr(minari, "download_dataset", unreachable)
    with pytest.raises(ValueError, match="no folder Test/none-v3 here, and .* downloaded: no server for Test/none-v3$"):
        read_minari(Path("Test/none-v3"))
    with pytest.raises(ValueError, match="is no Minari data set"):
        read_minari(Path("no id"))


@pytest.mark.parametrize("name, view, known", [("CartPole-v1", {}, True), ("CartPole-v1", {"height": 64}, False),
                                               ("CartPole-v1", {"side": None}, True), ("Nothing-v1", {}, False)])
def test_the_environment_is_told_where_gym_make_gives_it(tmp_path: Path, name: str, view: dict[str, Any], known: bool) -> None:
    task = make_task("numbers") | {"name": name, "environment": {"view": view, "kwargs": {"sutton_barto_reward": True}}}
    spec = minari.MinariDataset(write_minari(tmp_path, task, make_episodes("numbers")) / "data").env_spec
    assert (spec is not None) == known
    if known:
        assert spec.id == name and spec.kwargs["sutton_barto_reward"] is True
