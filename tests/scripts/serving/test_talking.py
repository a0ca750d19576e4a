"""OpenAI's own client talks to the server; what it asks for is done, or refused in a sentence."""

import base64
import io
import json
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import calico
from calico.envs.scenes import scenes

from .conftest import Served, serving

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx2")


def client_of(served: Served, token: str = "unused") -> Any:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=token, max_retries=0)


def data_uri(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def sound(seconds: float = 1.0) -> str:
    """A tone as a WAV file in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        times = np.arange(int(16_000 * seconds)) / 16_000
        out.writeframes((12_000 * np.sin(2 * np.pi * 440 * times)).astype("<i2").tobytes())
    return base64.b64encode(file.getvalue()).decode()


def asks(question: str, **parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": kind, kind: part} for kind, part in parts.items()),
                                         {"type": "text", "text": question}]}]


def test_a_chat_is_that_of_a_program(served: Served, shipped: Any) -> None:
    client = client_of(served)
    assert [model.id for model in client.models.list()] == ["calico-small"]
    assert client.models.retrieve("calico-small").owned_by == "calico"
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "hello"}, {"role": "user", "content": "who are you?"}]
    reply = client.chat.completions.create(model="calico-small", messages=messages)
    assert reply.choices[0].message.content == shipped.chat(messages)
    assert reply.choices[0].finish_reason == "stop" and reply.usage.completion_tokens > 0
    drawn = [client.chat.completions.create(model="calico-small", messages=messages, temperature=1.5, seed=3, max_tokens=5)
             for _ in range(2)]
    assert drawn[0].choices[0].message.content == drawn[1].choices[0].message.content == shipped.chat(
        messages, temperature=1.5, seed=3, max_tokens=5)
    assert drawn[0].usage.completion_tokens <= 5


def test_a_stream_says_the_same_piece_by_piece(served: Served, shipped: Any) -> None:
    client, pixels = client_of(served), next(iter(scenes("minigrid", [5]))).image
    messages = asks("what is in the picture?", image_url={"url": data_uri(pixels)})
    stream = list(client.chat.completions.create(model="calico-small", messages=messages, stream=True,
                                                 stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    whole = client.chat.completions.create(model="calico-small", messages=messages)
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join(pieces) == whole.choices[0].message.content == shipped.answer(pixels, "what is in the picture?")
    assert stream[0].choices[0].delta.role == "assistant" and stream[-2].choices[0].finish_reason == "stop"
    assert stream[-1].usage == whole.usage and not stream[-1].choices
    assert len({chunk.id for chunk in stream}) == 1
    with client.chat.completions.stream(model="calico-small", messages=messages) as helper:      # the client's own reader
        assert helper.get_final_completion().choices[0].message.content == "".join(pieces)


def test_stops_end_a_reply_before_them(served: Served) -> None:
    client = client_of(served)
    ask = {"model": "calico-small", "messages": [{"role": "user", "content": "who are you?"}]}
    whole = client.chat.completions.create(**ask).choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    for stream in (False, True):
        found = client.chat.completions.create(**ask, stop=["never said", stop], stream=stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in found) if stream else found.choices[0].message.content
        assert text == whole[: whole.index(stop)]


def test_an_agent_without_ears_says_so(served: Served) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="calico-small cannot hear: it was trained without sounds"):
            client_of(served).chat.completions.create(
                model="calico-small", stream=stream,
                messages=asks("what is it?", input_audio={"data": sound(), "format": "wav"}))


def test_an_agent_with_ears_hears(tmp_path: Path, shipped: Any) -> None:
    """A small run on sounds, served under its own name."""
    pytest.importorskip("av")
    from calico.datasets.document_writers import DialogueWriter
    from calico.scripts.main import main

    with DialogueWriter(tmp_path / "tones.jsonl") as writer:
        for pitch in range(12):
            tone = np.sin(np.arange(8000) * (0.05 + 0.02 * pitch)).astype(np.float32) / 2
            heard = [{"type": "audio", "audio": f"{pitch}.wav"}, {"type": "text", "text": "what?"}]
            writer.append([{"role": "user", "content": heard}, {"role": "assistant", "content": "a tone"}], {},
                          {f"{pitch}.wav": tone})
    config = tmp_path / "ears.yaml"
    config.write_text("vocabulary: {text: 300, discrete: 16, continuous: 64}\n"
                      "backbone: {width: 32, depth: 1, heads: 2, context: 256}\n"
                      "training: {steps: 2, log_every: 1, save_every: 2}\ndata: {batch_size: 2}\n")
    assert main(["train", str(config), f"data.sources=[{{path: {tmp_path / 'tones.jsonl'}}}]", f"out={tmp_path / 'run'}"]) == 0
    agent = calico.load(tmp_path / "run")
    with serving(agent, name="run") as served:
        client = client_of(served)
        reply = client.chat.completions.create(model="run", messages=asks("what?", input_audio={"data": sound(0.5),
                                                                                               "format": "wav"}))
        assert isinstance(reply.choices[0].message.content, str)
        for data, says in ((sound(0.001), "ms of sound are too short"), ("AAAA", "not a readable sound"),
                            ("?", "input_audio is not valid base64")):
            with pytest.raises(openai.BadRequestError, match=says):
                client.chat.completions.create(model="run", messages=asks("what?", input_audio={"data": data, "format": "wav"}))
        with pytest.raises(openai.BadRequestError, match="never saw a picture with words"):
            client.chat.completions.create(model="run", messages=asks("what?", image_url={
                "url": data_uri(np.zeros((8, 8, 3), np.uint8))}))
        assert httpx.get(f"{served.url}/v1/tasks").json()["data"] == []
        assert httpx.post(f"{served.url}/v1/act", json={"reset": "CartPole-v1"}).status_code == 404


@pytest.fixture(scope="module")
def few_pixels(shipped: Any) -> Iterator[Served]:
    with serving(shipped, pixels=400_000) as found:
        yield found


@pytest.mark.parametrize("change, says", [
    ({"model": "gpt-4"}, "there is no model 'gpt-4' here; ask for 'calico-small'"),
    ({"messages": []}, "messages: List should have at least 1 item"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be 'user'"),
    ({"messages": [{"role": "user", "content": " "}]}, "the last message must be the user's and say something"),
    ({"messages": [{"role": "assistant", "content": "hello"}]}, "the last message must be the user's"),
    ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
    ({"n": 2}, "n: Input should be 1"), ({"top_p": 0.5}, "top_p: Input should be greater than or equal to 1"),
    ({"tools": []}, "tools: Extra inputs are not permitted"), ({"max_tokens": 0}, "max_tokens: Input should be greater"),
    ({"stream_options": {"include_usage": True}}, "stream_options goes with stream=true"),
    ({"messages": asks("what?", image_url={"url": "https://example.org/a.png"})}, "nothing is fetched from elsewhere"),
    ({"messages": asks("what?", image_url={"url": "data:image/png;base64,AAAA"})}, "not a readable image"),
    ({"messages": asks("what?", image_url={"url": data_uri(np.zeros((1, 60_000, 3), np.uint8))})}, None),
    ({"messages": asks("what?", image_url={"url": data_uri(np.zeros((8, 60_000, 3), np.uint8))})},
     "has 480000 pixels; all pictures of a request may have 400000"),
])
def test_what_cannot_be_done_is_refused_in_a_sentence(few_pixels: Served, change: dict[str, Any], says: str | None) -> None:
    asked = {"model": "calico-small", "messages": [{"role": "user", "content": "hello"}], **change}
    answer = httpx.post(f"{few_pixels.url}/v1/chat/completions", json=asked, timeout=60)
    if says is None:
        assert answer.status_code == 200          # long and thin is no fault
    else:
        assert 400 <= answer.status_code < 500 and says in answer.json()["error"]["message"], answer.text



def test_a_conversation_that_does_not_fit_says_what_was_left_out(served: Served) -> None:
    messages = [{"role": role, "content": "hello " * 12} for _ in range(8) for role in ("user", "assistant")][:-1]
    answer = httpx.post(f"{served.url}/v1/chat/completions", json={"model": "calico-small", "messages": messages}, timeout=60)
    assert "oldest turns" in answer.json()["calico_left_out"]


def test_a_reply_ends_after_its_time_and_when_nobody_reads_it(shipped: Any) -> None:
    with serving(shipped, seconds=0.5, waiting=1) as served:
        talking, going = served.talking, threading.Event()
        real = talking.agent.conversation

        def slow(*arguments: Any, **named: Any) -> Any:
            conversation = real(*arguments, **named)
            reply = conversation.reply

            def slowly(on_text: Any) -> Any:
                def each(text: str) -> None:
                    going.set()
                    time.sleep(0.2)
                    on_text(text)

                return reply(each)

            conversation.reply = slowly
            return conversation

        talking.agent.conversation = slow
        try:
            ask = {"model": "calico-small", "messages": [{"role": "user", "content": "who are you?"}], "temperature": 2}
            answer = httpx.post(f"{served.url}/v1/chat/completions", json=ask, timeout=60).json()
            assert answer["choices"][0]["finish_reason"] == "length" and answer["usage"]["completion_tokens"] < 10
            going.clear()
            with httpx.stream("POST", f"{served.url}/v1/chat/completions", json={**ask, "stream": True}, timeout=60):
                assert going.wait(20)            # and leave in the middle
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{served.url}/v1/chat/completions", json=ask, timeout=0.1)
            until = time.monotonic() + 20
            while talking.waiting and time.monotonic() < until:
                time.sleep(0.02)
            assert talking.waiting == 0
            talking.waiting = 2                   # one is written, one waits
            refused = httpx.post(f"{served.url}/v1/chat/completions", json=ask, timeout=60)
            assert refused.status_code == 429 and "1 chats are waiting" in json.loads(refused.text)["error"]["message"]
        finally:
            del talking.agent.conversation
