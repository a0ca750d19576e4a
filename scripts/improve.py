"""`calico improve [RUN] TASK...`: play, ask the expert what was right, learn from that, again (DAgger, arXiv:1011.0686).

    calico improve LunarLander-v3 --out runs/lander                  # from the network that comes with Calico
    calico improve runs/demo Pendulum-v1 Acrobot-v1 --rounds 5 --out runs/better
    calico improve runs/demo Pendulum-v1 training.minutes=2 --out runs/better     # any setting of `calico train`

Before the first round the experts show --episodes of each task. In every round the network plays --episodes with other seeds,
the expert says at each step what it would have done there, and training goes on with all that was recorded so far. A table
shows the scores of every round; OUT/round-N is the network after it. What was stopped goes on where it was.
"""

from pathlib import Path

from calico.scripts.common import console
from calico.scripts.common.shipped import HELP, is_task, split_run


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("improve", __doc__)
    parser.add_argument("words", nargs="+", metavar="[RUN] TASK", help=f"and key=value; RUN: {HELP}")
    parser.add_argument("--rounds", type=int, default=3, help="(default 3)")
    parser.add_argument("--episodes", type=int, default=20, help="per task and round (default 20)")
    parser.add_argument("--mix", type=float, default=0.5,
                        help="share of the steps that the expert takes itself in the first round; halved in each later one "
                             "(default 0.5)")
    parser.add_argument("--judged", type=int, default=20, metavar="N",
                        help="episodes that each round's scores are of (default 20)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data and the networks of all rounds")
    console.add_common(parser, "--device", "--json")
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "rounds", "episodes", "judged")
    if not 0 <= arguments.mix <= 1:
        raise ValueError(f"--mix {arguments.mix:g} must be from 0 to 1")
    overrides = [word for word in arguments.words if "=" in word]
    run, tasks = split_run([word for word in arguments.words if "=" not in word], is_task)
    if not tasks:
        raise ValueError(f"{run} is taken for the RUN, and no task is named; `calico tasks` lists those with an expert")

    from calico.scripts.training.improving import improve, report  # late: it loads torch

    rounds = improve(run, tasks, arguments.out, rounds=arguments.rounds, episodes=arguments.episodes, mix=arguments.mix,
                     judged=arguments.judged, overrides=overrides, device=console.chosen_device(arguments.device))
    report(rounds, arguments.json)
    console.wrote(arguments.out / f"round-{arguments.rounds}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
