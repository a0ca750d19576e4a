"""The tab Teach: what is played by hand is a data set, and a run is trained on it in a process of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.datasets.episodes import EpisodeReader
from calico.scripts.web import lessons, teach
from calico.scripts.web.desk import Desk, Session

from .lesson_grids import TakeTheBox, shortest

OWN = "lesson_grids:TakeTheBox-v0"


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user stands in the folder of the own module, in the processes that are started, too."""
    folder = str(Path(__file__).parent)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def solve(lesson: lessons.Lesson) -> tuple[str, str]:
    """One episode, as short as can be."""
    world: Any = lesson.recorder.env.unwrapped
    assert type(world).__name__ == TakeTheBox.__name__
    return [teach.step(lesson, action) for action in shortest(world)][-1]


def test_solved_episodes_become_a_data_set_and_others_do_not(desk: Desk) -> None:
    lesson = teach.begin(desk, Session(), OWN)
    assert lesson.mission == "take the box" and lesson.frame.dtype == np.uint8
    _, facts = solve(lesson)
    assert "solved, return 0.9" in facts and "1 of 5 episodes" in facts
    for _ in range(100):                                 # to the end, turning on the spot
        _, facts = teach.step(lesson, 0)
    assert "not solved: not kept" in facts
    solve(lesson)
    reader = EpisodeReader(lesson.data)
    assert list(reader.seeds) == [0, 2] and (reader.scores > 0.9).all() and list(reader.scores) == lesson.solved
    assert reader.task["name"] == OWN and reader.task["policy"] == "person" and reader.task["expert"] is None
    assert reader[0].demonstrated.all() and reader[0].observations["image"].shape[1:] == (16, 16, 3)   # as it is trained on
    assert reader[0].actions[""][-1] == 3                # the last act took the box


def test_an_episode_that_is_begun_anew_is_forgotten(desk: Desk) -> None:
    lesson = teach.begin(desk, Session(), OWN)
    lesson.act(0)
    lesson.again()
    assert (lesson.steps, lesson.seed, lesson.solved) == (0, 1, []) and not lesson.data.exists()


def test_what_may_be_taught(desk: Desk) -> None:
    with pytest.raises(ValueError, match="CartPole-v1 is no grid task; choose one of MiniGrid's or BabyAI's"):
        teach.begin(desk, Session(), "CartPole-v1")
    with pytest.raises(ValueError, match="unknown task 'MiniGrid-DorKey-5x5-v0'.*MiniGrid-DoorKey-5x5-v0"):
        teach.begin(desk, Session(), "MiniGrid-DorKey-5x5-v0")
    with pytest.raises(ValueError, match=r"FrozenLake-v1 is played with Discrete\(4\); teach a task with MiniGrid's seven"):
        teach.begin(desk, Session(), "FrozenLake-v1")
    desk.tasks = [OWN]
    choices = {name: words for words, name in teach.grid_tasks(desk)}
    assert next(iter(choices)) == OWN and choices[OWN] == f"{OWN} (new to it)"
    assert choices["MiniGrid-DoorKey-5x5-v0"] == "MiniGrid-DoorKey-5x5-v0"


def test_training_needs_an_episode(desk: Desk) -> None:
    session = Session()
    with pytest.raises(ValueError, match="choose a task and press Start first"):
        next(teach.learn(desk, session))
    teach.begin(desk, session, OWN)
    with pytest.raises(ValueError, match="solve at least one episode"):
        next(teach.learn(desk, session))


@pytest.mark.slow
def test_it_learns_in_a_process_of_its_own_and_then_plays(desk: Desk) -> None:
    session = Session()
    lesson = teach.begin(desk, session, OWN)
    solve(lesson)
    said = list(teach.learn(desk, session, ("training.steps=6", "training.log_every=2", "data.batch_size=2")))
    assert "of 10 unseen episodes solved, mean return" in said[-1][0] and "<svg" in said[-1][1]
    assert session.taught is not None and session.taught.tasks == [OWN]
    assert (lesson.data.parent.parent / "run-1" / "checkpoints").is_dir()
    assert teach.run_folder(lesson).name == "run-2"


@pytest.mark.slow
def test_stop_and_failure_end_the_process(desk: Desk) -> None:
    session = Session()
    solve(teach.begin(desk, session, OWN))
    learning = teach.learn(desk, session, ("training.steps=100000",))
    next(learning)
    worker = session.worker
    assert worker is not None and worker.poll() is None
    session.close()                                      # the browser left
    assert list(learning) == [] and worker.wait(60) != 0
    other = Session()
    solve(teach.begin(desk, other, OWN))
    with pytest.raises(ValueError, match="the training ended with code 2: .*optimizer.learning_rat"):
        list(teach.learn(desk, other, ("optimizer.learning_rat=1",)))


def test_no_curve_before_there_are_two_points(tmp_path: Path) -> None:
    assert lessons.progress(tmp_path) == [] and teach.chart([(1.0, 2.0)]) == ""
    assert "<svg" in teach.chart([(1.0, 2.0), (2.0, 1.0)])
