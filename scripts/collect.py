"""`calico collect TASK... --episodes N --out DIR`: demonstrations from each task's expert, as Parquet episodes.

    calico collect CartPole-v1 ALE/Freeway-v5 --episodes 20 --out data       # seconds; data/CartPole-v1, data/ALE-Freeway-v5
    calico collect BabyAI-GoToLocal-v0 --episodes 1000 --noise 0.05 --out data
    calico collect Acrobot-v1 --episodes 500 --keep 80 --workers 8 --out data    # only what is worth 80 % of the expert
    calico collect BabyAI-GoToLocal-v0 --compact --episodes 1000 --out data  # a board costs one patch in place of sixteen
    calico collect HalfCheetah-v5 --policy npz:cheetah.npz --out data        # a player from a file: npz:, sb3:, hf:, replay:
    calico collect my_module:MyEnv-v0 --policy my_module:expert --out data   # an environment and an expert of your own
    calico collect ALE/MsPacman-v5 --policy iw:400 --out data                # plans over copies of the emulator; any Atari game
    calico collect CartPole-v1 --policy runs/demo --label expert --out more  # the run plays, the expert says what was right
    calico collect CartPole-v1 --train-expert --episodes 100 --out data      # train one first: minutes here, hours elsewhere
    calico collect --scenes minigrid lander --episodes 5000 --out data       # pictures with captions and questions
    calico collect --recipe generalist --out demos                           # all that the shipped network was made from
    calico collect --recipe corrections --policy RUN --label expert --mix 0.4 --seed 100000 --out corrected   # what RUN lacks
    torchrun --nproc-per-node 4 -m calico.scripts.collect CartPole-v1 --episodes 9999 --out data   # each rank its share

Episode i is always played with seed `--seed` + i. A folder that already holds some of the episodes is completed, so a
collection that was stopped goes on where it was. Episodes that are left out, because of their return, because the expert
found no plan in them (an accident of `--noise` can make a task impossible) or because their environment failed, are listed
with the reason in `left-out.jsonl` beside the data.
"""

import argparse
import os
from pathlib import Path

from calico.envs.registry import get_task
from calico.envs.scenes import WORLDS, scenes
from calico.scripts.common import console
from calico.scripts.common.shipped import DEFAULT_RUN

PLAYERS = "expert, random, npz:FILE, sb3:FILE.zip, hf:OWNER/NAME[/FILE], replay:FILE, iw:FRAMES, MODULE:NAME"  # envs/experts.py
TRAIN_STEPS = 100_000   # of an expert


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, collect, report."""
    parser = console.make_parser("collect", __doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="names from `calico tasks`, any Gymnasium id, or MODULE:ENV")
    parser.add_argument("--scenes", nargs="+", default=[], metavar="WORLD", help=f"pictures of {', '.join(WORLDS)}")
    parser.add_argument("--recipe", metavar="NAME", help="a list of tasks, episodes and pictures: a YAML file, or generalist")
    parser.add_argument("--episodes", type=int, default=10, help="per task, or pictures per world (default 10)")
    parser.add_argument("--out", type=Path, required=True, help="folder; each task gets one of its own in it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode (default 0)")
    parser.add_argument("--noise", type=float, default=0.0,
                        help="share of actions replaced by random ones; training asks for the expert's there (default 0)")
    parser.add_argument("--noise-steps", type=int, default=1, help="hold each random action for so many steps (default 1)")
    parser.add_argument("--compact", action="store_true",
                        help="see the tasks in the views that cost fewest tokens: MiniGrid's and Sokoban's boards as one patch")
    parser.add_argument("--policy", default="expert", metavar="P",
                        help=f"who plays: {PLAYERS}, or a trained run (default expert)")
    parser.add_argument("--label", metavar="P",
                        help="who says at each step what training asks for, whatever the policy does (DAgger): mostly expert")
    parser.add_argument("--mix", type=float, default=0.0, help="share of the steps that --label plays itself (default 0)")
    parser.add_argument("--train-expert", action="store_true",
                        help="train a network with Stable-Baselines3 (in OUT/experts, unless it is there) and let it play")
    parser.add_argument("--train-steps", type=int, default=TRAIN_STEPS, help=f"steps of its training (default {TRAIN_STEPS:,})")
    parser.add_argument("--keep", type=float, metavar="PERCENT",
                        help="leave out episodes below this share of the expert's score (Gato: 80); 0 is random play")
    parser.add_argument("--max-steps", type=int, metavar="N",
                        help="cut episodes after N steps: with many short ones a network sees more beginnings and goals")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="processes side by side (default: one per core; 0 plays in this one)")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds a step or a reset may take (default 120)")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.mix <= 1:
        raise ValueError(f"--mix {arguments.mix:g} must be from 0 to 1")
    if arguments.mix and arguments.label is None:
        raise ValueError("--mix shares the steps with --label; give that too, such as --label expert")
    if arguments.label and arguments.noise:
        raise ValueError("--label and --noise exclude each other: the policy's own mistakes are what is labelled")
    if arguments.seed < 0:
        raise ValueError(f"--seed {arguments.seed} must be at least 0")
    if arguments.max_steps is not None and arguments.keep is not None:
        raise ValueError("--keep compares whole episodes with the expert's, and --max-steps cuts them; leave one out")
    console.check_positive(arguments, "max_steps")
    if arguments.recipe:
        console.wrote(*_follow_recipe(arguments))
        return 0
    if not arguments.tasks and not arguments.scenes:
        raise ValueError("name at least one task, --scenes WORLD or --recipe NAME; `calico tasks` lists what can be played")
    if arguments.episodes < 1:
        raise ValueError(f"--episodes {arguments.episodes} must be at least 1")
    if arguments.train_expert and arguments.policy != "expert":
        raise ValueError(f"--train-expert and --policy {arguments.policy} exclude each other")

    from calico.scripts.common.collecting import collect, collect_scenes  # late: what it loads takes a second
    from calico.scripts.training.experts import train_expert

    tasks = [get_task(name) for name in arguments.tasks]             # all names are checked before the first episode
    tasks = [task.compact() for task in tasks] if arguments.compact else tasks
    for world in arguments.scenes:
        scenes(world, ())
    agent = None
    if is_run(arguments.policy):
        from calico.agent.agent import Agent
        from calico.scripts.common.as_trained import as_trained

        agent = Agent.load(arguments.policy)
        tasks = [as_trained(agent, task.name) for task in tasks]
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    written = []
    for task in tasks:
        policy = train_expert(task, arguments.out, arguments.train_steps) if arguments.train_expert else arguments.policy
        written.append(collect(task, seeds, arguments.out, noise=arguments.noise, noise_steps=arguments.noise_steps,
                               policy=policy, keep=arguments.keep, processes=arguments.workers,
                               time_limit=arguments.time_limit, label=arguments.label, mix=arguments.mix, agent=agent,
                               max_steps=arguments.max_steps))
    for world in arguments.scenes:
        written += collect_scenes(world, seeds, arguments.out)
    console.wrote(*written)
    return 0


def _follow_recipe(arguments: argparse.Namespace) -> list[Path]:
    if arguments.tasks or arguments.scenes:
        raise ValueError("--recipe names its tasks and worlds itself; leave TASK and --scenes out")
    own = {"--noise": arguments.noise, "--keep": arguments.keep, "--train-expert": arguments.train_expert,
           "--max-steps": arguments.max_steps}
    for option in (option for option, value in own.items() if value):
        raise ValueError(f"{option}: a recipe says itself how its tasks are played; leave it out")
    corrected = is_run(arguments.policy) and arguments.label == "expert"
    if not corrected and (arguments.policy, arguments.label) != ("expert", None):
        raise ValueError(f"--policy {arguments.policy}, --label {arguments.label}: a recipe's tasks are played by their experts"
                         " or by a trained run that they correct: --policy RUN --label expert")
    from calico.scripts.common.recipes import collect_recipe

    agent = None
    if corrected:
        from calico.agent.agent import Agent

        agent = Agent.load(arguments.policy)
    return collect_recipe(arguments.recipe, arguments.out, arguments.workers, arguments.time_limit, seed=arguments.seed,
                          mix=arguments.mix, agent=agent, policy=arguments.policy)


def is_run(policy: str) -> bool:
    """Whether a policy is a trained run: its folder, or the name of the one that comes with Calico."""
    return policy == DEFAULT_RUN or Path(policy).is_dir()


if __name__ == "__main__":
    raise SystemExit(main())
