"""`calico caption [RUN] IMAGE...`: describe pictures; without RUN by the network that comes with Calico.

    calico caption runs/demo room.png other.jpg
    calico caption runs/demo *.png --samples 3                  # three captions of each, drawn at temperature 0.9
    calico caption runs/demo room.png --best-of 20 --json       # the likeliest of twenty
    calico caption runs/demo room.png --beams 5                 # beam search

Larger pictures are reduced to `--max-side` pixels: an image costs one token per 16x16 pixels. Several captions come with
the likeliest first, by the model's own log-likelihood per token.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calico.scripts.common import console
from calico.scripts.common.shipped import HELP, is_media, split_run

SAMPLED = 0.9              # temperature where several are drawn: Gato, appendix


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("caption", __doc__)
    parser.add_argument("words", nargs="+", metavar="[RUN] IMAGE", help=HELP)
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="captions of each picture (default 1)")
    parser.add_argument("--best-of", type=int, metavar="N", help="draw so many and keep the likeliest different ones")
    parser.add_argument("--beams", type=int, metavar="N", help="beam search in place of drawing")
    parser.add_argument("--temperature", type=float, help=f"0 is greedy (default 0; {SAMPLED} where several are drawn)")
    console.add_common(parser, "--seed", "--max-side", "--device", "--json")
    arguments = parser.parse_args(argv)
    drawn, temperature = check_options(arguments)
    run, names = split_run(arguments.words, is_media)
    paths = [Path(name) for name in names]
    if not paths:
        raise ValueError(f"{run} is taken for the RUN, and no picture is named; give one or more, such as room.png")

    from calico.agent.sampling import SamplingConfig
    from calico.agent.talk import Generated, TextGenerator
    from calico.scripts.common.media_inputs import in_batches, load

    agent, pictures = load(run, paths, arguments.max_side, console.chosen_device(arguments.device))
    speaker = TextGenerator(agent, SamplingConfig(temperature=temperature, seed=arguments.seed))

    def describe(part: Sequence[Any]) -> list[list[Generated]]:
        return speaker.search_captions(part, drawn) if arguments.beams else speaker.draw_captions(part, drawn)

    captions = in_batches(describe, pictures, drawn)
    if arguments.best_of:                                      # the best of many draws are often one and the same
        captions = [list({caption.text: caption for caption in group}.values()) for group in captions]
    captions = [group[: arguments.samples] for group in captions]
    described = list(zip(paths, captions, strict=True))
    if arguments.json:
        console.print_json([{"image": path, "caption": group[0].text, "captions": [
            {"caption": one.text, "log_likelihood": one.log_likelihood} for one in group]} for path, group in described])
        return 0
    for path, group in described:
        for caption in group:
            console.say(f"{path}: {caption.text}")
    return 0


def check_options(arguments: Any) -> tuple[int, float]:
    """How many captions are made of each picture, and the temperature.

    Raises:
        ValueError: options that contradict each other.
    """
    console.check_positive(arguments, "samples", "best_of", "beams")
    if arguments.beams is not None and (arguments.best_of is not None or arguments.temperature is not None):
        raise ValueError("--beams searches and draws nothing; leave --best-of and --temperature away")
    drawn = arguments.beams or arguments.best_of or arguments.samples
    if drawn < arguments.samples:
        raise ValueError(f"--samples {arguments.samples} are more than the {drawn} that are made of each picture; raise "
                         f"{'--beams' if arguments.beams else '--best-of'}")
    temperature = arguments.temperature
    if temperature is None:
        temperature = SAMPLED if drawn > 1 else 0.0
    if temperature == 0 and drawn > 1 and not arguments.beams:
        raise ValueError(f"at --temperature 0 all {drawn} captions are the same; give a higher one, such as {SAMPLED}")
    return drawn, temperature


if __name__ == "__main__":
    raise SystemExit(main())
