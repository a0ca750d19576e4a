"""`calico evaluate RUN`: every ability of one checkpoint.

    calico evaluate runs/demo --episodes 20          # scores of all its tasks, captions and questions; minutes
    calico evaluate runs/demo --suite captions --json
    torchrun --nproc-per-node 4 -m calico.scripts.evaluate runs/demo     # each rank its share of the control episodes

Each control episode leaves a small file under <run>/evaluation, so that a stopped evaluation goes on where it was.
Pictures are drawn with seeds that no demonstration used; a caption counts as right when it names every object with its
colour and place, and nothing else.
"""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import Speaker, user_message
from calico.datasets.grounded import answer_is_right, ask, caption, caption_is_right
from calico.datasets.parts import versions
from calico.envs import scores
from calico.envs.registry import get_task
from calico.envs.scenes import WORLDS, Scene, scenes
from calico.envs.statistics import Estimate
from calico.scripts import console
from calico.scripts.ranks import Results, rank_and_size
from calico.scripts.report import Captioned, Question, Report, TaskScore, write_report
from calico.scripts.rollout import UNSEEN, aggregates, film_of, play, report_scores

SUITES = ("control", "captions", "questions")
UNSEEN_SCENES = 10_000_000   # first seed of evaluation pictures
BATCH = 64
CHAT = ("hello", "who are you?", "what is lunar lander?", "thank you")

Example = TypeVar("Example", Captioned, Question)


@dataclass(frozen=True)
class Pictures(Generic[Example]):
    """How well pictures were described, or questions about them answered.

    Attributes:
        examples: every one that was judged.
        accuracy: share that was right, over all worlds.
        by_world: the same per world.
    """

    examples: list[Example]
    accuracy: float
    by_world: dict[str, float]


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, evaluate, report."""
    parser = console.make_parser("evaluate", __doc__)
    parser.add_argument("run")
    parser.add_argument("--suite", choices=SUITES, action="append", help="may be given more than once (default: all)")
    parser.add_argument("--episodes", type=int, default=20, help="per control task (default 20)")
    parser.add_argument("--pictures", type=int, default=100, help="per world (default 100)")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--temperature", type=float, default=1.0, help="of actions (default 1); text is greedy")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html and report.json, with films and a chat")
    parser.add_argument("--isolate", action="store_true", help="each environment in a process of its own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.episodes < 1 or arguments.pictures < 1:
        raise ValueError(f"--episodes {arguments.episodes} and --pictures {arguments.pictures} must be at least 1")
    agent = Agent.load(Path(arguments.run), arguments.device)
    suites = arguments.suite or SUITES
    sampling, seeds = SamplingConfig(temperature=arguments.temperature), range(UNSEEN, UNSEEN + arguments.episodes)
    names = sorted(agent.tasks) if "control" in suites else []
    # Other weights, sampling or packages do not match what was kept.
    kept, about = results_folder(Path(arguments.run)), {"network": agent.fingerprint(), "sampling": asdict(sampling)}
    results = [play(agent, task, seeds, sampling, num_envs=arguments.episodes, isolate=arguments.isolate,
                    results=Results(kept, task, "agent", about | {"versions": get_task(task).versions()})) for task in names]
    rank, ranks = rank_and_size()
    if rank or any(len(result.returns) < len(seeds) for result in results):
        console.note(f"rank {rank} of {ranks} has played its share; run the command once more for the report")
        return 0
    speaker = Speaker(agent)
    captions = judge_captions(speaker, arguments.worlds, arguments.pictures) if "captions" in suites else None
    questions = judge_questions(speaker, arguments.worlds, arguments.pictures) if "questions" in suites else None
    found: dict[str, Any] = {}
    if results:
        found["share_at_50"] = scores.share_at([r.normalised for r in results], 50)
        found["aggregates"] = aggregates(results)
        found["tasks"] = {r.task: {"score": r.score, "normalised": r.normalised} for r in results}
    for suite, judged in (("caption", captions), ("question", questions)):
        if judged is not None:
            found |= {f"{suite}_accuracy": judged.accuracy, f"{suite}s_by_world": judged.by_world}
    if arguments.json:
        console.print_json(found)
    else:
        if results:
            report_scores(results, as_json=False)
            console.print_table(("normalised", "tasks", "mean", "interquartile mean", "share at 50 %"), [
                (name, group["tasks"], Estimate(**group["mean"]), Estimate(**group["interquartile_mean"]), group["share_at_50"])
                for name, group in found["aggregates"].items()])
        console.print_table(("ability", "result"), [(key, str(value)) for key, value in found.items()
                                                    if key not in ("tasks", "aggregates")])
    if arguments.out:
        report = report_of(agent, Path(arguments.run), results, captions, questions, sampling)
        console.wrote(write_report(report, arguments.out))
    return 0


def results_folder(run: Path) -> Path:
    """Where the episodes of a run, or of one of its checkpoints, are kept."""
    return next((path for path in (run, *run.parents) if (path / "checkpoints").is_dir()), run) / "evaluation"


def unseen(world: str, count: int) -> list[Scene]:
    """Pictures that no data set holds."""
    return list(scenes(world, range(UNSEEN_SCENES, UNSEEN_SCENES + count)))


def judge_captions(speaker: Speaker, worlds: list[str], count: int) -> Pictures[Captioned]:
    """Caption `count` unseen pictures of each world and check every word."""
    examples, by_world = [], {}
    for world in worlds:
        shown = unseen(world, count)
        said = [text for start in range(0, count, BATCH) for text in
                speaker.captions([scene.image for scene in shown[start : start + BATCH]])]
        judged = [Captioned(image=scene.image, caption=text, truth=caption(scene.facts),
                            right=caption_is_right(text, scene.facts)) for scene, text in zip(shown, said, strict=True)]
        by_world[world] = float(np.mean([example.right for example in judged]))
        examples += judged
    return Pictures(examples, float(np.mean([example.right for example in examples])), by_world)


def judge_questions(speaker: Speaker, worlds: list[str], count: int) -> Pictures[Question]:
    """Ask one question about each of `count` unseen pictures of each world."""
    examples, by_world = [], {}
    for world in worlds:
        shown = unseen(world, count)
        rng = np.random.default_rng(UNSEEN_SCENES)
        asked = [ask(scene.facts, rng)[0] for scene in shown]
        said = []
        for start in range(0, count, BATCH):
            part = slice(start, start + BATCH)
            said += speaker.answers([scene.image for scene in shown[part]], [question for question, _ in asked[part]])
        judged = [Question(image=scene.image, question=question, answer=text, truth=truth,
                           right=answer_is_right(text, question, scene.facts))
                  for scene, (question, truth), text in zip(shown, asked, said, strict=True)]
        by_world[world] = float(np.mean([example.right for example in judged]))
        examples += judged
    return Pictures(examples, float(np.mean([example.right for example in examples])), by_world)


def report_of(agent: Agent, run: Path, tasks: Sequence[TaskScore], captions: Pictures[Captioned] | None,
              questions: Pictures[Question] | None, sampling: SamplingConfig, title: str = "Calico") -> Report:
    """What was judged, with films of the tasks, the training's curves and a chat."""
    films = []
    with console.progress("film", total=len(tasks), unit="tasks") as bar:
        for result in tasks:
            films.append(film_of(agent, result.task, UNSEEN, sampling, max_steps=300))
            bar.advance(note=result.task)
    backbone = agent.model.config.backbone
    facts = {"backbone": f"decoder, width {backbone.width}, depth {backbone.depth}, context {backbone.context}"}
    for name, group in aggregates(tasks).items():
        facts[f"interquartile mean, {name}"] = f"{Estimate(**group['interquartile_mean'])} % of expert ({group['tasks']} tasks)"
    for what, judged in (("captions", captions), ("answers", questions)):
        if judged is not None:
            facts |= {f"{what} right, {world}": f"{share:.0%}" for world, share in judged.by_world.items()}
    return Report(
        title=title, parameters=agent.model.parameter_count(), tokens=int(agent.about.get("tokens", 0)),
        machine=f"{torch.get_num_threads()} threads, {platform.machine()}", tasks=tasks, curves=curves(run), films=films,
        captions=sample(captions), caption_accuracy=captions.accuracy if captions else None,
        captions_judged=len(captions.examples) if captions else 0,
        questions=sample(questions), question_accuracy=questions.accuracy if questions else None,
        questions_judged=len(questions.examples) if questions else 0,
        chats=[chat(Speaker(agent))], versions=versions(), facts=facts)


def sample(judged: Pictures[Example] | None, count: int = 8) -> list[Example]:
    """A few examples from end to end, so that every world is among them; not chosen by whether they are right."""
    if judged is None:
        return []
    places = np.linspace(0, len(judged.examples) - 1, min(count, len(judged.examples))).astype(int)
    return [judged.examples[place] for place in places]


def chat(speaker: Speaker) -> list[dict[str, str]]:
    """A short conversation, the last turn about a picture."""
    messages: list[dict[str, Any]] = []
    picture = unseen("minigrid", 1)[0].image
    turns = [*(user_message(None, line) for line in CHAT), user_message(picture, "what do you see?")]
    for turn in turns:
        messages.append(turn)
        messages.append({"role": "assistant", "content": speaker.replies([messages])[0]})
    return [{"role": m["role"], "content": m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"]}
            for m in messages]


def curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Source -> (tokens, loss), read back from TensorBoard; empty where there is no log, as for an exported checkpoint."""
    if not (run / "tensorboard").is_dir():
        return {}
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tokens = {event.step: event.value for event in events.Scalars("tokens")}
    return {tag.removeprefix("loss/"): [(tokens[e.step], e.value) for e in events.Scalars(tag) if e.step in tokens]
            for tag in events.Tags()["scalars"] if tag.startswith("loss/")}


if __name__ == "__main__":
    raise SystemExit(main())
