"""`calico train CONFIG [key=value ...]`: one mixture, one model.

    calico collect CartPole-v1 --episodes 20 --out data
    calico train tiny 'data.sources=[{path: data/CartPole-v1}]' training.steps=300 out=runs/cartpole   # half a minute
    calico rollout runs/cartpole CartPole-v1 --episodes 10                                              # about 500
    tensorboard --logdir runs

A run that was stopped (Ctrl-C, kill, power) continues from its last checkpoint when the same command is given again, with
the same losses, bit for bit, as if it had never stopped (with the same number of threads: sums in another order round
otherwise). A damaged checkpoint is named, and --last-good continues from the newest that is whole. Documents that cannot be
read are passed over, up to a twentieth of a source. Data that were mended, or have grown, are accepted with --data-changed;
`calico check` says what is wrong with data.
Every key of a config, with its default: docs/settings.md.
"""

from calico.scripts.common import console


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("train", __doc__)
    parser.add_argument("config", help="a YAML file, or the name of one that comes with Calico: tiny, small, medium, ...")
    console.add_common(parser, "overrides", "--device")
    console.add_common(parser, "--data-changed", "--last-good")
    parser.add_argument("--profile", type=int, default=0, metavar="N",
                        help="record what N steps spend their time on in OUT/profile.json, which https://ui.perfetto.dev opens")
    console.quiet_ranks()
    arguments = parser.parse_args(argv)
    if arguments.profile < 0:
        parser.error(f"--profile {arguments.profile} is no number of steps; give 0 or more")

    from calico.scripts.common.settings import load_settings
    from calico.scripts.training.agent import train

    settings = load_settings(arguments.config, arguments.overrides)
    console.wrote(train(settings, console.chosen_device(arguments.device), arguments.data_changed, arguments.last_good,
                        arguments.profile))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
