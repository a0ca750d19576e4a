"""`calico perceive TASK train|predict ...`: the Perceiver's tasks, from files on the disk to answers.

    calico perceive classify-image train pictures.zip --out runs/pictures      # <class>/<file>, in a folder or a zip
    calico perceive classify-image predict runs/pictures cat.jpg dog.png
    calico perceive fill-mask train reviews.jsonl --out runs/language
    calico perceive fill-mask predict runs/language "This is a [MASK]."
    calico perceive classify-text train reviews.jsonl init=runs/language --out runs/reviews
    calico perceive TASK train --help                                          # each has its own settings

A fifth of the data, chosen by a hash of each item, is held out and measured. A run that was stopped continues when the same
command is given again. `init=` and `predict` also take the folder of a Hugging Face Perceiver checkpoint (safetensors).
"""

import importlib
import sys

from calico.scripts.common import console

# task -> the file in scripts/perceiver_tasks/ that has `train(task, argv) -> int` and `predict(task, argv) -> int`
TASKS = {
    "classify-text": "classify",
    "classify-image": "classify",
    "classify-audio": "classify",
    "classify-points": "classify",
    "fill-mask": "fill_mask",
    "flow": "flow",
    "autoencode": "autoencode",
}


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Hand the words after the task and the verb to the task's file."""
    words = sys.argv[1:] if argv is None else argv
    parser = console.make_parser("perceive", __doc__)
    parser.add_argument("task", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("verb", choices=("train", "predict"), metavar="VERB", help="train or predict")
    parser.add_argument("more", nargs="*", help="see calico perceive TASK VERB --help")
    arguments = parser.parse_args(words[:2])
    module = importlib.import_module(f"calico.scripts.perceiver_tasks.{TASKS[arguments.task]}")
    return int(getattr(module, arguments.verb)(arguments.task, words[2:]))


if __name__ == "__main__":
    raise SystemExit(main())
