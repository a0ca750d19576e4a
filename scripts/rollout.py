"""`calico rollout [RUN] TASK... --episodes N`: let a trained run play; without RUN the network that comes with Calico.

    calico rollout CartPole-v1 --video films                                 # the network that comes with Calico
    calico rollout runs/demo CartPole-v1 --episodes 20                       # a table: return, length, share of expert
    calico rollout runs/demo ALE/Breakout-v5 --episodes 4 --video films      # one MP4 per task, episodes side by side
    calico rollout runs/demo Acrobot-v1 --prompt data/Acrobot-v1             # each episode begins after a demonstration

Episode i uses seed `--seed` + i, whatever the number of environments. Tasks default to all that the run knows. An episode
that its environment does not survive is named and counts as random play; with `--isolate` that holds for environments that
hang or crash, too.
"""

from pathlib import Path

from calico.envs.scores import FIRST_SEED
from calico.scripts.common import console
from calico.scripts.common.shipped import DEFAULT_RUN, HELP, is_task, split_run


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, play, report."""
    parser = console.make_parser("rollout", __doc__)
    parser.add_argument("words", nargs="*", metavar="[RUN] TASK", help=HELP)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--num-envs", type=int, default=16, help="environments side by side (default 16)")
    parser.add_argument("--seed", type=int, default=FIRST_SEED,
                        help=f"seed of the first episode (default {FIRST_SEED})")
    parser.add_argument("--temperature", type=float,
                        help="of actions; 0 is greedy (default: what the network was found to play best at, or 1)")
    parser.add_argument("--top-k", type=int, default=0, help="sample among the k best tokens (default: all)")
    parser.add_argument("--prompt", type=Path, help="episodes of the task: the best one is shown before each episode")
    parser.add_argument("--prompt-tokens", type=int, default=256,
                        help="most tokens of the prompt, in whole timesteps (default 256)")
    parser.add_argument("--video", type=Path, metavar="DIR",
                        help="write an MP4 of each task: its first episodes, up to nine, side by side")
    parser.add_argument("--gif", type=Path, metavar="DIR", help="the same as a GIF")
    parser.add_argument("--isolate", action="store_true", help="each environment in a process of its own")
    parser.add_argument("--spread", type=int, default=0, metavar="N",
                        help="share the environments out among so many processes, for worlds that are slow (default: none)")
    console.add_common(parser, "--device")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.episodes < 1 or arguments.num_envs < 1:
        raise ValueError(f"--episodes {arguments.episodes} and --num-envs {arguments.num_envs} must be at least 1")
    if arguments.prompt_tokens < 1:
        raise ValueError(f"--prompt-tokens {arguments.prompt_tokens} must be at least 1")
    if arguments.seed < 0:
        raise ValueError(f"--seed {arguments.seed} must be at least 0")
    if arguments.spread < 0 or (arguments.spread and arguments.isolate):
        raise ValueError(f"--spread {arguments.spread} must be at least 0, and is not for --isolate")

    if arguments.video:
        console.check_installed("av", "media", "films as MP4 need the package av", "(GIFs need nothing more: --gif DIR)")

    from calico.agent.agent import Agent  # torch takes seconds: not before the words are known to be right
    from calico.agent.sampling import SamplingConfig
    from calico.scripts.common.film import REEL_ROWS
    from calico.scripts.evaluation import control

    if not arguments.words:
        raise ValueError(f"name at least one task for {DEFAULT_RUN} to play, such as CartPole-v1, or a RUN; `calico card` "
                         "lists its tasks")
    run, named = split_run(arguments.words, is_task)
    agent = Agent.load(run, console.chosen_device(arguments.device))
    temperature = agent.temperature if arguments.temperature is None else arguments.temperature
    sampling = SamplingConfig(temperature=temperature, top_k=arguments.top_k)
    tasks = named or sorted(agent.tasks)
    for task in tasks:
        agent.codec(task)                                      # every name is checked before the first episode
    for folder in (arguments.video, arguments.gif):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    results = []
    for task in tasks:
        prompt = control.demonstration(agent, task, arguments.prompt, arguments.prompt_tokens) if arguments.prompt else None
        results.append(control.play(agent, task, seeds, sampling, num_envs=arguments.num_envs, prompt=prompt,
                                    isolate=arguments.isolate, spread=arguments.spread))
        if arguments.video or arguments.gif:
            control.film(agent, task, seeds[:REEL_ROWS], sampling, video=arguments.video, gif=arguments.gif, prompt=prompt,
                         isolate=arguments.isolate)
    control.report_scores(results, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
