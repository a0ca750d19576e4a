"""RUN may be left out: what stands first on the command line decides."""

from pathlib import Path

import pytest

from calico.scripts.common.shipped import DEFAULT_RUN, is_media, is_task, split_run


@pytest.mark.parametrize(("words", "run"), [
    ([], DEFAULT_RUN), (["CartPole-v1"], DEFAULT_RUN), (["ALE/Pong-v5", "CartPole-v1"], DEFAULT_RUN),
    (["CartPole-v2"], DEFAULT_RUN), (["runs/demo", "CartPole-v1"], "runs/demo"), (["runs/none"], "runs/none"),
    ([DEFAULT_RUN, "CartPole-v1"], DEFAULT_RUN)])
def test_the_first_word_is_the_run_unless_it_is_spelt_like_a_task(words: list[str], run: str) -> None:
    found, tasks = split_run(words, is_task)
    assert found == run and tasks == [word for word in words if word not in (run, DEFAULT_RUN)]


def test_a_folder_is_a_run_even_where_it_has_the_name_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("CartPole-v1").mkdir()
    assert split_run(["CartPole-v1", "Acrobot-v1"], is_task) == ("CartPole-v1", ["Acrobot-v1"])


def test_files_are_told_from_runs_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"")
    assert split_run(["room.png", "b.jpg"], is_media) == (DEFAULT_RUN, ["room.png", "b.jpg"])
    assert split_run([str(tmp_path / "photo")], is_media) == (DEFAULT_RUN, [str(tmp_path / "photo")])
    assert split_run(["runs/demo", "room.png"], is_media) == ("runs/demo", ["room.png"])
