"""`calico evaluate`: every ability is reported with what to compare it with, and wrong words are one line."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from calico.agent import checkpoint
from calico.agent.agent import Agent
from calico.envs.runner import rollout
from calico.scripts import evaluate as verb
from calico.scripts.evaluation import all_suites, control, data
from calico.scripts.evaluation import suites as judging
from calico.scripts.evaluation.all_suites import format_figures
from calico.scripts.evaluation.data import drawn_captions
from calico.scripts.evaluation.pictures import evaluate_captions
from calico.scripts.evaluation.suites import Evaluator
from calico.scripts.main import main
from calico.tokenizers.episode import Episode
from calico.tokenizers.tokens import Tokens

from ..conftest import CONFIG, SmallRun

Refused = Callable[..., str]
Answered = Callable[..., Any]
SMALL = ("--episodes", 2, "--pictures", 3, "--worlds", "minigrid")


def test_every_ability_in_one_document(small_run: SmallRun, answered: Answered, tmp_path: Path) -> None:
    found = answered("evaluate", small_run.run, *SMALL)
    assert found.keys() == {"share_at_50", "tasks", "aggregates", "captions", "vqa", "caption_accuracy", "question_accuracy"}
    assert found["tasks"].keys() == {"BabyAI-GoToLocal-v0", "CartPole-v1"}
    normalised = [task["normalised"] for task in found["tasks"].values()]
    assert found["share_at_50"] == sum(value >= 50 for value in normalised) / 2
    (played,) = answered("rollout", small_run.run, "CartPole-v1", "--episodes", 2)
    assert found["tasks"]["CartPole-v1"]["score"] == played["score"]
    judged = evaluate_captions(Evaluator(Agent.load(small_run.run), tmp_path), drawn_captions("minigrid", 3), ablate=False)
    captions = found["captions"]["minigrid"]
    assert found["caption_accuracy"] == captions["right"]["model"] == judged.figures["right"]["model"]
    assert captions["cider_d"].keys() == {"model", "blanked", "nearest", "most_frequent"}
    assert found["vqa"]["minigrid"]["accuracy"].keys() == {"model", "blanked", "question_only", "most_frequent"}


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on files of its own: dialogues and a text, part of each held out."""
    folder = tmp_path_factory.mktemp("talking")
    lines = [json.dumps({"turns": [f"is {n} even?", "yes" if n % 2 == 0 else "no", f"and {n} + 1?", f"#### {n + 1}"]})
             for n in range(40)]
    (folder / "sums.jsonl").write_text("\n".join(lines))
    (folder / "book.txt").write_text("".join(f"This is line {n} of a long and tedious book.\n" for n in range(400)))
    (folder / "small.yaml").write_text(CONFIG)
    sources = ", ".join(f"{{path: {folder / name}, held_out: 0.2}}" for name in ("sums.jsonl", "book.txt"))
    for name, seed in (("run", 0), ("other", 1)):
        assert main(["train", str(folder / "small.yaml"), f"data.sources=[{sources}]", f"training.seed={seed}",
                     f"out={folder / name}"]) == 0
    return folder


def test_held_out_data_are_judged_beside_baselines_and_another_run(talking: Path, answered: Answered) -> None:
    found = answered("evaluate", talking / "run", "--against", talking / "other")
    assert found.keys() == {"chat", "text"}                       # no tasks, no pictures
    chat, text = found["chat"]["sums"], found["text"]["book"]
    assert chat["perplexity_per_byte"].keys() == text["bits_per_byte"].keys() == {"model", "against", "unigram"}
    assert chat["distinct_1"].keys() == {"model", "against", "people"}
    assert chat["answers_right"].keys() == {"model", "against", "most_frequent"}
    assert 2 <= chat["answers_checked"]["model"] <= 16            # of 40 dialogues about a fifth
    alone = answered("evaluate", talking / "other", "--suite", "text")["text"]["book"]
    assert alone["bits_per_byte"]["model"] == text["bits_per_byte"]["against"]


def test_data_of_the_users_own_are_judged_whole(talking: Path, answered: Answered, tmp_path: Path) -> None:
    lines = (talking / "sums.jsonl").read_text().splitlines()
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    words = ("evaluate", talking / "run", "--data", tmp_path / "mine.jsonl")
    assert answered(*words).keys() == {"chat"}
    assert answered(*words)["chat"]["mine"]["answers_checked"]["model"] == 40
    assert answered(*words, "--limit", 3)["chat"]["mine"]["answers_checked"]["model"] == 3


def test_what_was_judged_is_kept(talking: Path, answered: Answered, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(talking / "run", talking / "copy"))
    monkeypatch.setattr(judging, "BATCH", 3)
    first = answered("evaluate", run, "--suite", "chat")
    kept = sorted(path.name for path in (run / "evaluation" / "chat-sums").iterdir())
    assert len(kept) >= 2 and kept[0] == "agent-0.json"
    (run / "evaluation" / "chat-sums" / kept[-1]).unlink()        # stopped before the last batch
    nats, asked = Evaluator.nats, list[int]()

    def counted(self: Evaluator, documents: Sequence[Tokens]) -> list[tuple[float, int]]:
        asked.append(len(documents))
        return nats(self, documents)

    monkeypatch.setattr(Evaluator, "nats", counted)
    assert answered("evaluate", run, "--suite", "chat") == first
    assert len(asked) == 1


def test_another_run_that_has_seen_what_is_held_out_is_refused(talking: Path, refused: Refused) -> None:
    assert main(["train", str(talking / "small.yaml"), f"data.sources=[{{path: {talking / 'book.txt'}}}]",
                 "training.steps=1", f"out={talking / 'seen'}"]) == 0
    assert "was trained on part of what is held out of" in refused(
        "evaluate", talking / "run", "--against", talking / "seen")


def test_data_that_are_gone_are_named(talking: Path, capsys: pytest.CaptureFixture[str], refused: Refused,
                                      tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", str(talking / "small.yaml"), f"data.sources=[{{path: {talking / 'book.txt'}, held_out: 0.2}}]",
                 "training.steps=1", f"out={run}"]) == 0
    (talking / "book.txt").rename(talking / "moved.txt")
    try:
        assert "nothing to be judged on" in refused("evaluate", run)
        assert "nothing for --suite text" in refused("evaluate", run, "--suite", "text")
        capsys.readouterr()
        assert main(["evaluate", str(run), "--data", str(talking / "moved.txt")]) == 0
        out, err = capsys.readouterr()
        assert "not judged:" in err and "book.txt does not exist" in err and "bits_per_byte" in out and "moved" in out
    finally:
        (talking / "moved.txt").rename(talking / "book.txt")


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


def test_environments_side_by_side_are_bounded_and_change_no_score(own_run: Path, answered: Answered,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def watched(*args: Any, num_envs: int, **settings: Any) -> Iterator[Episode]:
        asked.append(num_envs)
        return rollout(*args, num_envs=num_envs, **settings)

    monkeypatch.setattr(control, "rollout", watched)
    words = ("evaluate", own_run, "--suite", "control", "--episodes", 20)
    found = []
    for more in ((), ("--num-envs", 3)):
        shutil.rmtree(own_run / "evaluation", ignore_errors=True)
        found.append(answered(*words, *more))
    assert found[0] == found[1] and asked == [16, 16, 3, 3]


def test_the_verb_names_the_suites_that_there_are() -> None:
    assert ("control", *data.SUITES) == verb.SUITES and all_suites.EVALUATE.keys() == data.SUITES.keys()


def test_a_film_that_fails_does_not_cost_the_report(small_run: SmallRun, tmp_path: Path, answered: Answered,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that cannot draw: the scores are played without drawing."""
    monkeypatch.setattr("gymnasium.envs.classic_control.CartPoleEnv.render", lambda self: 1 / 0)
    answered("evaluate", small_run.run, "--suite", "control", "--episodes", 2, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [task["task"] for task in report["tasks"]] == ["BabyAI-GoToLocal-v0", "CartPole-v1"]
    assert (tmp_path / "report.html").read_text().count("data:image/gif") == 1


def test_suites_can_be_chosen(small_run: SmallRun, answered: Answered) -> None:
    words = ("evaluate", small_run.run, "--pictures", 3, "--suite")
    assert answered(*words, "captions").keys() == {"captions", "caption_accuracy"}     # the worlds are those of the run
    both = answered(*words, "captions", "--suite", "vqa")
    assert both.keys() == {"captions", "caption_accuracy", "vqa", "question_accuracy"} and list(both["vqa"]) == ["minigrid"]


def test_tables_for_people(small_run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(small_run.run), *map(str, SMALL)]) == 0
    out = capsys.readouterr().out
    assert "CartPole-v1" in out and "cider_d" in out and "blanked" in out and "of expert" in out
    assert format_figures({"model": 0.1234, "blanked": 0.5, "most_frequent": 2}) == "0.12 (blanked 0.5, most frequent 2)"


def test_the_report_holds_what_was_judged(small_run: SmallRun, tmp_path: Path, answered: Answered) -> None:
    found = answered("evaluate", small_run.run, *SMALL, "--out", tmp_path / "all")
    report = json.loads((tmp_path / "all" / "report.json").read_text())
    assert {task["task"]: task["score"] for task in report["tasks"]} == {
        name: task["score"] for name, task in found["tasks"].items()}
    assert (report["caption_accuracy"], report["question_accuracy"]) == (found["caption_accuracy"], found["question_accuracy"])
    assert report["tokens"] == 6 * 4 * 128 and report["captions_judged"] == 3
    assert {"captions, minigrid: cider d", "vqa, minigrid: accuracy"} <= report["facts"].keys()
    page = (tmp_path / "all" / "report.html").read_text()
    assert "CartPole-v1" in page and "data:image/" in page
    assert set(report["curves"]) == {"all", "CartPole-v1", "BabyAI-GoToLocal-v0", "minigrid-captions", "minigrid-dialogues"}
    alone = checkpoint.export(small_run.run, tmp_path / "alone")
    answered("evaluate", alone, *SMALL, "--suite", "captions", "--out", tmp_path / "captions")
    part = json.loads((tmp_path / "captions" / "report.json").read_text())
    assert part["tasks"] == [] and part["caption_accuracy"] == found["caption_accuracy"] and part["question_accuracy"] is None


@pytest.mark.parametrize("words, says", [
    (["--episodes", 0], "--episodes 0"),
    (["--pictures", 0], "--pictures 0 must be at least 1"),
    (["--limit", 0], "--limit 0 must be at least 1"),
    (["--suite", "chess"], "invalid choice: 'chess'"),
    (["--suite", "text"], "has nothing for --suite text: its config holds nothing of that kind out"),
    (["--worlds", "mars"], "invalid choice: 'mars'"),
    (["--temperature", -1], "temperature=-1"),
    (["--device", "abacus"], "device 'abacus' cannot be used here"),
    (["--data", "nowhere.txt"], "nowhere.txt does not exist"),
    (["--against", "nowhere"], "nowhere does not exist"),
])
def test_wrong_words_are_one_line(small_run: SmallRun, refused: Refused, words: list[object], says: str) -> None:
    assert says in refused("evaluate", small_run.run, *words)


def test_episodes_are_no_documents(small_run: SmallRun, refused: Refused) -> None:
    assert "holds episodes; the suite `control` plays tasks itself" in refused(
        "evaluate", small_run.run, "--data", small_run.data / "CartPole-v1")


def test_a_run_that_is_not_there(tmp_path: Path, refused: Refused) -> None:
    assert "nowhere does not exist" in refused("evaluate", tmp_path / "nowhere")
