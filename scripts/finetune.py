"""`calico finetune ENCODER DATA [key=value ...] --out RUN`: classes on top of a pre-trained encoder; `--predict` asks for them.

    calico finetune runs/sounds digits.jsonl label=digit --out runs/digits           # all labels of four fifths of the data
    calico finetune runs/sounds digits.jsonl label=digit labels_per_class=10 --out runs/ten
    calico finetune runs/sounds digits.jsonl label=digit from_scratch=true --out runs/scratch    # the same encoder, untrained
    calico finetune runs/digits one.wav two.wav --predict
    calico finetune runs/reviews "a thoughtful, funny film" --predict                # of a text encoder: texts or .txt files

ENCODER is a run of `calico pretrain`, or a Data2Vec folder of Hugging Face's. DATA as in `calico perceive`: <class>/<file> in a
folder or zip, a .npz with images and labels, a .jsonl manifest. A fifth of it, by a hash of each sample, is held out and
measured: RUN/held_out.json and RUN/confusion.png; it is the fifth that `calico pretrain` has not seen either. The same command
continues a run, and may make it longer.
"""

from pathlib import Path

from calico.scripts.common import console

SPELLINGS = {"--label": "label", "--labels-per-class": "labels_per_class", "--from-scratch": "from_scratch=true",
             "--seed": "training.seed", "--steps": "training.steps", "--minutes": "training.minutes", "--batch": "batch_size",
             "--learning-rate": "optimizer.learning_rate"}


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("finetune", __doc__)
    parser.add_argument("encoder", help="a run of calico pretrain; with --predict one of calico finetune")
    parser.add_argument("data", nargs="+", metavar="DATA [key=value ...]",
                        help="labelled data, then settings such as training.steps=500; with --predict files or texts")
    parser.add_argument("--out", metavar="RUN", help="folder of the new run")
    parser.add_argument("--predict", action="store_true", help="name the classes of files or texts")
    console.add_common(parser, "--device", "--json")
    console.add_common(parser, "--data-changed", "--last-good")
    console.add_old_spellings(parser, SPELLINGS)
    arguments = parser.parse_args(argv)
    if not arguments.predict and arguments.out is None:
        raise ValueError("--out is missing; name the folder of the new run")
    console.quiet_ranks()

    from calico.scripts.common.config import load_config
    from calico.scripts.training import classification
    from calico.scripts.training.finetuning import FinetuneSettings, finetune, predict
    from calico.scripts.training.runs import fall_back

    if arguments.predict:
        found = predict(arguments.encoder, arguments.data, console.chosen_device(arguments.device))
        if not arguments.json:
            found = [{**answer, "top": answer["top"][:1]} for answer in found]
        classification.show_answers(found, "item", arguments.json)
        return 0
    settings = load_config(FinetuneSettings, None, arguments.data[1:])
    if arguments.last_good:
        fall_back(Path(arguments.out))
    report = finetune(arguments.encoder, arguments.data[0], Path(arguments.out), settings,
                      console.chosen_device(arguments.device), arguments.data_changed)
    classification.show_report(report, arguments.json)
    console.wrote(arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
