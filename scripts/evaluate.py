"""`calico evaluate [RUN]`: every ability of one checkpoint; without RUN of the one that comes with Calico.

    calico evaluate runs/demo --episodes 20                       # all that the run can do; minutes
    calico evaluate runs/demo --suite captions --suite vqa --json
    calico evaluate runs/joint --suite chat --against runs/words  # another run beside it
    calico evaluate runs/joint --suite text --data book.txt       # data of your own
    torchrun --nproc-per-node 4 -m calico.scripts.evaluate runs/demo     # each rank a part of the control episodes

Suites: `control` plays the run's tasks; `captions`, `vqa`, `chat` and `text` evaluate what its config held out
(`data.sources[].held_out: 0.2`), or --data, and pictures of the worlds that it was trained on, drawn with seeds that no data
set holds. Beside the run's own figure (`model`) stand the same with pictures `blanked` to grey or left out (`question_only`),
baselines from the training data (`nearest` by pixels, `most_frequent`, `unigram`), and --against.

Results are kept in small files under <run>/evaluation, so that a stopped evaluation goes on where it was.
"""

from pathlib import Path

from calico.envs.scenes import WORLDS
from calico.scripts.common import console
from calico.scripts.common.shipped import DEFAULT_RUN, HELP

SUITES = ("control", "captions", "vqa", "chat", "text")   # all but the first: see evaluation/data.py


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("evaluate", __doc__)
    parser.add_argument("run", nargs="?", default=DEFAULT_RUN, help=HELP)
    parser.add_argument("--suite", choices=SUITES, action="append",
                        help="may be given more than once (default: all that there is something for)")
    parser.add_argument("--episodes", type=int, default=20, help="per control task (default 20)")
    parser.add_argument("--max-steps", type=int, metavar="N", help="cut episodes after N steps: a game without an end is long")
    parser.add_argument("--num-envs", type=int, default=16, help="environments side by side (default 16)")
    parser.add_argument("--pictures", type=int, default=100, help="per drawn world (default 100)")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), help="(default: those that the run was trained on)")
    parser.add_argument("--data", nargs="+", default=[], metavar="PATH", help="evaluate these, not what the run held out")
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate the first N documents of each data set (default: all)")
    parser.add_argument("--against", metavar="RUN", help="another run, such as one of the same size without pictures")
    parser.add_argument("--temperature", type=float,
                        help="of actions (default: what the network was found to play best at, or 1); text is greedy")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html and report.json, with films and a chat")
    parser.add_argument("--isolate", action="store_true", help="each environment in a process of its own")
    console.add_common(parser, "--device", "--json")
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "episodes", "max_steps", "num_envs", "pictures", "limit")

    from calico.scripts.evaluation.all_suites import evaluate

    return evaluate(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
