"""`calico evaluate RUN`: every ability of one checkpoint.

    calico evaluate runs/demo --episodes 20          # scores of all its tasks, captions and questions; minutes
    calico evaluate runs/demo --suite captions --json

Pictures are drawn with seeds that no demonstration used; a caption counts as right when it names every object with its
colour and place, and nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import Speaker
from calico.datasets.grounded import answer_is_right, ask, caption, caption_is_right
from calico.envs import scores
from calico.envs.scenes import WORLDS, Scene, scenes
from calico.scripts import console
from calico.scripts.report import Captioned, Question
from calico.scripts.rollout import UNSEEN, play, report_scores

SUITES = ("control", "captions", "questions")
UNSEEN_SCENES = 10_000_000   # first seed of evaluation pictures
BATCH = 64

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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.episodes < 1 or arguments.pictures < 1:
        raise ValueError(f"--episodes {arguments.episodes} and --pictures {arguments.pictures} must be at least 1")
    agent = Agent.load(Path(arguments.run), arguments.device)
    suites = arguments.suite or SUITES
    found: dict[str, object] = {}
    if "control" in suites:
        sampling = SamplingConfig(temperature=arguments.temperature)
        seeds = range(UNSEEN, UNSEEN + arguments.episodes)
        results = [play(agent, task, seeds, sampling, num_envs=arguments.episodes) for task in sorted(agent.tasks)]
        found["share_at_50"] = scores.share_at([r.normalised for r in results], 50)
        found["tasks"] = {r.task: {"score": r.score, "normalised": r.normalised} for r in results}
        if not arguments.json:
            report_scores(results, as_json=False)
    for suite, judge in (("captions", judge_captions), ("questions", judge_questions)):
        if suite in suites:
            judged = judge(Speaker(agent), arguments.worlds, arguments.pictures)
            found[f"{suite.removesuffix('s')}_accuracy"] = judged.accuracy
            found[f"{suite}_by_world"] = judged.by_world
    if arguments.json:
        console.print_json(found)
    else:
        console.print_table(("ability", "result"), [(key, str(value)) for key, value in found.items() if key != "tasks"])
    return 0


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
