"""`calico average RUN RUN ... --out FOLDER`: the mean of several networks' weights, which often plays better than each.

    calico train generalist init=calico-small training.seed=1 out=runs/one
    calico train generalist init=calico-small training.seed=2 out=runs/two
    calico average runs/one runs/two calico-small --out runs/mean
    calico average runs/one runs/two --shares 2 1 --out runs/more_of_one
    calico evaluate runs/mean

The runs must have started from one network, and have its form (scripts/training/averaging.py says why). Training on several
machines that know nothing of each other, and the mean of what they end with, is also a way to use more of them.
"""

import json
import math
import shlex
from pathlib import Path

from calico.scripts.common import console


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("average", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, checkpoints, names of the Hub; two at least")
    parser.add_argument("--shares", type=float, nargs="+", metavar="SHARE", help="of each network in the mean (default: equal)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the new run's folder")
    arguments = parser.parse_args(argv)
    runs, shares = arguments.runs, arguments.shares or [1.0] * len(arguments.runs)
    if len(runs) < 2:
        raise ValueError(f"the mean of {runs[0]} alone is {runs[0]}; name at least two runs")
    if len(shares) != len(runs):
        raise ValueError(f"--shares has {len(shares)} numbers for {len(runs)} runs; give one for each")
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not sum(shares):
        given = " ".join(f"{share:g}" for share in shares)
        raise ValueError(f"--shares {given}: give numbers of at least 0, not all of them 0")
    if arguments.out.exists():
        raise ValueError(f"{arguments.out} exists; give a folder that does not exist yet")

    from calico.agent import checkpoint  # late: they load torch
    from calico.agent.agent import TOKENIZER_FILE, located
    from calico.agent.run_lock import run_lock
    from calico.datasets.publish import replace_file
    from calico.scripts.training import averaging

    networks = [checkpoint.load(located(run), only=("model",)) for run in runs]
    weights, documents = averaging.mean_weights(networks, shares), averaging.documents_of(networks)
    with run_lock(arguments.out):
        checkpoint.save(arguments.out, 0, tensors={"model": weights}, documents=documents,
                        files={TOKENIZER_FILE: networks[0].files[TOKENIZER_FILE]})
        if config := documents.get("config"):
            replace_file(arguments.out / "config.json", json.dumps(config, indent=2) + "\n")
    console.note(f"next: calico evaluate {shlex.quote(str(arguments.out))}")
    console.wrote(arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
