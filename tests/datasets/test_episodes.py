"""Episodes written as Parquet come back bit for bit; whatever is damaged is named and never loaded."""

import json
import os
import resource
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calico.datasets import publish
from calico.datasets.episodes import EpisodeReader, EpisodeWriter
from calico.datasets.formats import parquet_part as parts
from calico.tokenizers.episode import Episode

TASK = {"name": "test", "env_id": "Test-v0", "expert": "none", "noise": 0.1}


def make_episode(seed: int, steps: int, *, frames: bool = True) -> Episode:
    """An episode with one leaf of every sort, its values a function of the seed."""
    rng = np.random.default_rng(seed)
    rows = steps + 1
    observations = {
        "mission": np.array(["go to the red ball", "é\0\n▁ ", ""] * rows, object)[:rows],
        "state": rng.normal(size=(rows, 3)).astype(np.float32),
        "goal/place": rng.integers(0, 9, rows),
        "ram": rng.integers(0, 256, (rows, 5), dtype=np.uint8),
        "flags": rng.random((rows, 2, 2)) < 0.5,
        "nothing": np.zeros((rows, 0), np.float32),
    }
    if frames:
        observations["image"] = rng.integers(0, 256, (rows, 8, 6, 3), dtype=np.uint8)
    actions = {"": rng.integers(0, 4, steps)}
    return Episode(task="test", seed=seed, observations=observations, actions=actions,
                   demonstrated=rng.random(steps) < 0.9, rewards=rng.normal(size=steps), terminated=bool(seed % 2),
                   truncated=not seed % 2, info={"success": bool(seed % 3), "frames": 4 * steps})


def assert_equal(one: Episode, other: Episode) -> None:
    assert (one.task, one.seed, one.terminated, one.truncated, one.info) == (
        other.task, other.seed, other.terminated, other.truncated, other.info)
    assert (one.labels is None) == (other.labels is None)
    for left, right in [(one.observations, other.observations), (one.actions, other.actions),
                        (one.labels or {}, other.labels or {}),
                        ({"r": one.rewards, "d": one.demonstrated}, {"r": other.rewards, "d": other.demonstrated})]:
        assert set(left) == set(right)
        for name in left:
            assert left[name].dtype == right[name].dtype, name
            assert left[name].shape == right[name].shape, name
            if left[name].dtype == object:
                assert left[name].tolist() == right[name].tolist(), name
            else:
                assert left[name].tobytes() == right[name].tobytes(), name   # NaNs too


def write(path: Path, episodes: list[Episode], **sizes: int) -> Path:
    with EpisodeWriter(path, TASK, **sizes) as writer:
        for episode in episodes:
            writer.append(episode)
    return path


@pytest.mark.parametrize("sizes", [{}, {"part_bytes": 4000}, {"group_bytes": 2000}, {"group_bytes": 1}])
def test_episodes_come_back_bit_for_bit(tmp_path: Path, sizes: dict[str, int]) -> None:
    episodes = [make_episode(seed, steps) for seed, steps in enumerate([5, 1, 30, 0, 12])]
    reader = EpisodeReader(write(tmp_path / "data", episodes, **sizes))
    assert len(reader) == 5
    assert reader.lengths.tolist() == [5, 1, 30, 0, 12]
    assert reader.seeds.tolist() == [0, 1, 2, 3, 4]
    assert reader.scores.tolist() == [e.score for e in episodes]
    assert reader.task == TASK
    for i, episode in enumerate(episodes):
        assert_equal(reader[i], episode)
    assert_equal(reader[-1], episodes[-1])
    assert [e.seed for e in reader[1:3]] == [1, 2]
    with pytest.raises(IndexError, match="episode 5 of 5"):
        reader[5]


LABELLED: dict[str, np.ndarray] = {
    "number": np.arange(30) % 4, "vector": np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32),
    "grid": np.random.default_rng(1).integers(0, 256, (30, 4, 5), dtype=np.uint8), "flag": np.arange(30) % 2 == 0,
    "words": np.array(["go", "", "é"] * 10, object), "nothing": np.zeros((30, 0), np.float32),
}


@pytest.mark.parametrize("group_bytes", [1 << 22, 500])
def test_labels_come_back_bit_for_bit_and_cost_nothing_where_they_are_the_action(tmp_path: Path, group_bytes: int) -> None:
    replaced = {name: np.roll(values, 1, axis=0) for name, values in LABELLED.items()}
    some = np.arange(30) % 5 == 3
    labels = {name: np.array([replaced[name][i] if some[i] else LABELLED[name][i] for i in range(30)],
                             values.dtype).reshape(values.shape) for name, values in LABELLED.items()}
    labels["vector"][4] = np.nan
    noisy = replace(make_episode(3, 30), actions=LABELLED, labels=labels, demonstrated=~some)
    calm = replace(noisy, labels={name: values.copy() for name, values in LABELLED.items()})
    reader = EpisodeReader(write(tmp_path / "data", [noisy, calm], group_bytes=group_bytes))
    assert_equal(reader[0], noisy)
    assert_equal(reader[1], calm)
    window = reader.window(0, 7, 19)
    assert window.labels is not None and window.labels["number"].tolist() == labels["number"][7:19].tolist()
    table = pq.read_table(tmp_path / "data" / "part-00000.parquet")
    assert table["label/number"].to_pylist()[:5] == [None, None, None, 2, None] and table["label/grid"].null_count == 62 - 6
    assert json.loads((tmp_path / "data" / "_part-00000.json").read_text())["format"] == 2


def test_a_folder_may_hold_parts_from_before_there_were_labels(tmp_path: Path) -> None:
    old = make_episode(1, 6)
    new = replace(make_episode(2, 6), labels={"": make_episode(3, 6).actions[""]})
    write(tmp_path / "data", [old])
    assert json.loads((tmp_path / "data" / "_part-00000.json").read_text())["format"] == 1
    write(tmp_path / "data", [new])
    reader = EpisodeReader(tmp_path / "data")
    assert_equal(reader[0], old)
    assert_equal(reader[1], new)


def test_a_label_that_is_no_action_is_refused(tmp_path: Path) -> None:
    episode = make_episode(1, 4)
    for labels, message in (({"": np.zeros(4)}, "label is .*float64.* in the episode with seed 1, but action is .*int64"),
                            ({"": np.zeros(3, np.int64)}, "label has 3 rows in an episode of 4 steps"),
                            ({"grip": np.zeros(4)}, "label/grip is .* but action/grip is None; a label is an action")):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "data", [replace(episode, labels=labels)])


def test_a_window_is_the_same_cut_of_the_whole(tmp_path: Path) -> None:
    episode = make_episode(7, 40)
    reader = EpisodeReader(write(tmp_path / "data", [make_episode(1, 3), episode], group_bytes=2000))
    for start, stop in [(0, 40), (0, 1), (5, 17), (13, 14), (39, 40), (40, 40), (0, 0), (7, 8)]:
        expected = replace(
            episode, observations={n: v[start:stop + 1] for n, v in episode.observations.items()},
            actions={n: v[start:stop] for n, v in episode.actions.items()}, rewards=episode.rewards[start:stop],
            demonstrated=episode.demonstrated[start:stop], terminated=episode.terminated and stop == 40,
            truncated=episode.truncated and stop == 40)
        assert_equal(reader.window(1, start, stop), expected)
    with pytest.raises(ValueError, match=r"steps \[3, 41\) of an episode of 40"):
        reader.window(1, 3, 41)


DTYPES = [np.dtype(name) for name in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")]
LEAVES = st.one_of(
    hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)),
    st.lists(st.text(max_size=5), min_size=1, max_size=4).map(lambda words: np.array([*words, None], object)[:-1]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(leaf=LEAVES, name=st.sampled_from(["", "a", "a/b", "a.b", "ü"]))
def test_any_leaf_comes_back(tmp_path: Path, leaf: np.ndarray, name: str) -> None:
    steps = len(leaf) - 1
    episode = Episode(task="test", seed=0, observations={name: leaf}, actions={name: leaf[:steps]},
                      demonstrated=np.ones(steps, bool), rewards=np.zeros(steps), terminated=True, truncated=False)
    assert_equal(EpisodeReader(write(tmp_path / "one.parquet", [episode]))[0], episode)


def test_the_cache_keeps_to_its_size_and_memory_holds_all(tmp_path: Path) -> None:
    path = write(tmp_path / "data", [make_episode(s, 20) for s in range(10)])
    small = EpisodeReader(path, cache_bytes=10_000)
    for i in [*range(10), 3, 9, 0]:
        assert_equal(small[i], make_episode(i, 20))
    assert small._cache.held <= 10_000
    everything = EpisodeReader(path, in_memory=True)
    (path / "part-00000.parquet").unlink()
    assert_equal(everything[4], make_episode(4, 20))


def test_the_table_reads_without_calico(tmp_path: Path) -> None:
    path = write(tmp_path / "data", [make_episode(1, 3), make_episode(2, 2)])
    table = pq.read_table(path)   # a folder: the sidecar does not disturb
    assert table["episode"].to_pylist() == [0] * 4 + [1] * 3
    assert table["timestep"].to_pylist() == [0, 1, 2, 3, 0, 1, 2]
    assert table["terminated"].to_pylist() == [False] * 3 + [True] + [False] * 3
    assert table["truncated"].to_pylist() == [False] * 6 + [True]
    assert [r is None for r in table["reward"].to_pylist()] == [False] * 3 + [True] + [False] * 2 + [True]
    assert [a is None for a in table["action"].to_pylist()] == [False] * 3 + [True] + [False] * 2 + [True]
    assert table["observation/image"].type == pa.binary(8 * 6 * 3)
    sidecar = json.loads((path / "_part-00000.json").read_text())
    assert sidecar["task"] == TASK
    assert sidecar["format"] == 1
    assert "numpy" in sidecar["versions"]
    assert sidecar["episodes"][0]["info"] == {"success": True, "frames": 12}


def test_writers_add_parts_and_never_replace_them(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, [make_episode(seed, 4)])
    assert sorted(p.name for p in tmp_path.glob("*.parquet")) == [f"part-0000{i}.parquet" for i in range(3)]
    assert EpisodeReader(tmp_path).seeds.tolist() == [0, 1, 2]
    single = tmp_path / "one.parquet"
    write(single, [make_episode(8, 4)])
    write(single, [make_episode(9, 4)])
    assert EpisodeReader(single).seeds.tolist() == [9]


def test_two_processes_write_into_one_folder(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys
        import numpy as np
        from pathlib import Path
        from calico.datasets.episodes import EpisodeWriter
        from calico.tokenizers.episode import Episode
        with EpisodeWriter(Path(sys.argv[1]), {"name": "test"}, part_bytes=1) as writer:
            for seed in range(int(sys.argv[2]), int(sys.argv[2]) + 15):
                writer.append(Episode(task="test", seed=seed, observations={"": np.zeros((3, 2))},
                                      actions={"": np.zeros(2)}, demonstrated=np.ones(2, bool), rewards=np.zeros(2),
                                      terminated=True, truncated=False))
    """)
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(start)]) for start in (0, 100)]
    assert [process.wait() for process in running] == [0, 0]
    assert sorted(EpisodeReader(tmp_path).seeds) == [*range(15), *range(100, 115)]


def test_what_does_not_fit_the_writer_is_named(tmp_path: Path) -> None:
    good = make_episode(1, 3)
    writer = EpisodeWriter(tmp_path / "data", TASK)
    writer.append(good)
    with pytest.raises(ValueError, match="task 'other' was given to the writer of 'test'"):
        writer.append(replace(good, task="other"))
    with pytest.raises(ValueError, match="observation/state has 3 rows in an episode of 3 steps; expected 4"):
        writer.append(replace(good, observations=good.observations | {"state": np.zeros((3, 3), np.float32)}))
    with pytest.raises(ValueError, match="observation/state is .*float64.* in the episode with seed 1 but .*float32"):
        writer.append(replace(good, observations=good.observations | {"state": np.zeros((4, 3))}))
    with pytest.raises(ValueError, match="action/extra is .* but None in the episodes before"):
        writer.append(replace(good, actions=good.actions | {"extra": np.zeros(3)}))
    with pytest.raises(ValueError, match="info of the episode with seed 1 must hold plain JSON"):
        writer.append(replace(good, info={"score": float("nan")}))
    with pytest.raises(ValueError, match="complex128; episodes hold"):
        writer.append(replace(good, observations=good.observations | {"state": np.zeros((4, 3), complex)}))
    writer.close()
    assert len(EpisodeReader(tmp_path / "data")) == 1
    with pytest.raises(ValueError, match="is closed"):
        writer.append(good)
    with pytest.raises(ValueError, match="needs the key 'name'"):
        EpisodeWriter(tmp_path, {})
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(ValueError, match="neither a folder nor a .parquet file"):
        EpisodeWriter(tmp_path / "file.txt", TASK)


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no episodes"):
        EpisodeReader(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        EpisodeReader(tmp_path / "nowhere")
    with EpisodeWriter(tmp_path, TASK):
        pass
    assert list(tmp_path.iterdir()) == []


def means_the_same(one: bytes | bytearray, other: bytes) -> bool:
    """Whether two JSON texts hold the same values; a line feed with a flipped bit may be no white space to JSON."""
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_each_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, [make_episode(s, 10) for s in range(8)])
    part, sidecar = path / "part-00000.parquet", path / "_part-00000.json"
    rng = np.random.default_rng(0)
    for file in [part] * 80 + [sidecar] * 80:
        data = bytearray(original := file.read_bytes())
        # Half of the flips near the end: the footer has no checksum of its own.
        start = 0 if rng.random() < 0.5 else max(0, len(data) - 2000)
        place = int(rng.integers(start, len(data)))
        data[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
        if file == sidecar and means_the_same(data, original):
            file.write_bytes(original)
            continue   # white space became other white space
        publish._digests.clear()   # as a new process would find it
        with pytest.raises(ValueError, match=file.name):
            EpisodeReader(path)
        file.write_bytes(original)
    assert len(EpisodeReader(path)) == 8


def test_pages_damaged_after_opening_name_the_row_group(tmp_path: Path) -> None:
    path = write(tmp_path, [make_episode(s, 10) for s in range(8)])
    part = path / "part-00000.parquet"
    reader = EpisodeReader(path)
    data = bytearray(part.read_bytes())
    column = pq.ParquetFile(part).metadata.row_group(5).column(0)
    data[column.data_page_offset + column.total_compressed_size - 3] ^= 4
    with open(part, "r+b") as file:   # in place: the reader's handle sees it
        file.write(data)
    assert_equal(reader[4], make_episode(4, 10))
    with pytest.raises(ValueError, match=r"part-00000.parquet, row group 5: cannot be read"):
        reader[5]


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    path = write(tmp_path, [make_episode(s, 10) for s in range(3)])
    part = path / "part-00000.parquet"
    data = part.read_bytes()
    part.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(ValueError, match="part-00000.parquet does not match its SHA-256"):
        EpisodeReader(path)


def sign(path: Path, **changes: Any) -> None:
    """Change a sidecar as somebody would who knows how its digest is made; the part's SHA-256 is made to fit too."""
    sidecar = json.loads(parts.sidecar_path(path).read_text()) | {"sha256": publish.file_sha256(path)} | changes
    parts.sidecar_path(path).write_text(json.dumps(sidecar | {"digest": parts.sidecar_digest(sidecar)}))


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    part = write(tmp_path / "one.parquet", [make_episode(1, 3)])
    sign(part, format=3)
    with pytest.raises(ValueError, match="_one.json has format version 3, this Calico reads up to 2; upgrade"):
        EpisodeReader(part)


def test_another_schema_is_named(tmp_path: Path) -> None:
    part = write(tmp_path / "one.parquet", [make_episode(1, 3)])
    table = pq.read_table(part)
    pq.write_table(table.set_column(table.column_names.index("reward"), "reward", pa.array(["x"] * 4)), part)
    sign(part)
    with pytest.raises(ValueError, match="one.parquet: column 'reward' is string, expected double"):
        EpisodeReader(part)
    pq.write_table(table.drop_columns(["observation/state"]), part)
    sign(part)
    with pytest.raises(ValueError, match="column 'observation/state' is missing, expected fixed_size_list"):
        EpisodeReader(part)
    pq.write_table(table.slice(0, 2), part)
    sign(part)
    with pytest.raises(ValueError, match="row group 0 has 2 rows, its sidecar says 4"):
        EpisodeReader(part)
    pq.write_table(table, part, row_group_size=2)
    sign(part)
    with pytest.raises(ValueError, match="has 2 row groups, its sidecar lists 1"):
        EpisodeReader(part)
    part.write_bytes(b"PAR1 not a Parquet file PAR1")
    sign(part)
    with pytest.raises(ValueError, match="one.parquet, footer: cannot be read"):
        EpisodeReader(part)


def test_hostile_files_with_a_fitting_digest_are_read_or_refused(tmp_path: Path) -> None:
    part = write(tmp_path / "one.parquet", [make_episode(s, 6) for s in range(3)], group_bytes=600)
    original, rng, outcomes = part.read_bytes(), np.random.default_rng(0), set[Any]()
    sidecar = parts.sidecar_path(part).read_bytes()
    for _ in range(200):
        data = bytearray(original)
        for _ in range(int(rng.integers(1, 4))):
            start = 0 if rng.random() < 0.5 else max(0, len(data) - 4000)
            data[int(rng.integers(start, len(data)))] = int(rng.integers(256))
        part.write_bytes(data)
        parts.sidecar_path(part).write_bytes(sidecar)
        publish._digests.clear()
        sign(part)
        try:
            reader = EpisodeReader(part)
            outcomes.add(len([reader[i] for i in range(3)]))
        except ValueError as error:
            assert "one.parquet" in str(error)
            assert str(error).count("cannot be read") <= 1
            outcomes.add("refused")
    assert outcomes == {3, "refused"}


def test_nulls_where_none_may_be_are_named(tmp_path: Path) -> None:
    part = write(tmp_path / "one.parquet", [make_episode(1, 3)])
    table = pq.read_table(part)
    place = table.column_names.index("observation/goal/place")
    pq.write_table(table.set_column(place, "observation/goal/place", pa.array([1, None, 2, 3])), part)
    sign(part)
    with pytest.raises(ValueError, match="one.parquet, row group 0: cannot be read .null values"):
        EpisodeReader(part)[0]


def test_a_sidecar_with_nonsense_is_named(tmp_path: Path) -> None:
    part = write(tmp_path / "one.parquet", [make_episode(1, 3)])
    every: list[dict[str, Any]] = [
        {"columns": 3}, {"columns": {"observation": {"dtype": "O", "shape": []}}}, {"episodes": [{}]},
        {"rows_per_group": 0}, {"episodes": [{"length": -1}]}]
    for changes in every:
        sign(part, **changes)
        with pytest.raises(ValueError, match="_one.json, sidecar: cannot be read"):
            EpisodeReader(part)
    parts.sidecar_path(part).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="_one.json is not a sidecar"):
        EpisodeReader(part)


def test_a_bomb_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 million rows of nothing: a few kilobytes on disk, hundreds of times as much in memory."""
    monkeypatch.setattr(parts, "MAX_GROUP_BYTES", 1 << 26)
    part, rows = tmp_path / "bomb.parquet", 4_000_000
    write(part, [replace(make_episode(1, 3), observations={"": np.zeros(4)}, actions={"": np.zeros(3)})])
    schema = pq.read_schema(part)
    bomb = pa.table({f.name: pa.nulls(rows, f.type) for f in schema}, schema=schema)
    pq.write_table(bomb, part, row_group_size=rows, compression="zstd")
    assert part.stat().st_size < 100_000
    entry = {"length": rows - 1, "seed": 0, "score": 0.0, "terminated": False, "truncated": True, "info": {}}
    sign(part, rows_per_group=1 << 40, episodes=[entry])
    with pytest.raises(ValueError, match="row group 0: 4000000 rows of 48 bytes exceed the limit of 64 MiB"):
        EpisodeReader(part)


def test_parts_of_other_tasks_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [make_episode(1, 3)])
    with EpisodeWriter(tmp_path, {"name": "other"}) as writer:
        writer.append(replace(make_episode(2, 3), task="other"))
    with pytest.raises(ValueError, match="part-00001.parquet has task name 'other' but part-00000.parquet has 'test'"):
        EpisodeReader(tmp_path)


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    write(tmp_path, [make_episode(1, 3)])
    write(tmp_path, [make_episode(2, 3)])
    (tmp_path / "_part-00001.json").rename(tmp_path / "kept.json")
    with pytest.warns(UserWarning, match="part-00001.parquet is not counted: it has no sidecar"):
        assert EpisodeReader(tmp_path).seeds.tolist() == [1]
    with pytest.raises(ValueError, match="_part-00001.json is missing"):
        EpisodeReader(tmp_path / "part-00001.parquet")
    (tmp_path / "kept.json").rename(tmp_path / "_part-00001.json")
    (tmp_path / "part-00001.parquet").unlink()
    with pytest.raises(ValueError, match="part-00001.parquet is missing"):
        EpisodeReader(tmp_path)


WRITE_FOREVER = textwrap.dedent("""
    import sys
    import numpy as np
    from pathlib import Path
    from calico.datasets.episodes import EpisodeWriter
    from calico.tokenizers.episode import Episode
    rng = np.random.default_rng(0)
    with EpisodeWriter(Path(sys.argv[1]), {"name": "test"}, part_bytes=300_000) as writer:
        for seed in range(10**6):
            frames = rng.integers(0, 256, (9, 64, 64), np.uint8)
            writer.append(Episode(task="test", seed=seed, observations={"": frames}, actions={"": np.zeros(8)},
                                  demonstrated=np.ones(8, bool), rewards=np.zeros(8), terminated=True, truncated=False))
""")


@pytest.mark.filterwarnings("ignore:.*is not counted")   # a part whose sidecar was not yet renamed
def test_a_killed_writer_leaves_only_whole_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(folder)])
        while not list(folder.glob("_*.json")):
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(float(rng.random()) * 0.2)
        writer.kill()
        writer.wait()
        parts_there = len(list(folder.glob("_*.json")))
        reader = EpisodeReader(folder)
        assert reader.seeds.tolist() == list(range(len(reader)))   # none missing, none partial
        assert len(reader) >= parts_there
        assert len(reader[len(reader) - 1]) == 8


def test_a_full_disk_is_one_line_and_spares_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, [replace(make_episode(0, 4), observations={"": np.zeros((5, 64, 64), np.uint8)},
                             actions={"": np.zeros(4)})])
    before = (tmp_path / "part-00000.parquet").read_bytes()
    code = "import sys, resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n" + WRITE_FOREVER
    code = code.replace("300_000", "10**9")
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"OSError: could not write {tmp_path}"), last
    assert "too large" in last.lower(), last
    assert (tmp_path / "part-00000.parquet").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["_part-00000.json", "part-00000.parquet"]
    assert len(EpisodeReader(tmp_path)) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY   # only the child was limited


def test_more_files_than_a_process_may_hold_open(tmp_path: Path) -> None:
    """Hundreds of data sets are read at random by a process that may hold 64 files; the handles are closed and opened again."""
    for number in range(90):
        write(tmp_path / str(number), [make_episode(number, 3, frames=False)])
    program = textwrap.dedent(f"""
        import os, random, resource
        from calico.datasets.episodes import EpisodeReader
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        readers = [EpisodeReader(f"{tmp_path}/{{number}}", cache_bytes=0) for number in range(90)]
        order = list(range(90)) * 2
        random.Random(0).shuffle(order)
        assert all(readers[number][0].seed == number for number in order)
        assert len(os.listdir("/proc/self/fd")) < 50
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
