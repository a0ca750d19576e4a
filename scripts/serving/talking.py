"""OpenAI's chat protocol: their requests as our messages, our replies as their documents.

What a request asks for is done or refused by name; nothing is passed over but `user`, `metadata`, `store` and the like, which
change no reply. Pictures and sounds come inside the request, as data: nothing is fetched from other machines.
"""

import asyncio
import math
import secrets
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from calico.datasets.images import pixels_of, read_image
from calico.datasets.sounds import read_sound
from calico.scripts.api.agents import Agent, has_content
from calico.scripts.common.chat_loop import describe_truncation
from calico.scripts.common.media_inputs import check_saw_pictures, largest_side
from calico.scripts.serving.limits import Limits, Refused
from calico.scripts.serving.metrics import Metrics
from calico.scripts.serving.values import decode_base64, decode_data_uri
from calico.tokenizers.tokens import SOUND_RATE, SOUND_SAMPLES

DEFAULT_TOKENS = 128


class Strict(BaseModel):
    """A part of a request: other keys than these are refused, numbers are no strings."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextEntry(Strict):
    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    url: str
    detail: str | None = None


class ImageEntry(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(Strict):
    data: str
    format: str = "wav"


class AudioEntry(Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


Entry = Annotated[TextEntry | ImageEntry | AudioEntry, Field(discriminator="type")]


class Message(Strict):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Entry]
    name: str | None = None
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text"]


class ChatRequest(Strict):
    """A request to /v1/chat/completions."""

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False, description="0, the default, is greedy")
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    stop: str | list[str] | None = None
    # accepted where they ask for nothing
    n: Literal[1] | None = None
    top_p: float | None = Field(None, ge=1, le=1)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    # they change no reply
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a reply ended: usage, `finish_reason`, and what of the prompt was left out, in words, or ""."""

    read: int
    written: int
    reason: str
    cut: str


class _Stop(Exception):
    """The reply is to end here."""


@dataclass(eq=False)
class _Writing:
    """One reply that is being written: new text, then Ended or an exception, on the queue."""

    request: ChatRequest
    loop: asyncio.AbstractEventLoop
    found: "asyncio.Queue[str | Ended | Exception]" = field(default_factory=asyncio.Queue)
    left: threading.Event = field(default_factory=threading.Event)       # nobody reads it any more

    def put(self, item: "str | Ended | Exception") -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.found.put_nowait, item)


class Talking:
    """Replies, one after the other: one forward already uses all cores."""

    def __init__(self, agent: Agent, name: str, limits: Limits, metrics: Metrics) -> None:
        self.agent, self.name, self.limits, self.metrics = agent, name, limits, metrics
        self.workers = ThreadPoolExecutor(1, thread_name_prefix="calico-talking")
        self.waiting = 0
        self.began = int(time.time())

    def model(self) -> dict[str, Any]:
        """The network's entry in /v1/models."""
        return {"id": self.name, "object": "model", "created": self.began, "owned_by": "calico"}

    async def reply(self, request: ChatRequest) -> AsyncIterator[str | Ended]:
        """New pieces of text, then how it ended. Closing it early ends the writing.

        Raises:
            Refused: too many are waiting, no such model, or what is asked for cannot be read; before the first piece.
        """
        if request.model != self.name:
            raise Refused(404, f"there is no model {request.model[:80]!r} here; ask for {self.name!r}")
        if self.waiting > self.limits.waiting:
            raise Refused(429, f"{self.limits.waiting} chats are waiting, which is the limit; try again in some seconds",
                          {"Retry-After": "2"})
        writing = _Writing(request, asyncio.get_running_loop())
        self._count(1)
        self.workers.submit(self._write, writing).add_done_callback(
            lambda _: writing.loop.is_closed() or writing.loop.call_soon_threadsafe(self._count, -1))
        try:
            while True:
                item = await writing.found.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Ended):
                    return
        finally:
            writing.left.set()

    def _count(self, change: int) -> None:
        self.waiting += change
        self.metrics.waiting.set(self.waiting)

    # ---- in the worker's thread

    def _write(self, writing: _Writing) -> None:
        try:
            if not writing.left.is_set():
                writing.put(self._written(writing))
        except Refused as error:
            writing.put(error)
        except (ValueError, ImportError) as error:
            writing.put(Refused(400, " ".join(str(error).split())))
        except Exception as error:       # our mistake; the server goes on
            writing.put(error)

    def _written(self, writing: _Writing) -> Ended:
        asked, deadline = writing.request, time.monotonic() + self.limits.seconds
        most = min(asked.max_completion_tokens or asked.max_tokens or DEFAULT_TOKENS, self.agent.most_written)
        stops = [stop for stop in ([asked.stop] if isinstance(asked.stop, str) else asked.stop or []) if stop]
        conversation = self.agent.conversation(self.messages(asked.messages), temperature=asked.temperature or 0.0,
                                               max_tokens=most, seed=asked.seed or 0)
        prompt, cut = conversation.speaker.fit(conversation.messages)
        sent, tokens, reason = "", 0, "length"

        def show(text: str, last: bool = False) -> None:
            """Send what is certain: no half characters, and no beginning of what may become a stop."""
            nonlocal sent
            ends = [found for stop in stops if (found := text.find(stop)) >= 0]
            held = 0 if last or ends else max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
                                              default=0)
            certain = text[:min(ends)] if ends else text[:len(text) - held] if held else text
            if (last or ends or not text.endswith("\ufffd")) and len(certain) > len(sent):
                writing.put(certain[len(sent):])
                sent = certain
            if ends:
                raise _Stop

        def on_text(text: str) -> None:
            nonlocal tokens
            tokens += 1
            show(text)
            if writing.left.is_set() or time.monotonic() > deadline:
                raise TimeoutError

        try:
            reply = conversation.reply(on_text)
            tokens, reason = reply.tokens, "stop" if reply.tokens < most else "length"
            show(reply.text, last=True)
        except _Stop:
            reason = "stop"
        except TimeoutError:
            reason = "length"
        self.metrics.tokens.labels("prompt").inc(len(prompt))
        self.metrics.tokens.labels("completion").inc(tokens)
        return Ended(len(prompt), tokens, reason, describe_truncation(cut) if cut else "")

    # ---- their messages as ours

    def messages(self, given: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as `Agent.chat` takes them, pictures and sounds as arrays.

        Raises:
            ValueError: a picture or sound that cannot be read, or too many.
            Refused: a sound, or a picture, for a network that was trained on none.
        """
        entries = [entry for message in given if not isinstance(message.content, str) for entry in message.content]
        shown = [entry for entry in entries if not isinstance(entry, TextEntry)]
        if len(shown) > self.limits.shown:
            raise ValueError(f"{len(shown)} pictures and sounds in one request; give at most {self.limits.shown}")
        if given[-1].role != "user" or not has_content(given[-1].content):
            raise ValueError("the last message must be the user's and say something")
        room = self.limits.pixels
        messages = []
        for number, message in enumerate(given):
            content: Any = message.content
            if not isinstance(content, str):
                content = []
                for entry in message.content:
                    match entry:
                        case TextEntry():
                            content.append({"type": "text", "text": entry.text})
                        case ImageEntry():
                            pixels, room = self._picture(entry, f"messages.{number}: image_url", room)
                            content.append({"type": "image", "image": pixels})
                        case AudioEntry():
                            content.append({"type": "audio", "audio": self._sound(entry, f"messages.{number}: input_audio")})
            messages.append({"role": "system" if message.role == "developer" else message.role, "content": content})
        return messages

    def _picture(self, entry: ImageEntry, name: str, room: int) -> tuple[Any, int]:
        check_saw_pictures(self.agent.saved)
        data = decode_data_uri(entry.image_url.url, name)
        if (pixels := pixels_of(data)) > room:
            raise ValueError(f"{name} has {pixels} pixels; all pictures of a request may have {self.limits.pixels}")
        try:
            return read_image(data, largest_side(self.agent.saved))[0], room - pixels
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _sound(self, entry: AudioEntry, name: str) -> Any:
        if not self.agent.network.model.config.embedding.has_sounds:
            raise Refused(400, f"{self.name} cannot hear: it was trained without sounds; leave input_audio out, or serve a run "
                               "that was trained on some")
        try:
            samples = read_sound(decode_base64(entry.input_audio.data, name), SOUND_RATE)[0]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if len(samples) < SOUND_SAMPLES:
            raise ValueError(f"{name}: {1000 * len(samples) / SOUND_RATE:.0f} ms of sound are too short, at least "
                             f"{math.ceil(1000 * SOUND_SAMPLES / SOUND_RATE)} are needed")
        return samples


# ---- our replies as their documents


def completion(name: str, text: str, ended: Ended) -> dict[str, Any]:
    """A whole reply."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {**heading(name, "chat.completion"), "usage": usage(ended), **cut_of(ended),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": ended.reason}]}


def heading(name: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": name}


def chunk(head: Mapping[str, Any], delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    """A piece of a reply."""
    return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}


def usage(ended: Ended) -> dict[str, int]:
    return {"prompt_tokens": ended.read, "completion_tokens": ended.written, "total_tokens": ended.read + ended.written}


def cut_of(ended: Ended) -> dict[str, str]:
    """A key beside OpenAI's own, where the conversation did not fit the network's context."""
    return {"calico_left_out": ended.cut} if ended.cut else {}
