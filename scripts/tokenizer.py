"""`calico tokenizer train FILES --vocab N`: learn text pieces once, for several runs.

    calico tokenizer train data/minigrid-captions texts/*.txt --vocab 4096 --out words.model      # seconds
    calico train small data.tokenizer=words.model vocabulary.text=4096 ...

Every Unicode string comes back as it was: characters without a piece of their own are written as their UTF-8 bytes. FILES
are whatever `calico train` takes: text, captions, questions, dialogues, episodes with missions.
"""

from pathlib import Path

from calico.scripts.common import console


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("tokenizer", __doc__)
    parser.add_argument("action", choices=["train"])
    parser.add_argument("files", nargs="+", metavar="FILES", help="files or folders of text, captions, dialogues or episodes")
    parser.add_argument("--vocab", type=int, default=4096, metavar="N", help="pieces to aim for, 256 bytes among them "
                        "(default 4096); a small text gives fewer")
    parser.add_argument("--out", type=Path, default=Path("tokenizer.model"), metavar="FILE",
                        help="the SentencePiece model to write (default tokenizer.model)")
    console.add_common(parser, "--seed", "--json")
    arguments = parser.parse_args(argv)

    from calico.datasets.open_data import open_data
    from calico.datasets.publish import replace_file
    from calico.scripts.common.settings import SourceSettings
    from calico.scripts.common.sources import OpenedSource, limited, strings
    from calico.tokenizers.text import TextTokenizer

    opened = [OpenedSource(path, open_data(path), SourceSettings(path=path)) for path in arguments.files]
    texts = list(limited(strings(opened)))
    try:
        text = TextTokenizer.train(texts, arguments.vocab, seed=arguments.seed)
    except ValueError as error:
        raise ValueError(f"--vocab {arguments.vocab}: {error}") from error
    replace_file(arguments.out, text.to_bytes())
    sample = texts[:: len(texts) // 1000 + 1]          # about a thousand of them
    size, tokens = sum(len(t.encode()) for t in sample), sum(len(text.encode(t)) for t in sample)
    found = {"out": arguments.out, "pieces": text.size, "texts": len(texts), "bytes_per_token": size / max(tokens, 1)}
    if arguments.json:
        console.print_json(found)
    else:
        console.say(f"{text.size} pieces from {len(texts)} texts; {found['bytes_per_token']:.2f} bytes a token")
    console.wrote(arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
