"""`calico score TASK...`: what uniform random actions and the task's expert reach, the ends of the scale of every score.

    calico score CartPole-v1 Acrobot-v1                      # 20 episodes of each, a table
    calico score --family classic --episodes 100 --json
    calico score ALE/MsPacman-v5 --policy iw:400 --episodes 3 --max-steps 1000     # another player, a part of the game
    torchrun --nproc-per-node 4 -m calico.scripts.score --family atari     # each rank a part; see common/sharding.py

Every episode leaves a small file under --out, so that a stopped measurement goes on where it was; one made with other
packages, another view or an expert that was changed since is played again. `--write` puts finished tasks into the table that
the package ships (envs/scores.json), with seeds, versions and view settings; whole episodes of these two alone.
"""

from pathlib import Path

from calico.envs.registry import FAMILIES
from calico.scripts.common import console

POLICIES = ("random", "expert")   # the ends of the scale


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("score", __doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="names from `calico tasks`")
    parser.add_argument("--family", metavar="F", help=f"all tasks of this family: {', '.join(FAMILIES)}")
    parser.add_argument("--episodes", type=int, default=20, help="per task and policy (default 20)")
    parser.add_argument("--policy", metavar="P", help="only this one: random, expert or iw:FRAMES (plans in any Atari game)")
    parser.add_argument("--max-steps", type=int, metavar="N", help="cut episodes after N steps")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side (default 1; 0 plays in this one)")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds a step or a reset may take (default 120)")
    parser.add_argument("--out", type=Path, default=Path("runs/score"), help="results of the episodes (default runs/score)")
    parser.add_argument("--write", action="store_true", help="put the results into the package's table")
    console.add_common(parser, "--json")
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "episodes", "max_steps")
    policy = arguments.policy or "expert"
    if policy not in POLICIES and not policy.startswith("iw:"):
        raise ValueError(f"--policy {policy} is none of random, expert, iw:FRAMES")
    if arguments.write and (arguments.max_steps or policy not in POLICIES):
        raise ValueError("--write takes whole episodes of random and expert, the ends of the scale; leave it out, or "
                         "--max-steps and --policy iw:FRAMES")

    from calico.scripts.evaluation.references import score

    return score(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
