"""D4RL's HDF5: episodes are cut where the marks are, and what is missing or misshapen is named with its place."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from calico.datasets.formats.d4rl import read_d4rl
from calico.datasets.formats.importing import Spaces
from calico.tokenizers.spaces import space_from_json

h5py = pytest.importorskip("h5py")

ROWS = 7   # episodes of 3 (ended by the MDP), 2 (by a limit) and 2 steps (cut off)


def write(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "observations": np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2),
        "actions": np.linspace(-1, 1, ROWS, dtype=np.float32)[:, None],
        "rewards": np.arange(ROWS, dtype=np.float32),
        "terminals": np.arange(ROWS) == 2,
        "timeouts": np.arange(ROWS) == 4,
    } | changes
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if values is not None:
                file[name] = values
        file["infos/qpos"] = np.zeros((ROWS, 2))
    return path


def test_a_file_becomes_its_episodes(tmp_path: Path) -> None:
    found = read_d4rl(write(tmp_path / "hopper-medium-v2.hdf5"))
    episodes = list(found.episodes)
    assert found.task["name"] == "hopper-medium-v2" and found.total == 3
    assert found.task["source"] == {"format": "d4rl", "file": "hopper-medium-v2.hdf5", "unknown": ["seed", "final_observation"]}
    assert space_from_json(found.task["observation_space"]) == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert space_from_json(found.task["action_space"]) == spaces.Box(-1, 1, (1,), np.float32)
    assert [len(e) for e in episodes] == [3, 2, 2] and [e.seed for e in episodes] == [0, 1, 2]
    assert [(e.terminated, e.truncated) for e in episodes] == [(True, False), (False, True), (False, True)]
    assert [e.rewards.tolist() for e in episodes] == [[0, 1, 2], [3, 4], [5, 6]]
    assert episodes[1].observations[""].tolist() == [[6, 7], [8, 9], [8, 9]]      # the last one stands for the final one
    actions = np.concatenate([e.actions[""] for e in episodes])
    np.testing.assert_array_equal(actions, np.linspace(-1, 1, ROWS, dtype=np.float32)[:, None])
    assert all(e.demonstrated.all() for e in episodes)


def test_the_final_observation_is_taken_where_there_is_one(tmp_path: Path) -> None:
    after = np.arange(2, ROWS * 2 + 2, dtype=np.float32).reshape(ROWS, 2)
    found = read_d4rl(write(tmp_path / "a.hdf5", next_observations=after))
    assert next(found.episodes).observations[""].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert found.task["source"]["unknown"] == ["seed"]


def test_marks_on_the_last_row_leave_no_rest(tmp_path: Path) -> None:
    found = read_d4rl(write(tmp_path / "a.hdf5", timeouts=np.arange(ROWS) == ROWS - 1, terminals=np.zeros((ROWS, 1))))
    (episode,) = found.episodes
    assert len(episode) == ROWS and episode.truncated


def test_other_actions_get_other_spaces(tmp_path: Path) -> None:
    wide = read_d4rl(write(tmp_path / "a.hdf5", actions=np.full((ROWS, 2), 3.0)))
    assert space_from_json(wide.task["action_space"]) == spaces.Box(-np.inf, np.inf, (2,), np.float64)
    whole = read_d4rl(write(tmp_path / "b.hdf5", actions=np.arange(ROWS)))
    assert space_from_json(whole.task["action_space"]) == spaces.Discrete(ROWS)


def test_given_spaces_must_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", actions=np.arange(ROWS))
    observation = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    (first, *_) = read_d4rl(path, "Mine-v0", (observation, spaces.Discrete(9))).episodes
    assert first.task == "Mine-v0" and first.observations[""].dtype == np.float64
    wrong: list[tuple[Spaces, str]] = [
        ((observation, spaces.Discrete(5)), r"a.hdf5, rows \[5, 7\), action holds 5, which is outside Discrete\(5\)"),
        ((spaces.Box(-1, 1, (3,)), spaces.Discrete(9)), r"rows \[0, 3\), observation has the shape \(2,\) per step, expected"),
        ((spaces.Dict(a=observation), spaces.Discrete(9)), r"observation has the leaves \[''\], its space has \['a'\]"),
    ]
    for both, says in wrong:
        with pytest.raises(ValueError, match=says):
            list(read_d4rl(path, "Mine-v0", both).episodes)


NAN = np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2)
NAN[5, 1] = np.nan


@pytest.mark.parametrize("changes, says", [
    ({"timeouts": None}, r"lacks timeouts \(files of D4RL's version 0 .*it holds actions, infos, observations"),
    ({"rewards": None, "actions": None}, "lacks actions, rewards; it holds"),
    ({"actions": np.zeros((ROWS - 1, 1))}, r"actions \(6, 1\) where rewards has 7 rows"),
    ({"observations": NAN}, r"rows \[5, 7\), observation holds 1 NaN of 4 values"),
    ({"rewards": np.array([0, 0, 0, 0, np.inf, 0, 0])}, r"rows \[3, 5\): the reward of step 1 is not finite"),
])
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"a.hdf5.*{says}"):
        list(read_d4rl(write(tmp_path / "a.hdf5", **changes)).episodes)


def test_what_is_no_hdf5_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file; give a D4RL data set"):
        read_d4rl(tmp_path / "nothing.hdf5")
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(ValueError, match="text.hdf5 cannot be read .OSError"):
        read_d4rl(tmp_path / "text.hdf5")


def test_a_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)   # makes `import h5py` fail
    with pytest.raises(ImportError, match=r'pip install "calico-agent\[data\]"'):
        read_d4rl(tmp_path / "a.hdf5")


def test_an_infinite_action_costs_its_episode_alone(tmp_path: Path) -> None:
    actions = np.linspace(-1, 1, ROWS, dtype=np.float16)[:, None]
    actions[4] = np.inf
    path = write(tmp_path / "x.hdf5", actions=actions, observations=np.ones((ROWS, 2), np.float16))
    found, skipped = read_d4rl(path), list[str]()
    assert space_from_json(found.task["action_space"]) == spaces.Box(-1, 1, (1,), np.float32)
    assert [episode.seed for episode in found.usable(skipped)] == [0, 2] and len(skipped) == 1
    assert "x.hdf5, rows [3, 5), action holds 1 infinite of 2 values" in skipped[0]


def test_an_empty_file_has_no_episodes(tmp_path: Path) -> None:
    empty = {"observations": np.zeros((0, 2), np.float32), "actions": np.zeros((0, 1), np.float32), "rewards": np.zeros(0),
             "terminals": np.zeros(0, bool), "timeouts": np.zeros(0, bool)}
    assert read_d4rl(write(tmp_path / "x.hdf5", **empty)).total == 0
