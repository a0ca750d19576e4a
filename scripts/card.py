"""`calico card [RUN]`: what a network can do, and what it was made of; without RUN that of the one that comes with Calico.

    calico card                                        # the shipped network: families, scores, data and licences
    calico card --json                                 # the score of every task beside random play and the expert
    calico card runs/demo                              # a run of your own, after `calico evaluate runs/demo`
    calico card runs/demo --pack my-network            # its network alone, in bf16: a folder to give away
    calico evaluate my-network                         # the pack's own figures: bf16 is not fp32
    calico card my-network --write                     # its card goes with it, as card.json and README.md

A card's figures are those of the latest `calico evaluate` of the same weights. Scores are fractions of the expert's: 0 is
random play, 1 the expert.
"""

import math
from pathlib import Path

from calico.scripts.common import console
from calico.scripts.common.shipped import DEFAULT_RUN, HELP


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("card", __doc__)
    parser.add_argument("run", nargs="?", default=DEFAULT_RUN, help=HELP)
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write the network alone into this new folder, in bf16")
    parser.add_argument("--temperature", type=float, metavar="T", help="with --pack: of its actions, unless told otherwise")
    parser.add_argument("--write", action="store_true", help="put the card into the network's folder")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.temperature is not None and (not arguments.pack or not 0 <= arguments.temperature < math.inf):
        raise ValueError(f"--temperature {arguments.temperature:g} goes with --pack, and is at least 0")

    from calico.scripts.evaluation import card  # late: it loads torch

    if arguments.pack:
        console.wrote(card.pack(arguments.run, arguments.pack, arguments.temperature))
        return 0
    found = card.card_of(arguments.run, measured=arguments.write)
    if arguments.write:
        console.wrote(*card.write(arguments.run, found))
    elif arguments.json:
        console.print_json(found)
    else:
        card.show(found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
