"""`calico chat RUN`: talk to a run, with pictures.

    calico chat runs/demo                                  # /image FILE shows a picture, /reset forgets, /quit ends
    calico chat runs/demo --message "who are you?" --json  # one turn, for programs
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from calico.agent.agent import Agent
from calico.agent.sampling import SamplingConfig
from calico.agent.talk import Speaker, user_message
from calico.scripts import console
from calico.scripts.caption import read_picture


@console.run_command
def main(argv: list[str] | None = None) -> int:
    """Parse, talk."""
    parser = console.make_parser("chat", __doc__)
    parser.add_argument("run")
    parser.add_argument("--message", help="say this, print the reply and end")
    parser.add_argument("--image", type=Path, help="a picture to show with the first message")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.json and arguments.message is None:
        raise ValueError("--json prints the reply to one --message; give that too")
    if arguments.message is not None and not arguments.message.strip():
        raise ValueError('--message is empty; say something, such as "who are you?"')
    picture = read_picture(arguments.image) if arguments.image else None
    sampling = SamplingConfig(temperature=arguments.temperature, seed=arguments.seed)
    speaker = Speaker(Agent.load(arguments.run, arguments.device), sampling, max_tokens=128)
    if arguments.message is None:
        return converse(speaker, picture)
    messages = [user_message(picture, arguments.message)]
    (reply,) = speaker.replies([messages])
    if arguments.json:
        console.print_json({"message": arguments.message, "reply": reply})
    else:
        print(console.printable(reply))
    return 0


def converse(speaker: Speaker, picture: np.ndarray | None) -> int:
    """The loop at the terminal; ends with /quit, Ctrl-D or Ctrl-C at the prompt."""
    messages: list[dict[str, Any]] = []
    print("Say something. /image FILE shows a picture, /reset forgets everything, /quit ends.")
    while True:
        try:
            line = input("you> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        command, _, rest = line.partition(" ")
        match command:
            case "":
                continue
            case "/quit":
                return 0
            case "/reset":
                messages, picture = [], None
                print("(forgotten)")
                continue
            case "/image":
                try:
                    picture = read_picture(Path(rest.strip()))
                    print(f"({picture.shape[1]}x{picture.shape[0]} pixels go with your next message)")
                except (ValueError, OSError) as error:
                    print(f"({console.one_line(error)})")
                continue
        messages.append(user_message(picture, line))
        picture = None
        try:
            reply = stream_reply(speaker, messages)
        except ValueError as error:   # bytes that are no text
            messages.pop()
            print(f"({console.one_line(error)})")
            continue
        messages.append({"role": "assistant", "content": reply})


def stream_reply(speaker: Speaker, messages: list[dict[str, Any]]) -> str:
    """Print the reply as it is written; Ctrl-C stops it and keeps what is there."""
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        if not text.endswith("\ufffd"):            # the bytes of a character that is not complete yet
            sys.stdout.write(console.printable(text[len(shown) :]))
            sys.stdout.flush()
            shown = text

    sys.stdout.write("calico> ")
    try:
        (shown,) = speaker.replies([messages], on_text=show)
    except KeyboardInterrupt:
        sys.stdout.write(" (stopped)")
    print()
    return shown
