"""`calico demo`: from nothing to a small generalist and its report, in a quarter of an hour on two CPU cores.

    calico demo                  # what `make demo` runs; writes runs/demo/report.html and runs/demo/report.json
    calico demo training.steps=400      # a quick look at the whole path; the scores will be poor
    calico demo backbone=perceiver out=runs/latents        # the same with another network, or any other setting of the config

Collects demonstrations of ten tasks from scripted experts, draws pictures of two worlds with true captions and
questions, trains one tiny model on all of it, then lets that one checkpoint play, caption, answer and chat. Stopped and
started again, it continues where it was.
"""

from calico.scripts.common import console

EPISODES = 20          # of each task, on seeds that no demonstration used
SPELLINGS = {"--out": "out", "--steps": "training.steps", "--minutes": "training.minutes", "--seed": "training.seed",
             "--batch": "data.batch_size", "--learning-rate": "optimizer.learning_rate"}


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("demo", __doc__)
    console.add_common(parser, "overrides")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"judged per task (default {EPISODES})")
    console.add_old_spellings(parser, SPELLINGS)
    arguments = parser.parse_args(argv)
    console.check_positive(arguments, "episodes")

    from calico.scripts.common.settings import load_settings
    from calico.scripts.training.demo import demo

    console.wrote(*demo(load_settings("demo", arguments.overrides), arguments.episodes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
