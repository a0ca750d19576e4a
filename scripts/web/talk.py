"""The tab Talk: a chat, streamed, with pictures and sounds."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from calico.envs.scenes import scenes
from calico.scripts.common.media_inputs import check_saw_pictures, is_sound
from calico.scripts.web.desk import Desk, streamed, told


def as_message(role: str, text: str, files: Sequence[str]) -> dict[str, Any]:
    """A turn as `agent.chat` takes it."""
    shown = [{"type": kind, kind: file} for file in files for kind in ["audio" if is_sound(Path(file)) else "image"]]
    return {"role": role, "content": [*shown, *([{"type": "text", "text": text}] if text else [])]}


def history_messages(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What gradio.ChatInterface hands over: content is a list of {"type": "text", "text"} and {"type": "file", "file":
    {"path"}}; pictures and words of one turn may stand in several entries of one role."""
    found: list[dict[str, Any]] = []
    for entry in history:
        content: Any = entry["content"]
        if not isinstance(content, list):
            content = [{"type": "text", "text": str(content)}]
        files = [part["file"]["path"] for part in content if part["type"] == "file"]
        words = " ".join(part["text"] for part in content if part["type"] == "text")
        message = as_message(entry["role"], words, files)
        if found and found[-1]["role"] == entry["role"]:
            found[-1]["content"] += message["content"]
        else:
            found.append(message)
    return found


def replies(desk: Desk, text: str, files: Sequence[str], history: Sequence[Mapping[str, Any]],
            temperature: float, remark: Callable[[str], None]) -> Iterator[str]:
    """The next turn while it grows.

    Args:
        remark: is told what was left out of a long chat.
    Raises:
        ValueError: nothing was said, a file that is no picture or sound, or a network that saw no pictures.
    """
    if not text.strip():
        raise ValueError("say something about the picture, such as: what do you see?" if files else "say something first")
    if any(not is_sound(Path(file)) for file in files):
        check_saw_pictures(desk.agent.saved)
    messages = [*history_messages(history), as_message("user", text.strip(), files)]

    def work(show: Callable[[str], None]) -> str:
        with warnings.catch_warnings(record=True) as caught:       # one chat at a time: `streamed` holds the lock
            warnings.simplefilter("always", UserWarning)
            found = desk.agent.chat(messages, temperature=temperature, on_text=show)
        remarks.extend(str(one.message) for one in caught if issubclass(one.category, UserWarning))
        return found

    remarks: list[str] = []
    yield from streamed(work, desk.lock)
    for one in remarks:
        remark(one)


def example_picture(folder: Path) -> str:
    """A file with a picture of a world that the network knows."""
    path = folder / "room.png"
    if not path.exists():
        Image.fromarray(next(scenes("minigrid", [4])).image).save(path)
    return str(path)


def build(desk: Desk) -> None:
    """Put the tab's contents into the open `gradio.Tab`."""
    import gradio as gr

    picture = example_picture(Path(tempfile.mkdtemp(prefix="calico-")))

    def reply(message: dict[str, Any], history: list[dict[str, Any]], temperature: float) -> Iterator[str]:
        with told():
            yield from replies(desk, message["text"], message["files"], history, float(temperature), gr.Info)

    temperature = gr.Slider(0, 1.5, value=0, step=0.05, label="Temperature", info="0 always takes the likeliest word",
                            render=False)
    examples: Any = [[{"text": "who are you?"}], [{"text": "what is lunar lander?"}],
                     [{"text": "what do you see?", "files": [picture]}],
                     [{"text": "how many objects are there?", "files": [picture]}]]
    gr.ChatInterface(
        reply, multimodal=True, additional_inputs=[temperature], additional_inputs_accordion="Settings",
        chatbot=gr.Chatbot(elem_id="talk-chat", height="min(60vh, 34rem)", render_markdown=False, show_label=False,
                           buttons=["copy_all"],
                           placeholder="Say hello, or show it a small picture of one of its worlds."),
        textbox=gr.MultimodalTextbox(placeholder="Say something", file_types=["image", "audio"], file_count="single",
                                     sources=["upload"], show_label=False, elem_id="talk-words"),
        examples=examples, cache_examples=False, concurrency_limit=None, fill_height=False, autofocus=False, api_name="talk")
