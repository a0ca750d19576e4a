"""`calico probe ENCODER DATA`: how good are a pre-trained encoder's vectors, beside those of the same encoder untrained?

    calico probe runs/pictures pictures.zip                                             # also on the pictures' raw pixels
    calico probe runs/sounds digits.jsonl --label digit --labels-per-class 10 --json    # mean of five draws of the labels

The encoder stays as it is; a sample's vector is the mean over its positions. Two probes learn from four fifths of the data and
are measured on the fifth that `calico pretrain` has not seen: the labels of the 20 nearest neighbours, and a linear layer
whose weight decay is chosen within the training part. DATA as in `calico finetune`.
"""

from calico.scripts.common import console


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("probe", __doc__)
    parser.add_argument("encoder", help="a run of calico pretrain or finetune, or a Data2Vec folder of Hugging Face's")
    parser.add_argument("data", help="labelled data")
    parser.add_argument("--label", default="label", metavar="FIELD", help="field of a .jsonl record that has the class")
    parser.add_argument("--labels-per-class", type=int, metavar="N", help="learn from so many samples of each class only")
    console.add_common(parser, "--json")
    arguments = parser.parse_args(argv)

    from calico.scripts.training.probing import probe

    found = probe(arguments.encoder, arguments.data, arguments.label, arguments.labels_per_class)
    console.print_result(found, arguments.json, ("vectors", "neighbours", "linear"),
                         [(name, row["knn"], row["linear"]) for name, row in found.items()])
    return 0

if __name__ == "__main__":
    raise SystemExit(main())
