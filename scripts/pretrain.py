"""`calico pretrain CONFIG [key=value ...]`: a data2vec encoder from pictures, sounds or texts without labels.

    calico pretrain pretrain_images 'data.paths=[pictures.zip]' out=runs/pictures            # a folder, a zip, a .npz
    calico pretrain pretrain_speech 'data.paths=[sounds.jsonl]' out=runs/sounds              # or a manifest: {"file": ...}
    calico pretrain pretrain_text 'data.paths=[reviews.jsonl, books]' out=runs/texts         # .txt, .jsonl, .parquet
    calico pretrain pretrain_images 'data.paths=[pictures.zip]' --probe pictures.zip         # <class>/<file>: how good is it?
    calico finetune runs/pictures pictures.zip --out runs/classes                            # then use it
    tensorboard --logdir runs

A fifth of the samples, by a hash of each, is never learnt from, so that it can be measured on. A run that was stopped
(Ctrl-C, kill, power) continues from its last checkpoint when the same command is given again, with the same losses, bit
for bit. A run that collapses is stopped with the reason.
"""

from pathlib import Path

from calico.scripts.common import console


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("pretrain", __doc__)
    parser.add_argument("config", help="a YAML file, or pretrain_images, pretrain_speech, pretrain_text")
    console.add_common(parser, "overrides", "--device")
    parser.add_argument("--probe", metavar="DATA", help="labelled data of the same kind, to measure the encoder on every "
                                                         "training.evaluate_every steps")
    parser.add_argument("--label", default="label", metavar="FIELD", help="field of a .jsonl record that has the class")
    console.add_common(parser, "--data-changed", "--last-good")
    arguments = parser.parse_args(argv)
    console.quiet_ranks()

    from calico.scripts.training.pretraining import load_settings, pretrain
    from calico.scripts.training.runs import fall_back

    settings = load_settings(arguments.config, arguments.overrides)
    if arguments.last_good:
        fall_back(Path(settings.out))
    device = console.chosen_device(arguments.device)
    console.wrote(pretrain(settings, arguments.probe, arguments.label, device, arguments.data_changed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
