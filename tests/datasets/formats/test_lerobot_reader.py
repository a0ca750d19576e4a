"""LeRobot's layout v3.0 is read: what Calico exported comes back, videos are decoded, broken data sets are named.

Where the package lerobot is installed (it is too heavy for the default environment), it stands at the other end.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from PIL import Image

from calico.datasets.formats.lerobot import write_lerobot
from calico.datasets.formats.lerobot_reader import as_shaped, picture_shape, read_lerobot, video_frames
from calico.tokenizers.episode import Episode
from calico.tokenizers.spaces import AnyText, space_from_json

from .test_lerobot import LENGTHS, OBSERVATION, make_episodes, make_task

FPS, SIDE = 10, 32


def colour(episode: int, step: int) -> np.ndarray:
    """A picture that says which it is: uint8 (SIDE, SIDE, 3), its left half tells the step, its right half the episode."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, : SIDE // 2], pixels[:, SIDE // 2 :] = 20 + 20 * step, 20 + 80 * episode
    return pixels


def write_video(path: Path, frames: list[np.ndarray], fps: int = FPS) -> None:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, _ = frames[0].shape
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_robot(root: Path, lengths: tuple[int, ...] = (4, 6, 3), **changes: Any) -> Path:
    """A data set as a robot's, by the documented layout: two files of data, one video of all episodes, no rewards."""
    folder = root / "so100"
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
        "observation.images.top": {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        **{name: {"dtype": "int64", "shape": [1], "names": None}
           for name in ("frame_index", "episode_index", "index", "task_index")}}
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features, "total_episodes": len(lengths),
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"} | changes
    about, first = list[dict[str, Any]](), 0
    frames: list[np.ndarray] = []
    for number, steps in enumerate(lengths):
        step = np.arange(steps)
        about.append({"episode_index": number, "length": steps, "tasks": ["x"],
                      "data/chunk_index": 0, "data/file_index": number // 2,
                      "dataset_from_index": first, "dataset_to_index": first + steps,
                      "videos/observation.images.top/chunk_index": 0, "videos/observation.images.top/file_index": 0,
                      "videos/observation.images.top/from_timestamp": len(frames) / FPS,
                      "videos/observation.images.top/to_timestamp": (len(frames) + steps) / FPS, "stats/action/mean": [0.0]})
        table = pa.table({
            "observation.state": pa.array([[number, float(i)] for i in step], pa.list_(pa.float32(), 2)),
            "action": pa.array([[-90.0 + i, 0.5] for i in step], pa.list_(pa.float32(), 2)),
            "next.success": step == steps - 1, "frame_index": step, "episode_index": np.full(steps, number),
            "index": first + step, "task_index": np.full(steps, number % 2)})
        path = folder / "data" / "chunk-000" / f"file-{number // 2:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([pq.read_table(path), table]) if path.exists() else table, path)
        frames += [colour(number, i) for i in range(steps)]
        first += steps
    meta = folder / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(about), meta / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": ["push", "pull"]}), meta / "tasks.parquet")
    (meta / "info.json").write_text(json.dumps(info))
    write_video(folder / "videos" / "observation.images.top" / "chunk-000" / "file-000.mp4", frames)
    return folder


def assert_same(one: Episode, other: Episode) -> None:
    """All but the final observation, which LeRobot does not keep."""
    assert (one.seed, one.terminated, one.truncated, one.info) == (other.seed, other.terminated, other.truncated, other.info)
    np.testing.assert_allclose(one.rewards, other.rewards, rtol=1e-6)
    np.testing.assert_array_equal(one.demonstrated, other.demonstrated)
    for mine, its in ((one.observations, other.observations), (one.actions, other.actions)):
        assert mine.keys() == its.keys()
        for leaf, values in mine.items():
            assert values.dtype == its[leaf].dtype, leaf
            np.testing.assert_array_equal(values[: len(one)], its[leaf][: len(one)], err_msg=leaf)


@pytest.mark.parametrize("observation, action", [
    (spaces.Dict({key: part for key, part in OBSERVATION.spaces.items() if key != "nothing"}), spaces.Box(-2, 2, (2,))),
    (spaces.Box(0, 255, (16, 20, 1), np.uint8), spaces.Discrete(5, start=-2)),
    (spaces.Box(0, 255, (16, 20, 4), np.uint8), spaces.Dict(a=spaces.MultiBinary(3), b=spaces.Box(-1, 1, (), np.float64))),
    (spaces.Box(-1, 1, (2, 3), np.float64), spaces.MultiDiscrete([3, 4]))])
def test_what_was_exported_comes_back(tmp_path: Path, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
    episodes, task = make_episodes(observation, action), make_task(observation, action)
    back = read_lerobot(write_lerobot(tmp_path, task, episodes))
    assert back.task == task and back.total == len(LENGTHS)
    for one, other in zip(episodes, back.episodes, strict=True):
        assert_same(one, other)


def test_without_its_own_file_the_spaces_are_those_of_the_features(tmp_path: Path) -> None:
    folder = write_lerobot(tmp_path, make_task(), make_episodes())
    (folder / "meta" / "calico.json").unlink()
    back = read_lerobot(folder, "arm")
    space = space_from_json(back.task["observation_space"])
    assert isinstance(space, spaces.Dict) and back.task["name"] == "arm"
    assert space["camera"] == spaces.Box(0, 255, (16, 20, 3), np.uint8) and space["task"] == AnyText()
    assert space["arm.joints"] == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    first = next(back.episodes)
    assert first.observations["task"].tolist() == ["é"] * 5 and first.seed == 0


def test_a_robot_s_pictures_are_frames_of_its_video(tmp_path: Path) -> None:
    back = read_lerobot(write_robot(tmp_path))
    space, action = (space_from_json(back.task[key]) for key in ("observation_space", "action_space"))
    assert isinstance(space, spaces.Dict) and set(space.spaces) == {"state", "top", "task"}
    assert isinstance(action, spaces.Box)
    np.testing.assert_allclose((action.low, action.high), ([-90.25, 0.5], [-84.75, 0.5]), atol=1e-5)
    assert back.task["source"]["unknown"] == ["seed", "final_observation", "terminated", "reward"]
    assert back.task["source"]["fps"] == FPS and back.task["name"] == "so100"
    for number, episode in enumerate(back.episodes):
        assert len(episode) == (4, 6, 3)[number] and episode.truncated and episode.info == {"success": True}
        assert episode.observations["task"][0] == ("push", "pull", "push")[number]
        for step in range(len(episode)):
            seen, meant = episode.observations["top"][step].astype(int), colour(number, step)
            assert abs(seen[16, 4] - meant[16, 4]).max() < 8 and abs(seen[16, 28] - meant[16, 28]).max() < 8, (number, step)
            assert episode.observations["state"][step].tolist() == [number, step]


def test_pictures_are_fitted_to_a_size(tmp_path: Path) -> None:
    episode = next(read_lerobot(write_robot(tmp_path), size=16).episodes)
    assert episode.observations["top"].shape == (5, 16, 16, 3)
    assert abs(episode.observations["top"][2, 8, 2].astype(int) - 60).max() < 8


def test_a_time_without_a_picture_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [colour(0, step) for step in range(5)])
    assert video_frames(tmp_path / "a.mp4", 0.2, 3, FPS, (SIDE, SIDE, 3)).shape == (3, SIDE, SIDE, 3)
    with pytest.raises(ValueError, match=r"a.mp4: not a readable video \(no picture at 0.500 s; the nearest is at 0.400 s"):
        video_frames(tmp_path / "a.mp4", 0.2, 4, FPS, (SIDE, SIDE, 3))
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="a.mp4: not a readable video"):
        video_frames(tmp_path / "a.mp4", 0, 1, FPS, (SIDE, SIDE, 3))


@pytest.mark.parametrize("shape, names, meant", [
    ([48, 64, 3], ["height", "width", "channels"], (48, 64, 3)), ([3, 48, 64], ["channels", "height", "width"], (48, 64, 3)),
    ([3, 48, 64], None, (48, 64, 3)), ([48, 64, 1], None, (48, 64, 1))])
def test_channels_stand_where_the_names_say(shape: list[int], names: list[str] | None, meant: tuple[int, int, int]) -> None:
    assert picture_shape(shape, names) == meant


def spoil(name: str, spoiled: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        spoiled(document)
        (folder / name).write_text(json.dumps(document))
    return change


@pytest.mark.parametrize("change, says", [
    (lambda folder: (folder / "meta" / "info.json").unlink(), "is no LeRobot data set"),
    (spoil("meta/info.json", lambda info: info.update(codebase_version="v2.1")), "its layout is v2.1, v3.0 is read"),
    (spoil("meta/info.json", lambda info: info.update(fps=0)), "fps is 0"),
    (spoil("meta/info.json", lambda info: info.update(data_path="../{chunk_index}{file_index}")), "lies outside of"),
    (spoil("meta/info.json", lambda info: info.update(data_path="data/{file_idex}")), "data_path is 'data/{file_idex}'"),
    (spoil("meta/info.json", lambda info: info.update(data_path="{file_index:999999999d}")), "data_path is .*; text with"),
    (spoil("meta/info.json", lambda info: info["features"].pop("action")), "has no feature action"),
    (spoil("meta/info.json", lambda info: info["features"]["action"].update(dtype="tensor")), "which is none of numbers"),
    (spoil("meta/info.json", lambda info: info["features"]["action"].update(shape=[7])), "cannot be read"),
    (lambda folder: (folder / "meta" / "tasks.parquet").write_bytes(b"PAR1"), "meta cannot be read"),
    (lambda folder: (folder / "data" / "chunk-000" / "file-000.parquet").unlink(), "cannot be read"),
    (lambda folder: next(folder.glob("videos/*/*/*")).write_bytes(b"no"), "not a readable video")])
def test_what_is_broken_is_one_line(tmp_path: Path, change: Callable[[Path], object], says: str) -> None:
    folder = write_robot(tmp_path)
    change(folder)
    with pytest.raises(ValueError, match=says) as caught:
        list(read_lerobot(folder).episodes)
    assert "\n" not in str(caught.value)


def lerobot_dataset() -> Any:
    return pytest.importorskip("lerobot.datasets.lerobot_dataset").LeRobotDataset


def test_lerobot_itself_opens_what_was_exported(tmp_path: Path) -> None:
    dataset, episodes = lerobot_dataset(), make_episodes()
    folder = write_lerobot(tmp_path, make_task(), episodes, fps=25)
    opened = dataset("Test-Arm-v1", root=folder)
    assert (opened.num_episodes, len(opened), opened.fps) == (3, sum(LENGTHS), 25)
    for index, (number, step) in enumerate((n, i) for n, steps in enumerate(LENGTHS) for i in range(steps)):
        item, episode = opened[index], episodes[number]
        np.testing.assert_allclose(item["action"], episode.actions[""][step])
        np.testing.assert_allclose(item["observation.arm.joints"], episode.observations["arm/joints"][step])
        pixels = np.asarray(item["observation.images.camera"]).transpose(1, 2, 0) * 255
        np.testing.assert_allclose(pixels, episode.observations["camera"][step], atol=0.01)
        assert item["task"] == episode.observations["mission"][step]


@pytest.mark.parametrize("videos", [False, True])
def test_what_lerobot_itself_wrote_is_imported(tmp_path: Path, videos: bool) -> None:
    features = {"observation.state": {"dtype": "float32", "shape": (2,), "names": None},
                "observation.images.top": {"dtype": "video" if videos else "image", "shape": (64, 64, 3),
                                           "names": ["height", "width", "channels"]},
                "action": {"dtype": "float32", "shape": (2,), "names": None}}
    written = lerobot_dataset().create("me/arm", fps=FPS, features=features, root=tmp_path / "arm", use_videos=videos)
    for number in range(3):
        for step in range(5 + number):
            picture = np.kron(colour(number, step), np.ones((2, 2, 1), np.uint8))
            written.add_frame({"observation.state": np.array([number, step], np.float32), "observation.images.top": picture,
                               "action": np.array([step / 10, 1], np.float32), "task": f"task {number % 2}"})
        written.save_episode()
    written.finalize()
    back = read_lerobot(tmp_path / "arm")
    assert back.total == 3
    for number, episode in enumerate(back.episodes):
        assert len(episode) == 5 + number and set(episode.observations["task"]) == {f"task {number % 2}"}
        for step in range(len(episode)):
            assert episode.observations["state"][step].tolist() == [number, step]
            seen = episode.observations["top"][step, 32].astype(int)
            assert abs(seen[[8, 56]] - colour(number, step)[16, [4, 28]]).max() < 12, (number, step)


@pytest.mark.parametrize(("mode", "colour", "expected"), [("I;16", 32896, [128]), ("RGBA", (255, 0, 0, 0), [255, 255, 255]),
                                                          ("LA", (0, 0), [255, 255, 255]), ("P", 0, [0, 0, 0])])
def test_pictures_of_other_modes_are_seen_as_everywhere(mode: str, colour: Any, expected: list[int]) -> None:
    """Depth of 16 bits became white, and what is transparent the colour below it."""
    out = io.BytesIO()
    Image.new(mode, (24, 16), colour).save(out, "PNG")
    pixels = as_shaped(out.getvalue(), (16, 24, len(expected)))
    assert pixels.shape == (16, 24, len(expected)) and (pixels == expected).all()
    if mode == "RGBA":
        assert (as_shaped(out.getvalue(), (16, 24, 4)) == colour).all()       # a space of four channels keeps them
