"""`calico vqa RUN IMAGE QUESTION`: answer a question about a picture.

    calico vqa runs/demo room.png "what colour is the ball?"
"""

from pathlib import Path

from calico.agent.agent import Agent
from calico.agent.talk import Speaker
from calico.scripts import console
from calico.scripts.caption import read_picture


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, answer, print."""
    parser = console.make_parser("vqa", __doc__)
    parser.add_argument("run")
    parser.add_argument("image", type=Path)
    parser.add_argument("question")
    parser.add_argument("--max-side", type=int, default=64, help="pixels (default 64)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if not arguments.question.strip():
        raise ValueError('the question is empty; ask something, such as "what colour is the ball?"')
    picture = read_picture(arguments.image, arguments.max_side)
    (answer,) = Speaker(Agent.load(arguments.run, arguments.device)).answers([picture], [arguments.question])
    if arguments.json:
        console.print_json({"image": str(arguments.image), "question": arguments.question, "answer": answer})
    else:
        print(console.printable(answer))
    return 0
