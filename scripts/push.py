"""`calico push RUN|DATA OWNER/NAME`: give a network or a data set to others, on the Hugging Face Hub.

    calico push runs/demo ada/my-agent                         # weights, tokenizer, card with its scores, film
    calico push runs/demo ada/my-agent --film films/demo.gif --private
    calico push data/CartPole-v1 ada/cartpole                  # Parquet that the Hub's viewer shows, and a card
    calico rollout ada/my-agent CartPole-v1                    # what was pushed is a RUN, and DATA, of every command
    calico inspect ada/cartpole@main

`hf auth login` comes first, or a token in HF_TOKEN. A push that was interrupted goes on where it was: files that have arrived
are not sent again. The repository's newest commit then holds what was pushed and nothing else. A run's config goes with it,
with the paths of its data; `calico card RUN --pack FOLDER` makes a network without.
"""

from pathlib import Path

from calico.scripts.common import console


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("push", __doc__)
    parser.add_argument("what", metavar="RUN|DATA", help="a run's folder or one of its checkpoints; a file or folder of data")
    parser.add_argument("name", metavar="OWNER/NAME", help="of the repository, which is made where it is not there")
    parser.add_argument("--private", action="store_true", help="a new repository is seen by its owner alone")
    parser.add_argument("--film", type=Path, metavar="FILE", help="a GIF or MP4 for the top of a network's card (default: the "
                        "run's newest GIF)")
    parser.add_argument("--optimizer", action="store_true", help="of a network: also what a resumed training needs")
    parser.add_argument("--json", action="store_true", help="print the address as JSON")
    arguments = parser.parse_args(argv)
    if arguments.name.count("/") != 1:
        raise ValueError(f"{arguments.name!r} is no name of a repository; give OWNER/NAME, such as ada/my-agent")

    from calico.scripts.common import pushing  # late: it loads torch

    if pushing.is_run(arguments.what):
        address = pushing.push_run(arguments.what, arguments.name, private=arguments.private, film=arguments.film,
                                   optimizer=arguments.optimizer)
    else:
        if arguments.film or arguments.optimizer:
            raise ValueError(f"--film and --optimizer are for networks, and {arguments.what} holds data")
        address = pushing.push_data(arguments.what, arguments.name, private=arguments.private)
    if arguments.json:
        console.print_json({"url": address})
    else:
        console.say(address)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
