"""`calico evaluate`: judges are right about speakers whose answers are known, and every ability is reported."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.agent.talk import Speaker
from calico.datasets import grounded
from calico.envs.scenes import Scene
from calico.scripts import evaluate
from calico.scripts.evaluate import UNSEEN_SCENES, judge_captions, judge_questions, unseen
from calico.scripts.main import main

from ..conftest import SmallRun

Refused = Callable[..., str]
Answered = Callable[..., Any]
SMALL = ("--episodes", 2, "--pictures", 3, "--worlds", "minigrid")


class Oracle(Speaker):
    """Knows the scenes, and says something else about every n-th picture."""

    def __init__(self, scenes: Sequence[Scene], wrong_every: int) -> None:
        self.facts = {scene.image.tobytes(): scene.facts for scene in scenes}
        self.wrong_every, self.said = wrong_every, 0

    def tell(self, truth: str) -> str:
        self.said += 1
        return truth if not self.wrong_every or self.said % self.wrong_every else "a purple elephant"

    def captions(self, images: Sequence[np.ndarray]) -> list[str]:
        return [self.tell(grounded.caption(self.facts[image.tobytes()])) for image in images]

    def answers(self, images: Sequence[np.ndarray | None], questions: Sequence[str]) -> list[str]:
        told = []
        for image, question in zip(images, questions, strict=True):
            assert image is not None
            sorts = grounded.questions(self.facts[image.tobytes()]).values()
            told.append(self.tell({asked: answer for sort in sorts for asked, answer in sort.items()}[question]))
        return told


@pytest.mark.parametrize("wrong_every, right", [(0, 1.0), (1, 0.0), (4, 0.75)])
def test_judges_count_what_is_right(wrong_every: int, right: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "BATCH", 5)   # several batches
    scenes = unseen("minigrid", 12)
    captions = judge_captions(Oracle(scenes, wrong_every), ["minigrid"], 12)
    questions = judge_questions(Oracle(scenes, wrong_every), ["minigrid"], 12)
    for judged in (captions, questions):
        assert judged.accuracy == right and judged.by_world == {"minigrid": right} and len(judged.examples) == 12
        assert sum(bool(example.right) for example in judged.examples) == 12 * right
    for example, scene in zip(captions.examples, scenes, strict=True):
        np.testing.assert_array_equal(example.image, scene.image)
        assert example.truth == grounded.caption(scene.facts)
    assert all(example.question.endswith("?") for example in questions.examples)


def test_worlds_are_judged_one_by_one() -> None:
    scenes = [*unseen("minigrid", 4), *unseen("lander", 4)]
    judged = judge_captions(Oracle(scenes, 8), ["minigrid", "lander"], 4)
    assert judged.by_world == {"minigrid": 1.0, "lander": 0.75} and judged.accuracy == 7 / 8


def test_pictures_are_those_that_no_data_holds() -> None:
    assert [scene.seed for scene in unseen("minigrid", 3)] == [UNSEEN_SCENES, UNSEEN_SCENES + 1, UNSEEN_SCENES + 2]


def test_every_ability_in_one_document(small_run: SmallRun, answered: Answered) -> None:
    found = answered("evaluate", small_run.run, *SMALL)
    assert found.keys() == {"share_at_50", "tasks", "aggregates", "caption_accuracy", "captions_by_world",
                            "question_accuracy", "questions_by_world"}
    assert found["tasks"].keys() == {"BabyAI-GoToLocal-v0", "CartPole-v1"}
    normalised = [task["normalised"] for task in found["tasks"].values()]
    assert found["share_at_50"] == sum(value >= 50 for value in normalised) / 2
    (played,) = answered("rollout", small_run.run, "CartPole-v1", "--episodes", 2)
    assert found["tasks"]["CartPole-v1"]["score"] == played["score"]
    judged = judge_captions(Speaker(Agent.load(small_run.run)), ["minigrid"], 3)
    assert found["caption_accuracy"] == found["captions_by_world"]["minigrid"] == judged.accuracy


def test_two_ranks_and_one_that_was_lost_give_what_one_process_gives(own_run: Path, answered: Answered,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("evaluate", own_run, "--suite", "control", "--episodes", 3)
    shutil.rmtree(own_run / "evaluation", ignore_errors=True)      # of other tests
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert main([str(word) for word in words]) == 0                # rank 1 was killed before it played
    files = sorted(path.name for path in (own_run / "evaluation" / "CartPole-v1").glob("*.json"))
    assert files == ["agent-10000.json", "agent-10002.json"]
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    found = answered(*words)                                       # run again: its work is done here
    shutil.rmtree(own_run / "evaluation")
    assert answered(*words) == found


def test_suites_can_be_chosen(small_run: SmallRun, answered: Answered) -> None:
    words = ("evaluate", small_run.run, *SMALL, "--suite")
    assert answered(*words, "captions").keys() == {"caption_accuracy", "captions_by_world"}
    both = answered(*words, "captions", "--suite", "questions")
    assert {"caption_accuracy", "question_accuracy"} < both.keys() and "tasks" not in both


def test_tables_for_people(small_run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(small_run.run), *map(str, SMALL)]) == 0
    out = capsys.readouterr().out
    assert "CartPole-v1" in out and "caption_accuracy" in out and "of expert" in out


def test_the_report_holds_what_was_judged(small_run: SmallRun, tmp_path: Path, answered: Answered) -> None:
    found = answered("evaluate", small_run.run, *SMALL, "--out", tmp_path / "all")
    told = json.loads((tmp_path / "all" / "report.json").read_text())
    assert {task["task"]: task["score"] for task in told["tasks"]} == {
        name: task["score"] for name, task in found["tasks"].items()}
    assert (told["caption_accuracy"], told["question_accuracy"]) == (found["caption_accuracy"], found["question_accuracy"])
    assert told["tokens"] == 6 * 4 * 128
    page = (tmp_path / "all" / "report.html").read_text()
    assert "CartPole-v1" in page and "data:image/" in page
    assert set(told["curves"]) == {"all", "CartPole-v1", "BabyAI-GoToLocal-v0", "minigrid-captions", "minigrid-dialogues"}
    alone = checkpoint.export(small_run.run, tmp_path / "alone")
    answered("evaluate", alone, *SMALL, "--suite", "captions", "--out", tmp_path / "captions")
    part = json.loads((tmp_path / "captions" / "report.json").read_text())
    assert part["tasks"] == [] and part["caption_accuracy"] == found["caption_accuracy"] and part["question_accuracy"] is None


@pytest.mark.parametrize("words, says", [
    (["--episodes", 0], "--episodes 0"),
    (["--pictures", 0], "--pictures 0 must be at least 1"),
    (["--suite", "chess"], "invalid choice: 'chess'"),
    (["--worlds", "mars"], "invalid choice: 'mars'"),
    (["--temperature", -1], "temperature=-1"),
    (["--device", "abacus"], "device 'abacus' cannot be used here"),
])
def test_wrong_words_are_one_line(small_run: SmallRun, refused: Refused, words: list[object], says: str) -> None:
    assert says in refused("evaluate", small_run.run, *words)


def test_a_run_that_is_not_there(tmp_path: Path, refused: Refused) -> None:
    assert "nowhere does not exist" in refused("evaluate", tmp_path / "nowhere")
