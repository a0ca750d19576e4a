"""`calico probe ENCODER DATA`: how good are a pre-trained encoder's vectors, beside those of the same encoder untrained?

    calico probe runs/pictures pictures.zip                                             # also on the pictures' raw pixels
    calico probe runs/sounds digits.jsonl --label digit --labels-per-class 10 --json    # mean of five draws of the labels

The encoder stays as it is; one vector per sample, the mean over its places. Two probes learn from four fifths of the data and
are measured on the fifth that `calico pretrain` has not seen: the labels of the 20 nearest neighbours, and a linear layer
whose weight decay is chosen within the training part. DATA as in `calico finetune`.
"""

from typing import Any

import numpy as np
import torch

from calico.agent.data2vec.batches import Inputs, picture
from calico.agent.data2vec.encoders import VisionEncoder
from calico.agent.data2vec.pretrained import build_encoder, encoder_document, load_pretrained
from calico.scripts.common import console
from calico.scripts.common.encoder_data import Probe, embed, open_labelled

DRAWS = 5   # of a few labels per class


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = console.make_parser("probe", __doc__)
    parser.add_argument("encoder", help="a run of calico pretrain or finetune, or a Data2Vec folder of Hugging Face's")
    parser.add_argument("data", help="labelled data")
    parser.add_argument("--label", default="label", metavar="FIELD", help="field of a .jsonl record that has the class")
    parser.add_argument("--labels-per-class", type=int, metavar="N", help="learn from so many samples of each class only")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    found = probe(arguments.encoder, arguments.data, arguments.label, arguments.labels_per_class)
    if arguments.json:
        console.print_json(found)
    else:
        rows = [(name, row["knn"], row["linear"]) for name, row in found.items()]
        console.print_table(("vectors", "neighbours", "linear"), rows)
    return 0


def probe(encoder: str, data: str, label: str = "label", per_class: int | None = None) -> dict[str, dict[str, float]]:
    """Accuracies of the pre-trained encoder, of the same one untrained, and of raw pixels where the samples are pictures."""
    pretrained = load_pretrained(encoder)
    inputs = Inputs(pretrained.encoder, pretrained.text)
    measure = Probe(open_labelled(data, inputs, label), most=10**9)
    torch.manual_seed(0)
    untrained = Inputs(build_encoder(encoder_document(pretrained.encoder)).eval(), pretrained.text)
    sides = {"pre-trained": lambda samples: embed(inputs, samples), "untrained": lambda samples: embed(untrained, samples)}
    if isinstance(pretrained.encoder, VisionEncoder):
        side = pretrained.encoder.config.image_size
        sides["raw pixels"] = lambda samples: raw(samples, side)
    draws = 1 if per_class is None else DRAWS
    return {name: measure(vectors, per_class, draws) for name, vectors in sides.items()}


def raw(samples: list[Any], side: int) -> np.ndarray:
    """Pictures as float32 (n, 3 * side * side)."""
    return np.stack([picture(sample, side, None).flatten().numpy() for sample in samples])


if __name__ == "__main__":
    raise SystemExit(main())
