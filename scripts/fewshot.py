"""`calico fewshot [RUN] TASK...`: how well a network learns a task from a few demonstrations, beside simpler ways.

    calico fewshot MiniGrid-Playground-v0 --demonstrations 0 5 25 --out runs/few      # from the network that comes with Calico
    calico fewshot runs/demo Acrobot-v1 CartPole-v1 --out runs/few training.minutes=2    # any setting of `calico train`

For each task, and for each number of demonstrations by its expert:
- zero-shot: RUN as it is (0 demonstrations);
- prompted: RUN, each of whose episodes begins after the best demonstration, where its context has room;
- fine-tuned: RUN, trained on the demonstrations alone;
- from scratch: a network of RUN's shape with random weights, trained in the same way;
- nearest: no network; what the demonstrations did in the most similar observation. This baseline is hard to beat.
Scores are means over --judged episodes with seeds that no demonstration has. A task that RUN was trained on is named.
What was stopped goes on where it was.
"""

from pathlib import Path

from calico.scripts.common import console
from calico.scripts.common.shipped import HELP, is_task, split_run


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("fewshot", __doc__)
    parser.add_argument("words", nargs="+", metavar="[RUN] TASK", help=f"and key=value; RUN: {HELP}")
    parser.add_argument("--demonstrations", nargs="+", type=int, default=[0, 1, 5, 25, 100], metavar="N",
                        help="(default 0 1 5 25 100)")
    parser.add_argument("--judged", type=int, default=20, metavar="N", help="episodes that each score is of (default 20)")
    parser.add_argument("--max-steps", type=int, metavar="N", help="most steps of a judged episode (default: the task's limit)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data, the networks and the scores")
    console.add_common(parser, "--device", "--json")
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "judged", "max_steps")
    if wrong := [count for count in arguments.demonstrations if count < 0]:
        raise ValueError(f"--demonstrations {wrong[0]} must be at least 0")
    overrides = [word for word in arguments.words if "=" in word]
    run, tasks = split_run([word for word in arguments.words if "=" not in word], is_task)
    if not tasks:
        raise ValueError(f"{run} is taken for the RUN, and no task is named; `calico tasks` lists those with an expert")

    from calico.scripts.training.few_shot import measure, report  # late: it loads torch

    found = measure(run, tasks, arguments.out, counts=sorted(set(arguments.demonstrations)), judged=arguments.judged,
                    max_steps=arguments.max_steps, overrides=overrides, device=console.chosen_device(arguments.device))
    report(found, arguments.json)
    console.wrote(arguments.out / "scores.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
