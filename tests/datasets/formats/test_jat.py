"""JAT's Parquet episodes: each kind of column comes back as it was, and what does not fit is named with file and row."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from PIL import Image

from calico.datasets.formats.jat import read_jat
from calico.tokenizers.spaces import AnyText, space_from_json

LENGTHS = (3, 1, 5)


def write(path: Path, columns: dict[str, list[Any]], types: dict[str, pa.DataType] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: pa.array(values, (types or {}).get(name)) for name, values in columns.items()}), path)
    return path


def numbers(seed: int, *shape: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(steps, *shape)).astype(np.float32).tolist() for steps in LENGTHS]


FLOATS = pa.list_(pa.list_(pa.float32()))


def hopper(path: Path) -> tuple[Path, dict[str, list[Any]]]:
    columns = {"continuous_observations": numbers(0, 11), "continuous_actions": numbers(1, 3), "rewards": numbers(2)}
    write(path, columns, {"continuous_observations": FLOATS, "continuous_actions": FLOATS, "rewards": pa.list_(pa.float32())})
    return path, columns


def test_states_and_actions(tmp_path: Path) -> None:
    path, columns = hopper(tmp_path / "mujoco-hopper" / "train-00000-of-00001-0123456789abcdef.parquet")
    found = read_jat(path.parent)
    assert found.task["name"] == "mujoco-hopper" and found.total == 3
    assert found.task["source"] == {"format": "jat", "files": [path.name],
                                    "unknown": ["seed", "final_observation", "terminated"]}
    assert space_from_json(found.task["observation_space"]) == spaces.Box(-np.inf, np.inf, (11,), np.float32)
    assert space_from_json(found.task["action_space"]) == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    for number, episode in enumerate(found.episodes):
        seen = np.array(columns["continuous_observations"][number], np.float32)
        np.testing.assert_array_equal(episode.observations[""], [*seen, seen[-1]])     # the final one is not in the file
        np.testing.assert_array_equal(episode.actions[""], np.array(columns["continuous_actions"][number], np.float32))
        np.testing.assert_array_equal(episode.rewards, np.array(columns["rewards"][number], np.float32))
        assert episode.observations[""].dtype == np.float32 and episode.seed == number and len(episode) == LENGTHS[number]
        assert episode.truncated and not episode.terminated and episode.info == {"file": path.name}


def test_missions_and_symbols(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {
        "text_observations": [["go to the red ball"] * 3, ["é"], [""] * 5],
        "discrete_observations": [rng.integers(0, 9, (steps, 6)).tolist() for steps in LENGTHS],
        "discrete_actions": [rng.integers(0, 7, steps).tolist() for steps in LENGTHS],
        "rewards": numbers(2),
    }
    columns["discrete_observations"][2][4][5], columns["discrete_actions"][2][4] = 10, 6
    found = read_jat(write(tmp_path / "go.parquet", columns))
    assert found.task["name"] == "go"
    assert space_from_json(found.task["observation_space"]) == spaces.Dict(
        discrete=spaces.MultiDiscrete(np.full(6, 11)), text=AnyText())
    assert space_from_json(found.task["action_space"]) == spaces.Discrete(7)
    for number, episode in enumerate(found.episodes):
        texts = columns["text_observations"][number]
        assert episode.observations["text"].tolist() == [*texts, texts[-1]]
        assert episode.observations["discrete"][:-1].tolist() == columns["discrete_observations"][number]
        assert episode.actions[""].tolist() == columns["discrete_actions"][number]


def png(pixels: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize("shape", [(84, 84, 4), (64, 48, 3), (32, 32)])
def test_pictures_keep_their_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Four grey frames that JAT keeps as RGBA must not be blended as if the fourth were transparency."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (steps, *shape), dtype=np.uint8) for steps in LENGTHS]
    found = read_jat(write(tmp_path / "pong.parquet", {
        "image_observations": [[png(frame) for frame in part] for part in frames],
        "discrete_actions": [[1] * steps for steps in LENGTHS], "rewards": numbers(2)}))
    assert space_from_json(found.task["observation_space"]) == spaces.Box(0, 255, shape, np.uint8)
    for part, episode in zip(frames, found.episodes, strict=True):
        np.testing.assert_array_equal(episode.observations[""], [*part, part[-1]])


def test_several_files_and_splits_are_one_task(tmp_path: Path) -> None:
    for name in ("test-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"):
        hopper(tmp_path / "hub" / f"{name}.parquet")
    for name in ("train/0000", "test/0000"):
        hopper(tmp_path / "converted" / f"{name}.parquet")
    hub, converted = read_jat(tmp_path / "hub"), read_jat(tmp_path / "converted")
    assert (hub.total, converted.total) == (9, 6) and [e.seed for e in hub.episodes] == list(range(9))
    with pytest.raises(ValueError, match=r"holds no .parquet file; give one task's folder, such as .*hub"):
        read_jat(tmp_path)


def test_what_does_not_fit_is_named_with_file_and_row(tmp_path: Path) -> None:
    path, columns = hopper(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet, row 0, observation has the shape \(11,\) per step, expected \(12,\)"):
        next(read_jat(path, "Mine-v0", (spaces.Box(-1, 1, (12,)), spaces.Box(-1, 1, (3,)))).episodes)
    changes: list[tuple[dict[str, list[Any]], str]] = [
        ({"rewards": [[0.0] * 3, [0.0], [0.0] * 4]}, "row 2, action has 5 rows for 4 rewards; expected 4"),
        ({"rewards": [[0.0] * 3, [None], [0.0] * 5]}, "row 1 cannot be read .ValueError: 1 null values"),
        ({"continuous_actions": [*columns["continuous_actions"][:2], [[0.0] * 3] * 4 + [[0.0] * 2]]},
         "row 2 cannot be read .ValueError: lists of 2 different lengths"),
        ({"rewards": [[0.0] * 3, [], [0.0] * 5]}, r"row 1: rewards have shape \(0,\)"),
        ({"rewards": [[0.0] * 2 + [float("nan")], [0.0], [0.0] * 5]}, "row 0: the reward of step 2 is not finite"),
        ({"rewards": [["much"] * 3, ["little"], ["none"] * 5]}, "row 0 cannot be read .*could not convert"),
    ]
    for change, says in changes:
        with pytest.raises(ValueError, match=says):
            list(read_jat(write(tmp_path / "b.parquet", columns | change)).episodes)


def test_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing does not exist; give a task's folder"):
        read_jat(tmp_path / "nothing")
    with pytest.raises(ValueError, match="has the columns text; JAT's episodes have rewards, at least one of"):
        read_jat(write(tmp_path / "words.parquet", {"text": ["hello"]}))
    (tmp_path / "noise.parquet").write_bytes(b"hello")
    with pytest.raises(ValueError, match="noise.parquet cannot be read .ArrowInvalid"):
        read_jat(tmp_path / "noise.parquet")
    hopper(tmp_path / "mixed" / "a.parquet")
    write(tmp_path / "mixed" / "b.parquet", {"discrete_observations": [[1]], "discrete_actions": [[1]], "rewards": [[0.0]]})
    with pytest.raises(ValueError, match="b.parquet has discrete_observations, discrete_actions but a.parquet has"):
        read_jat(tmp_path / "mixed")
    nothing = pa.array([], pa.list_(pa.int64()))
    pq.write_table(pa.table({"discrete_observations": nothing, "discrete_actions": nothing, "rewards": nothing}),
                   tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="empty.parquet holds no episode"):
        read_jat(tmp_path / "empty.parquet")


def test_a_picture_that_is_none_is_refused(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"image_observations": [[{"bytes": b"GIF89a", "path": None}]], "discrete_actions": [[0]],
                                     "rewards": [[0.0]]}
    with pytest.raises(ValueError, match="a.parquet, row 0, image_observations cannot be read .UnidentifiedImageError"):
        read_jat(write(tmp_path / "a.parquet", columns))
    columns["image_observations"] = [[{"bytes": None, "path": "frame.png"}]]
    types = {"image_observations": pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    with pytest.raises(ValueError, match="a picture that is kept elsewhere"):
        read_jat(write(tmp_path / "a.parquet", columns, types))


def test_odd_episodes_are_left_out_one_by_one(tmp_path: Path) -> None:
    """A null, an empty one, one of two lengths and one with an infinite action; the others come, and the space is theirs."""
    good = [[0.5, -0.5]] * 3
    columns: dict[str, list[Any]] = {
        "continuous_observations": [good, None, [], good, good],
        "continuous_actions": [good, good, [], [[0.0, np.inf]] * 3, good],
        "rewards": [[1.0] * 3, [1.0] * 3, [], [1.0] * 3, [1.0] * 3]}
    path = write(tmp_path / "t" / "train.parquet", columns, {"continuous_observations": FLOATS, "continuous_actions": FLOATS})
    found, skipped = read_jat(path.parent), list[str]()
    assert space_from_json(found.task["action_space"]) == spaces.Box(-1, 1, (2,), np.float32)
    assert [episode.seed for episode in found.usable(skipped)] == [0, 4] and len(skipped) == 3
    assert "row 1" in skipped[0] and "null instead of a list" in skipped[0] and "rewards have shape (0,)" in skipped[1]
    assert "action holds 3 infinite of 6 values" in skipped[2]
    with pytest.raises(ValueError, match="null instead of a list"):
        list(read_jat(path.parent).episodes)
    write(path, {name: values[1:4] for name, values in columns.items()},
          {"continuous_observations": FLOATS, "continuous_actions": FLOATS})
    with pytest.raises(ValueError, match="none of the 3 episodes can be imported; the first: .*row 0"):
        list(read_jat(path.parent, both=(spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (2,)))).usable([]))


@pytest.mark.parametrize(("kind", "space"), [
    (pa.float16(), spaces.Box(-1, 1, (2,), np.float32)), (pa.bool_(), spaces.MultiBinary((2,)))])
def test_half_floats_and_bools_are_read(tmp_path: Path, kind: pa.DataType, space: spaces.Space[Any]) -> None:
    values = np.array([[1, 0], [0, 1]], np.float16 if kind == pa.float16() else bool)
    lists = pa.array([[list(row) for row in values]] * 2, pa.list_(pa.list_(kind)))
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"continuous_observations": lists, "continuous_actions": lists, "rewards": [[1.0, 1.0]] * 2}),
                   tmp_path / "t" / "train.parquet")
    found = read_jat(tmp_path / "t")
    assert space_from_json(found.task["action_space"]) == space
    assert [episode.actions[""].tolist() for episode in found.episodes] == [[[1, 0], [0, 1]]] * 2
