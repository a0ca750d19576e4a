"""LeRobot's layout v3.0: what its reader looks for stands where it looks, and no number is changed on the way.

Its reader itself (lerobot 0.4.4, too heavy for this suite) has opened data sets of all these kinds.
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from PIL import Image

from calico.datasets.formats import lerobot as lerobot_data
from calico.datasets.formats.lerobot import FPS, Statistics, write_lerobot
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import AnyText, flatten, space_to_json, stack_leaves

OBSERVATION = spaces.Dict(
    arm=spaces.Dict(joints=spaces.Box(-1, 1, (3,), np.float32), grips=spaces.MultiBinary(2)),
    camera=spaces.Box(0, 255, (16, 20, 3), np.uint8), grid=spaces.Box(0, 255, (7, 7, 3), np.uint8), mission=AnyText(),
    nothing=spaces.Box(-1, 1, (0,)), way=spaces.Discrete(4))
ACTION = spaces.Box(-2, 2, (2,), np.float32)
LENGTHS = (4, 1, 6)


def make_task(observation: spaces.Space[Any] = OBSERVATION, action: spaces.Space[Any] = ACTION) -> dict[str, Any]:
    return {"name": "Test/Arm-v1", "observation_space": space_to_json(observation), "action_space": space_to_json(action)}


def make_episodes(observation: spaces.Space[Any] = OBSERVATION, action: spaces.Space[Any] = ACTION) -> list[Episode]:
    observation.seed(0), action.seed(1)
    made = []
    for number, steps in enumerate(LENGTHS):
        seen = stack_leaves([flatten(observation, observation.sample()) for _ in range(steps + 1)])
        if "mission" in seen:
            seen["mission"][:] = "go left" if number == 1 else "é"
        made.append(Episode(
            task="Test/Arm-v1", seed=number, observations=seen,
            actions=stack_leaves([flatten(action, action.sample()) for _ in range(steps)]), demonstrated=np.arange(steps) != 2,
            rewards=np.arange(steps) / 3, terminated=number == 0, truncated=number != 0))
    return made


def read(folder: Path, name: str) -> Any:
    return pq.read_table(folder / name).to_pylist()


def test_every_leaf_is_a_feature_and_every_step_a_row(tmp_path: Path) -> None:
    episodes = make_episodes()
    folder = write_lerobot(tmp_path, make_task(), episodes)
    assert folder == tmp_path / "Test-Arm-v1"
    info = json.loads((folder / "meta" / "info.json").read_text())
    shapes = {name: (feature["dtype"], feature["shape"]) for name, feature in info["features"].items()}
    assert shapes | {
        "observation.arm.joints": ("float32", [3]), "observation.arm.grips": ("int8", [2]), "observation.way": ("int64", [1]),
        "observation.images.camera": ("image", [16, 20, 3]), "observation.grid": ("uint8", [7, 7, 3]),
        "action": ("float32", [2]), "next.reward": ("float32", [1]),
        "next.done": ("bool", [1]), "timestamp": ("float32", [1]), "index": ("int64", [1]),
    } == shapes and not [name for name in shapes if "nothing" in name or "mission" in name]
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"], info["total_tasks"]) == ("v3.0", 3, 11, 2)
    rows = read(folder, info["data_path"].format(chunk_index=0, file_index=0))
    assert rows[0].keys() == shapes.keys() and [row["index"] for row in rows] == list(range(11))
    assert [row["frame_index"] for row in rows] == [i for steps in LENGTHS for i in range(steps)]
    assert [row["next.done"] for row in rows] == [i == steps - 1 for steps in LENGTHS for i in range(steps)]
    assert [row["task_index"] for row in rows] == [0] * 4 + [1] + [0] * 6
    assert rows[3]["timestamp"] == pytest.approx(3 / FPS)
    assert [row["demonstrated"] for row in rows[:4]] == [True, True, False, True]
    for row in rows:
        episode, step = episodes[row["episode_index"]], row["frame_index"]
        for leaf in ("arm/joints", "arm/grips", "grid", "way"):
            assert row[f"observation.{leaf.replace('/', '.')}"] == episode.observations[leaf][step].tolist()
        assert row["action"] == episode.actions[""][step].tolist() and row["next.reward"] == np.float32(episode.rewards[step])
        with Image.open(io.BytesIO(row["observation.images.camera"]["bytes"])) as picture:
            np.testing.assert_array_equal(np.asarray(picture), episode.observations["camera"][step])


def test_episodes_and_tasks_are_where_they_are_looked_for(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path, make_task(), make_episodes())
    rows = read(folder, "meta/episodes/chunk-000/file-000.parquet")
    assert [row["length"] for row in rows] == list(LENGTHS) and [row["tasks"] for row in rows] == [["é"], ["go left"], ["é"]]
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 4), (4, 5), (5, 11)]
    table = pq.read_table(folder / "meta" / "tasks.parquet")
    assert table.to_pylist() == [{"task_index": 0, "task": "é"}, {"task_index": 1, "task": "go left"}]
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_are_those_of_all_rows(tmp_path: Path) -> None:
    episodes = make_episodes()
    stats = json.loads((write_lerobot(tmp_path, make_task(), episodes) / "meta" / "stats.json").read_text())
    joints = np.concatenate([e.observations["arm/joints"][:-1] for e in episodes]).astype(float)
    pixels = np.concatenate([e.observations["camera"][:-1] for e in episodes]).reshape(-1, 3) / 255
    for name, values, shape in (("observation.arm.joints", joints, (3,)), ("observation.images.camera", pixels, (3, 1, 1))):
        assert np.shape(stats[name]["mean"]) == shape and stats[name]["count"] == [len(values)]
        for found in ("mean", "std", "min", "max"):
            np.testing.assert_allclose(np.ravel(stats[name][found]), getattr(values, found)(0), rtol=1e-9)


def test_a_spread_far_from_zero_is_not_lost() -> None:
    statistics, values = Statistics(), 1e9 + np.arange(6.0)
    statistics.add(values[:2])
    statistics.add(values[2:])
    assert statistics.to_json([1])["std"] == pytest.approx([values.std()])


@pytest.mark.parametrize("shape, kind", [((16, 16), "L"), ((16, 16, 1), "L"), ((16, 16, 2), "LA"), ((16, 16, 4), "RGBA")])
def test_pictures_of_other_channels_and_the_names_of_plain_spaces(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    observation, action = spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(3)
    (row, *_) = read(write_lerobot(tmp_path, make_task(observation, action), make_episodes(observation, action)),
                     "data/chunk-000/file-000.parquet")
    with Image.open(io.BytesIO(row["observation.image"]["bytes"])) as picture:
        assert picture.mode == kind
        np.testing.assert_array_equal(np.asarray(picture), make_episodes(observation, action)[0].observations[""][0].squeeze())
    assert row["action"] == make_episodes(observation, action)[0].actions[""][0]


def test_large_data_sets_take_several_files_and_episodes_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_data, "FILE_BYTES", 1)
    monkeypatch.setattr(lerobot_data, "FILES_PER_CHUNK", 2)
    folder = write_lerobot(tmp_path, make_task(), make_episodes())
    rows = read(folder, "meta/episodes/chunk-000/file-000.parquet")
    assert [(row["data/chunk_index"], row["data/file_index"]) for row in rows] == [(0, 0), (0, 1), (1, 0)]
    lengths = [pq.read_metadata(path).num_rows for path in sorted(folder.glob("data/*/*.parquet"))]
    assert lengths == list(LENGTHS)


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    episodes = make_episodes()
    empty = replace(episodes[0], rewards=np.zeros(0))
    for task, given, says in [
        (make_task(), [episodes[0], empty], r"episode 1 \(seed 0\) has no steps"),
        (make_task(), [], "there is no episode to write"),
        (make_task(OBSERVATION, spaces.Text(3)), episodes, "the action '' is text"),
        ({"name": "Bare-v0"}, episodes, "come without their spaces"),
    ]:
        with pytest.raises(ValueError, match=says):
            write_lerobot(tmp_path, task, given)
    assert not list(tmp_path.iterdir())
    write_lerobot(tmp_path, make_task(), episodes)
    with pytest.raises(ValueError, match="Test-Arm-v1 is there already"):
        write_lerobot(tmp_path, make_task(), episodes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.int8, np.uint8, np.bool_])
def test_leaves_of_one_number_are_columns_of_numbers(tmp_path: Path, dtype: type) -> None:
    """LeRobot's own sets keep features of shape (1,) so."""
    low, high = (-1, 1) if np.dtype(dtype).kind in "if" else (0, 1)
    space = spaces.Box(low, high, (1,), dtype)
    episodes = make_episodes(space, space)
    folder = write_lerobot(tmp_path, make_task(space, space), episodes)
    rows = pq.read_table(folder / "data/chunk-000/file-000.parquet").to_pydict()
    observed, done = ([e.observations[""][:-1] for e in episodes], [e.actions[""] for e in episodes])
    for feature, leaves in (("action", done), ("observation.state", observed)):
        np.testing.assert_array_equal(np.array(rows[feature], dtype), np.concatenate(leaves)[:, 0])
    assert json.loads((folder / "meta/info.json").read_text())["features"]["action"]["shape"] == [1]
