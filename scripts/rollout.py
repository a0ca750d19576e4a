"""`calico rollout RUN TASK... --episodes N`: let a trained run play.

    calico rollout runs/demo CartPole-v1 --episodes 20                       # a table: return, length, share of expert
    calico rollout runs/demo ALE/Breakout-v5 --gif films                     # one GIF per task
    calico rollout runs/demo Acrobot-v1 --prompt data/Acrobot-v1             # each episode begins after a demonstration

Episode i uses seed `--seed` + i, whatever the number of environments. Tasks default to all that the run knows.
"""

from pathlib import Path

import numpy as np

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.datasets.episodes import EpisodeReader
from calico.envs.registry import make
from calico.envs.runner import Film, rollout
from calico.scripts import console
from calico.scripts.collect import folder_name
from calico.scripts.report import Film as Filmed
from calico.scripts.report import TaskScore, encode_gif
from calico.tokenizers.spaces import space_to_json
from calico.tokenizers.tokens import Tokens

UNSEEN = 10_000   # first seed of evaluations: demonstrations begin at 0


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, play, report."""
    parser = console.make_parser("rollout", __doc__)
    parser.add_argument("run", help="a run's folder, or one of its checkpoints")
    parser.add_argument("tasks", nargs="*", default=[], metavar="TASK")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--num-envs", type=int, default=16, help="environments side by side (default 16)")
    parser.add_argument("--seed", type=int, default=UNSEEN, help=f"seed of the first episode (default {UNSEEN})")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--top-k", type=int, default=0, help="sample among the k best tokens (default: all)")
    parser.add_argument("--prompt", type=Path, help="episodes of the task: the best one is shown before each episode")
    parser.add_argument("--prompt-tokens", type=int, default=256, help="length of the prompt (default 256)")
    parser.add_argument("--gif", type=Path, metavar="DIR", help="write a GIF of each task's first episode")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.episodes < 1 or arguments.num_envs < 1:
        raise ValueError(f"--episodes {arguments.episodes} and --num-envs {arguments.num_envs} must be at least 1")
    if arguments.prompt_tokens < 1:
        raise ValueError(f"--prompt-tokens {arguments.prompt_tokens} must be at least 1")
    if arguments.seed < 0:
        raise ValueError(f"--seed {arguments.seed} must be at least 0")
    agent = Agent.load(arguments.run, arguments.device)
    sampling = SamplingConfig(temperature=arguments.temperature, top_k=arguments.top_k)
    tasks = arguments.tasks or sorted(agent.tasks)
    for task in tasks:
        agent.codec(task)                                      # every name is checked before the first episode
    if arguments.gif:
        arguments.gif.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    results = []
    for task in tasks:
        prompt = demonstration(agent, task, arguments.prompt, arguments.prompt_tokens) if arguments.prompt else None
        results.append(play(agent, task, seeds, sampling, num_envs=arguments.num_envs, prompt=prompt))
        if arguments.gif:
            film = film_of(agent, task, arguments.seed, sampling, prompt=prompt)
            path = arguments.gif / f"{folder_name(task)}.gif"
            path.write_bytes(encode_gif(film.frames, film.fps))
            console.wrote(path)
    report_scores(results, arguments.json)
    return 0


def play(agent: Agent, task: str, seeds: range, sampling: SamplingConfig, *, num_envs: int = 16,
         max_steps: int | None = None, prompt: Tokens | None = None) -> TaskScore:
    """Returns of one episode per seed, beside the task's references.

    Raises:
        ValueError: the agent does not know the task, or knows it with other spaces than those that it has here.
    """
    check_spaces(agent, task)
    policy = agent.policy(task, sampling, prompt=prompt)
    returns: dict[int, float] = {}
    with console.progress(f"play {task}", total=len(seeds), unit="episodes") as bar:
        for episode in rollout(task, policy, seeds, num_envs=num_envs, max_steps=max_steps, record=False):
            returns[episode.seed] = episode.score
            bar.advance(note=f"return {episode.score:g}")
    return TaskScore.of(task, [returns[seed] for seed in seeds])


def check_spaces(agent: Agent, task: str) -> None:
    """What the agent has learnt to see and do must be what the installed environment shows and takes."""
    codec = agent.codec(task)
    env = make(task)
    env.close()
    for role, here, learnt in (("observation", env.observation_space, codec.observation_space),
                               ("action", env.action_space, codec.action_space)):
        if space_to_json(here) != space_to_json(learnt):
            versions = agent.tasks[task].get("data", {}).get("environment", {}).get("versions", {})
            then = ", ".join(f"{package} {version}" for package, version in versions.items()) or "unknown versions"
            raise ValueError(f"{task}: its {role} space is {here} here but was {learnt} in training ({then}); install what "
                             "the data were made with, or train again")


def demonstration(agent: Agent, task: str, path: Path, length: int) -> Tokens:
    """The first tokens of the best episode in a data set (Gato, arXiv:2205.06175, section 2.4).

    Raises:
        ValueError: the data is of another task.
    """
    reader = EpisodeReader(path)
    if reader.task["name"] != task:
        raise ValueError(f"--prompt {path} holds episodes of {reader.task['name']}, not of {task}")
    return agent.codec(task).encode_episode(reader[int(reader.scores.argmax())])[:length]


def film_of(agent: Agent, task: str, seed: int, sampling: SamplingConfig, *, max_steps: int = 600, every: int = 2,
            prompt: Tokens | None = None) -> Filmed:
    """One episode with its frames."""
    camera = Film(every=every)
    policy = agent.policy(task, sampling, prompt=prompt)
    (episode,) = rollout(task, policy, [seed], num_envs=1, max_steps=max_steps, on_step=camera, record=False, render=True)
    return Filmed(task=task, frames=np.stack(camera.frames[seed]), score=episode.score)


def report_scores(results: list[TaskScore], as_json: bool) -> None:
    """A table, or JSON."""
    if as_json:
        console.print_json([{"task": r.task, "family": r.family, "score": r.score, "episodes": len(r.returns),
                             "returns": list(r.returns), "random": r.random, "expert": r.expert,
                             "normalised": r.normalised} for r in results])
        return
    rows = [(r.task, len(r.returns), f"{r.score:.2f}", f"{r.interval:.2f}", r.random, r.expert,
             None if r.normalised is None else f"{r.normalised:.0f} %") for r in results]
    console.print_table(("task", "episodes", "return", "± 95 %", "random", "expert", "of expert"), rows)
