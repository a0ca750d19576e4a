"""A conversation at the terminal, and its history as a file."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calico.agent.talk import Conversation, Truncation, user_message
from calico.datasets.document_writers import DialogueWriter
from calico.datasets.documents import DialogueReader
from calico.scripts.common import console
from calico.scripts.common.media_inputs import read_shown
from calico.tokenizers.tokens import SOUND_RATE

HELP = """/image FILE  show a picture or play a sound with your next message
/reset       forget everything
/save FILE   keep the conversation as JSON Lines; pictures and sounds go into a zip file beside it
/quit        end, as Ctrl-D does
Ctrl-C stops a reply and keeps what there is of it."""


class Chat:
    def __init__(self, conversation: Conversation, attached: np.ndarray | None, side: int) -> None:
        """attached: a picture or sound that goes with the first message; side: pixels to which pictures are reduced."""
        self.conversation, self.attached, self.side = conversation, attached, side
        self.saved: set[Path] = set()                    # files that may be written again
        self.cut = Truncation()                                 # as last reported

    def converse(self) -> int:
        """Ends with /quit or Ctrl-D; Ctrl-C at the prompt must be pressed twice, as it may have been meant for the reply."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - from now on the arrow keys edit lines and bring earlier ones back
        console.say("Say something; /help lists what else can be typed.")
        interrupted = False
        while True:
            try:
                line, interrupted = input("you> ").strip(), False
            except KeyboardInterrupt:
                console.say("", *([] if interrupted else ["(/quit, Ctrl-D or Ctrl-C once more ends)"]))
                if interrupted:
                    return 0
                interrupted = True
                continue
            except EOFError:
                console.say()
                return 0
            if line == "/quit":
                return 0
            try:
                if line.startswith("/"):
                    console.say(*self.handle_command(*line.partition(" ")[::2]).split("\n"))
                elif line:
                    self.say(line)
            except (ValueError, OSError) as error:       # a picture that is none, bytes that are no text, a full disk
                console.say(f"({console.one_line(error)})")

    def handle_command(self, command: str, rest: str) -> str:
        """Do what a line that begins with a slash asks for; returns what to tell."""
        path = Path(rest.strip()).expanduser()
        match command:
            case "/help":
                return HELP
            case "/reset":
                self.conversation, self.attached, self.cut = Conversation(self.conversation.speaker), None, Truncation()
                return "(forgotten)"
            case "/image" | "/save" if not rest.strip():
                raise ValueError(f"name a file: {command} FILE")
            case "/image":
                self.attached = read_shown(path, self.side)
                pixels = f"{self.attached.shape[1]}x{self.attached.shape[0]} pixels" if self.attached.ndim > 1 else ""
                return f"({pixels or f'{len(self.attached) / SOUND_RATE:.1f} seconds of sound'} go with your next message)"
            case "/save":
                for file in (path, path.with_suffix(".zip")):
                    if file.exists() and path not in self.saved:
                        raise ValueError(f"{file} is there already; give another name")
                save_history(self.conversation.messages, path)
                self.saved.add(path)
                return f"(wrote {path}: {len(self.conversation.messages)} messages)"
        raise ValueError(f"there is no {command}; /help lists what there is")

    def say(self, line: str) -> None:
        """One turn. Ctrl-C stops the reply and keeps what is there."""
        messages, stream = self.conversation.messages, Stream()
        messages.append(user_message(self.attached, line))
        console.say("calico> ", end="")
        try:
            reply = self.conversation.reply(stream.show)
        except KeyboardInterrupt:
            messages.append({"role": "assistant", "content": stream.printed})
            stream.end(stream.printed + " (stopped)")
        except ValueError:
            messages.pop()
            console.say()
            raise
        else:
            stream.end(reply.text)
            if reply.cut and reply.cut != self.cut:
                console.say(f"({describe_truncation(reply.cut)})")
            self.cut = reply.cut
        self.attached = None


class Stream:
    """Shows a reply while it is written.

    Attributes:
        printed: the text so far.
    """

    def __init__(self, silent: bool = False) -> None:
        self.printed, self.silent = "", silent

    def show(self, text: str) -> None:
        if not text.endswith("\ufffd"):                  # the bytes of a character that is not complete yet
            self._write(text)

    def end(self, text: str) -> None:
        self._write(text)
        if not self.silent:
            console.say()

    def _write(self, text: str) -> None:
        if not self.silent:
            console.say(text[len(self.printed) :], end="")
            sys.stdout.flush()
        self.printed = text


def describe_truncation(cut: Truncation) -> str:
    parts = []
    if cut.turns:
        parts.append(f"the {cut.turns} oldest turns" if cut.turns > 1 else "the oldest turn")
    if cut.tokens:
        parts.append(f"the first {cut.tokens} tokens of your message")
    return f"{' and '.join(parts)} did not fit the model's window and {'were' if cut != Truncation(1) else 'was'} left out"


def save_history(messages: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write messages, pictures and sounds inside, as a dialogue that `load_history` and every reader of dialogues takes.

    Raises:
        ValueError: another kind of file name, or nothing to write.
    """
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} does not end in .jsonl; give a name such as talk.jsonl")
    if not messages:
        raise ValueError("nothing was said yet")
    files: dict[str, dict[str, np.ndarray]] = {"image": {}, "audio": {}}

    def name_of(kind: str, media: np.ndarray) -> str:
        name = f"{len(files[kind])}.{'png' if kind == 'image' else 'wav'}"
        files[kind][name] = media
        return name

    plain = with_media(messages, name_of)
    with DialogueWriter(path) as writer:
        writer.append(plain, files["image"], files["audio"])


def with_media(messages: Sequence[Mapping[str, Any]], change: Callable[[str, Any], Any]) -> list[dict[str, Any]]:
    """The messages with each picture and sound replaced by `change(type, it)`, such as a name by its pixels."""
    return [{**message, "content": content if isinstance(content, str) else [
        entry if entry["type"] == "text" else entry | {entry["type"]: change(entry["type"], entry[entry["type"]])}
        for entry in content]} for message in messages for content in [message["content"]]]


def load_history(path: Path, side: int) -> list[dict[str, Any]]:
    """The messages of a file with one dialogue, in any shape that can be trained on, pictures and sounds inside.

    Raises:
        ValueError: not such a file, or several dialogues; names file and line.
    """
    reader = DialogueReader(path, max_side=side)
    if len(reader) != 1:
        raise ValueError(f"{path} holds {len(reader)} dialogues; give a file with one, such as /save writes")
    media = {"image": reader[0].images, "audio": reader[0].sounds}
    return with_media(reader[0].messages, lambda kind, name: media[kind][name])
