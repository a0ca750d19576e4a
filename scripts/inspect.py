"""`calico inspect TASK|FILE`: any episode or document as coloured tokens.

Each token is a small card: what it means above, its id below, the colour says its kind, an underlined id is a target of
the loss. Image patches are drawn. `--table` adds every field of every token, `--json` prints them for machines.

    calico inspect CartPole-v1                       # the first steps of an expert's episode; a second or two
    calico inspect BabyAI-GoToLocal-v0 --steps 1 --table
    calico inspect data/CartPole-v1 --index 3 --start 100
    calico inspect captions.jsonl --index 7          # a captioned picture; dialogues and text files too
    calico inspect Pendulum-v1 --layout gato         # ids as in the paper, where integers share the ids of text

With `--run RUN` ids and text pieces are those of a trained run: exactly what it sees. Without, a small text tokenizer
is learnt from the shown text itself.
"""

from pathlib import Path

from rich.console import Console

from calico.scripts.common.console import make_parser, print_json, run_command


@run_command
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("inspect", __doc__)
    parser.add_argument("target", metavar="TASK|FILE", help="a task's name, or a file or folder of data")
    parser.add_argument("--index", type=int, default=0, help="which episode or document of the file (default 0)")
    parser.add_argument("--start", type=int, default=0, help="first step (default 0)")
    parser.add_argument("--steps", type=int, default=4, help="how many steps (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="the episode's seed (default 0)")
    parser.add_argument("--random", action="store_true", help="play the task at random instead of with its expert")
    parser.add_argument("--layout", choices=("disjoint", "gato"), default="disjoint", help="the id map")
    parser.add_argument("--run", type=Path, help="use the ids and text pieces of this run")
    parser.add_argument("--table", action="store_true", help="also list every field of every token")
    parser.add_argument("--json", action="store_true", help="print the fields as JSON")
    args = parser.parse_args(argv)

    from calico.scripts.common.inspecting import inspect_target
    from calico.scripts.common.token_view import render, token_rows

    shown = inspect_target(args.target, layout=args.layout, index=args.index, start=args.start, steps=args.steps,
                           seed=args.seed, random=args.random, run=args.run)
    if args.json:
        print_json({"title": shown.title, "details": shown.details, "vocabulary": shown.vocabulary.to_json(),
                    "tokens": token_rows(shown)})
        return 0
    console = Console(highlight=False)
    colour = console.color_system is not None and not console.no_color
    console.print(render(shown, console.width, colour, args.table), soft_wrap=not colour)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
