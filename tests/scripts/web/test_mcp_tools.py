"""`calico app --mcp`: the tools by themselves, and as the client of the Model Context Protocol sees them."""

import asyncio
import base64
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from calico.envs.scenes import scenes
from calico.scripts.app import HOST
from calico.scripts.web import mcp_tools
from calico.scripts.web.desk import Desk

pytest.importorskip("gradio", reason='needs the extra web: pip install "calico-agent[web]"')
NAMES = ["caption", "answer", "chat", "find_tasks", "play_task"]


@pytest.fixture
def tools(desk: Desk) -> dict[str, Callable[..., Any]]:
    return {tool.__name__: tool for tool in mcp_tools.tools(desk)}


@pytest.fixture
def room(tmp_path: Path) -> Path:
    path = tmp_path / "room.png"
    Image.fromarray(next(scenes("minigrid", [4])).image).save(path)
    return path


def test_words_about_a_picture_of_a_file_or_inside_the_call(tools: dict[str, Callable[..., Any]], room: Path,
                                                            desk: Desk) -> None:
    inside = "data:image/png;base64," + base64.b64encode(room.read_bytes()).decode()
    assert tools["caption"](str(room)) == tools["caption"](inside) == desk.agent.caption(str(room))
    question = "how many objects are there?"
    assert tools["answer"](inside, question) == desk.agent.answer(str(room), question)


def test_a_chat_goes_on(tools: dict[str, Callable[..., Any]], desk: Desk) -> None:
    first = tools["chat"]("who are you?")
    assert first == desk.agent.chat("who are you?") != ""
    history = [{"role": "user", "content": "who are you?"}, {"role": "assistant", "content": first}]
    expected = desk.agent.chat([*history, {"role": "user", "content": "what can you do?"}])
    assert tools["chat"]("what can you do?", history) == expected


def test_a_task_is_found_and_played(tools: dict[str, Callable[..., Any]], desk: Desk) -> None:
    assert tools["find_tasks"]("cartpole", 3)[0] == "CartPole-v1" and len(tools["find_tasks"]("", 7)) == 7
    score = tools["play_task"]("CartPole-v1", episodes=2, max_steps=30, temperature=0)
    assert score["returns"] == [30.0, 30.0] and score["mean"] == 30.0 and score["failed"] == 0
    assert score["percent"] == pytest.approx(100 * (30 - score["random"]) / (score["expert"] - score["random"]))
    json.dumps(score, allow_nan=False)


@pytest.mark.parametrize("tool, arguments, said", [
    ("caption", {"picture": "https://example.org/cat.png"}, "nothing is fetched from other machines; give the path of a file"),
    ("caption", {"picture": "nowhere.png"}, "nowhere.png is not a file"),
    ("answer", {"picture": "data:image/png;base64,!", "question": "what?"}, "picture is not valid base64"),
    ("chat", {"message": " "}, "message is empty; say something"),
    ("chat", {"message": "hi", "history": [{"role": "robot", "content": "hi"}]}, r"history\[0\] is .*robot"),
    ("chat", {"message": "hi", "temperature": 3}, "temperature=3 must be 0 to 2"),
    ("play_task", {"task": "CartPol-v1"}, "no spec for the task 'CartPol-v1'; did you mean"),
    ("play_task", {"task": "CartPole-v1", "episodes": 21}, "episodes=21 must be 1 to 20"),
])
def test_what_cannot_be_done_is_told_in_one_sentence(tool: str, arguments: dict[str, Any], said: str,
                                                     tools: dict[str, Callable[..., Any]]) -> None:
    import gradio as gr

    with pytest.raises(gr.Error, match=said) as raised:
        tools[tool](**arguments)
    assert len(str(raised.value.message).splitlines()) == 1


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    """Of the tools of a page that is served."""
    pytest.importorskip("mcp", reason='needs the extra mcp: pip install "calico-agent[mcp]"')
    from calico.scripts.web import page

    with socket.socket() as tried:
        tried.bind((HOST, 0))
        port = int(tried.getsockname()[1])
    built = page.build(desk, mcp=True)
    page.launch(built, port=port, mcp=True)
    yield f"http://{HOST}:{port}{mcp_tools.PATH}"
    built.close(verbose=False)


def with_client(address: str, work: Callable[[Any], Awaitable[None]]) -> None:
    """Run `work` with a session of the protocol's own client."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def run() -> None:
        async with streamable_http_client(address) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            await work(session)

    asyncio.run(asyncio.wait_for(run(), 300))


def test_an_assistant_finds_the_tools_and_uses_them(address: str, room: Path, desk: Desk) -> None:
    async def work(session: Any) -> None:
        listed = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert sorted(listed) == sorted(NAMES)
        assert listed["caption"].description.startswith("Describe a small picture") and "makes things up" in listed[
            "caption"].description
        parameters = listed["play_task"].inputSchema["properties"]
        assert parameters["episodes"]["description"].startswith("how many, at most 20") and list(parameters) == [
            "task", "episodes", "max_steps", "temperature"]
        assert listed["play_task"].inputSchema.get("required", ["task"]) == ["task"]

        async def call(tool: str, **arguments: Any) -> Any:
            return await session.call_tool(tool, arguments)

        found = await call("caption", picture=str(room))
        assert not found.isError and found.content[0].text == desk.agent.caption(str(room))
        found = await call("answer", picture=str(room), question="how many objects are there?")
        assert found.content[0].text == desk.agent.answer(str(room), "how many objects are there?")
        assert (await call("chat", message="who are you?")).content[0].text == desk.agent.chat("who are you?")
        assert "CartPole-v1" in (await call("find_tasks", containing="cartpole")).content[0].text
        score = (await call("play_task", task="CartPole-v1", episodes=2, max_steps=20)).content[0].text
        assert '"returns": [20.0, 20.0]' in score.replace("'", '"')
        refused = await call("play_task", task="CartPol-v1")
        assert refused.isError and "did you mean" in refused.content[0].text

    with_client(address, work)
