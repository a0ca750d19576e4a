"""`calico vqa [RUN] FILE... QUESTION`: answer a question about pictures or sounds, each by itself.

    calico vqa runs/demo room.png "what colour is the ball?"
    calico vqa runs/demo *.png "what do you see?" --json
    calico vqa runs/ears seven.wav "which digit is spoken?"
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calico.scripts.common import console
from calico.scripts.common.shipped import HELP, is_media, split_run


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("vqa", __doc__)
    parser.add_argument("words", nargs="+", metavar="[RUN] FILE", help=f"a picture or a sound; RUN: {HELP}")
    parser.add_argument("question")
    console.add_common(parser, "--max-side", "--device")
    parser.add_argument("--json", action="store_true", help="one object for one picture, a list for several")
    arguments = parser.parse_args(argv)
    if not arguments.question.strip():
        raise ValueError('the question is empty; ask something, such as "what colour is the ball?"')

    run, names = split_run(arguments.words, is_media)
    paths = [Path(name) for name in names]
    if not paths:
        raise ValueError(f"{run} is taken for the RUN, and no picture or sound is named; give one, such as room.png")

    from calico.agent.talk import TextGenerator
    from calico.scripts.common.media_inputs import in_batches, is_sound, load, read_shown

    agent, shown = load(run, paths, arguments.max_side, console.chosen_device(arguments.device), read_shown)
    speaker = TextGenerator(agent)

    def answer(part: Sequence[Any]) -> list[str]:
        return speaker.answers(part, [arguments.question] * len(part))

    answered = list(zip(paths, in_batches(answer, shown), strict=True))
    if arguments.json:
        found = [{"sound" if is_sound(path) else "image": path, "question": arguments.question, "answer": reply}
                 for path, reply in answered]
        console.print_json(found if len(found) > 1 else found[0])
        return 0
    for path, reply in answered:
        console.say(f"{path}: {reply}" if len(answered) > 1 else reply)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
