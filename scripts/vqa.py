"""`calico vqa RUN IMAGE... QUESTION`: answer a question about pictures, each by itself.

    calico vqa runs/demo room.png "what colour is the ball?"
    calico vqa runs/demo *.png "what do you see?" --json
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calico.agent.talk import Speaker
from calico.scripts import console
from calico.scripts.caption import in_batches, load


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, answer, print."""
    parser = console.make_parser("vqa", __doc__)
    parser.add_argument("run")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("question")
    parser.add_argument("--max-side", type=int, metavar="PIXELS", help="default: what the run was trained with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one object for one picture, a list for several")
    arguments = parser.parse_args(argv)
    if not arguments.question.strip():
        raise ValueError('the question is empty; ask something, such as "what colour is the ball?"')
    agent, pictures = load(arguments.run, arguments.images, arguments.max_side, arguments.device)
    speaker = Speaker(agent)

    def answer(part: Sequence[np.ndarray]) -> list[str]:
        return speaker.answers(part, [arguments.question] * len(part))

    answered = list(zip(arguments.images, in_batches(answer, pictures), strict=True))
    if arguments.json:
        found = [{"image": path, "question": arguments.question, "answer": said} for path, said in answered]
        console.print_json(found if len(found) > 1 else found[0])
        return 0
    for path, said in answered:
        print(console.printable(f"{path}: {said}" if len(answered) > 1 else said))
    return 0
