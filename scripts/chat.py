"""`calico chat [RUN]`: talk to a run, with pictures and sounds; without RUN to the network that comes with Calico.

    calico chat runs/demo                                  # /help lists what else can be typed than words
    calico chat runs/demo --message "who are you?" --json  # one turn, for programs
    calico chat runs/demo --history talk.jsonl             # go on with what /save talk.jsonl has kept

What was said stays in the model's window; once that is full, the oldest turns are left out, and a note says so.
"""

import time
from dataclasses import asdict
from pathlib import Path

from calico.scripts.common import console
from calico.scripts.common.shipped import DEFAULT_RUN, HELP


@console.run_command
def main(argv: list[str] | None = None) -> int:
    parser = console.make_parser("chat", __doc__)
    parser.add_argument("run", nargs="?", default=DEFAULT_RUN, help=HELP)
    parser.add_argument("--message", help="say this, print the reply and end")
    parser.add_argument("--image", type=Path, help="a picture or a sound to go with the first message")
    parser.add_argument("--history", type=Path, metavar="FILE", help="what was said before: a file with one dialogue")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    console.add_common(parser, "--seed", "--max-side", "--device")
    parser.add_argument("--json", action="store_true", help="with --message: also tokens, seconds and what was left out")
    arguments = parser.parse_args(argv)
    if arguments.json and arguments.message is None:
        raise ValueError("--json prints the reply to one --message; give that too")
    if arguments.message is not None and not arguments.message.strip():
        raise ValueError('--message is empty; say something, such as "who are you?"')

    from calico.agent.sampling import SamplingConfig
    from calico.agent.talk import Conversation, TextGenerator, user_message
    from calico.scripts.common.chat_loop import Chat, Stream, describe_truncation, load_history
    from calico.scripts.common.media_inputs import load_agent, read_shown

    sampling = SamplingConfig(temperature=arguments.temperature, seed=arguments.seed)
    agent, side = load_agent(arguments.run, console.chosen_device(arguments.device))
    side = side if arguments.max_side is None else arguments.max_side
    shown = read_shown(arguments.image, side) if arguments.image else None
    history = load_history(arguments.history, side) if arguments.history else []
    chat = Chat(Conversation(TextGenerator(agent, sampling, max_tokens=128), history), shown, side)
    if arguments.message is None:
        return chat.converse()
    chat.conversation.messages.append(user_message(shown, arguments.message))
    began, stream = time.perf_counter(), Stream(silent=arguments.json)
    reply = chat.conversation.reply(stream.show)
    stream.end(reply.text)
    if arguments.json:
        console.print_json({"message": arguments.message, "reply": reply.text, "tokens": reply.tokens, "read": reply.read,
                            "seconds": time.perf_counter() - began, "cut": asdict(reply.cut)})
    if reply.cut:
        console.note(describe_truncation(reply.cut))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
