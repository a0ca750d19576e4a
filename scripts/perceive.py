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

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
from pathlib import Path

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
VERBS = ("train", "predict")


# The help of each task's verbs, as their own parsers give it: those load torch, which takes seconds. Written anew by
# `python -m calico.scripts.perceive --write`; tests/scripts/test_perceive.py compares.
HELP = Path(__file__).parent / "perceiver_tasks" / "help.json"
COLUMNS = "100"


def helps() -> dict[str, str]:
    """"TASK VERB" -> its help."""
    found = {}
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        for task, file in TASKS.items():
            module = importlib.import_module(f"calico.scripts.perceiver_tasks.{file}")
            for verb in VERBS:
                with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
                    getattr(module, verb)(task, ["--help"])
                found[f"{task} {verb}"] = printed.getvalue()
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return found


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Hand the words after the task and the verb to the task's file."""
    words = sys.argv[1:] if argv is None else argv
    parser = console.make_parser("perceive", __doc__)
    parser.add_argument("task", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="train or predict")
    parser.add_argument("more", nargs="*", help="see calico perceive TASK VERB --help")
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)   # for those who change a setting
    if words == ["--write"]:
        from calico.datasets.publish import replace_file

        replace_file(HELP, json.dumps(helps(), indent=1) + "\n")
        console.wrote(HELP)
        return 0
    arguments = parser.parse_args(words[:2])
    if {"-h", "--help"} & set(words[2:]):
        console.say(*json.loads(HELP.read_text())[f"{arguments.task} {arguments.verb}"].splitlines())
        parser.exit()
    console.quiet_ranks()
    if os.environ.get("RANK", "0") != "0" and arguments.verb == "train":
        console.be_silent()         # before the data are read
    module = importlib.import_module(f"calico.scripts.perceiver_tasks.{TASKS[arguments.task]}")
    return int(getattr(module, arguments.verb)(arguments.task, words[2:]))


if __name__ == "__main__":
    raise SystemExit(main())
