"""The routes of `calico serve`.

    POST /v1/chat/completions    OpenAI's, with "stream": true as server-sent events
    GET  /v1/models              OpenAI's
    GET  /v1/tasks, /v1/tasks/ID what the network plays, and a task's spaces
    POST /v1/act                 one step of a control loop; /v1/act as WebSocket takes and gives the same objects
    GET  /health, /metrics       for those who watch over machines
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from pydantic import Field, ValidationError, model_validator

from calico.scripts.api.agents import Agent
from calico.scripts.common import console
from calico.scripts.serving.control import Control, Session
from calico.scripts.serving.guard import Guard
from calico.scripts.serving.limits import Limits, Refused, error_document
from calico.scripts.serving.metrics import new_metrics
from calico.scripts.serving.talking import (
    ChatRequest,
    Ended,
    Strict,
    Talking,
    chunk,
    completion,
    cut_of,
    heading,
    usage,
)

ROUTES = ("/v1/chat/completions", "/v1/models", "/v1/tasks", "/v1/act", "/health", "/metrics")
LOOK = 1.0      # seconds between two looks for idle sessions


class ActRequest(Strict):
    """One step of a control loop: `reset` begins an episode, `observation` asks for an action, `end` ends the session."""

    session: str | None = Field(None, description="what the reset gave; over a WebSocket it may be left out")
    reset: str | None = Field(None, description="a task's name: begin an episode of it")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of the episode's drawn actions")
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False,
                                      description="0: the likeliest actions; default: what the network plays best at")
    top_k: int = Field(0, ge=0, lt=1 << 31, description="draw among the k likeliest tokens; 0: all")
    observation: Any = Field(None, description="what the environment returned; see docs/serve.md for pictures")
    end: bool = False

    @model_validator(mode="after")
    def asks_for_something(self) -> "ActRequest":
        if self.reset is None and not self.end and "observation" not in self.model_fields_set:
            raise ValueError('say {"reset": TASK}, {"observation": ...} or {"end": true}')
        if self.reset is None and self.model_fields_set & {"seed", "temperature", "top_k"}:
            raise ValueError("seed, temperature and top_k go with reset")
        return self


def sentence(errors: list[Any]) -> str:
    """What is wrong with a request, of pydantic's errors the first."""
    first = errors[0]
    where = ".".join(str(part) for part in first.get("loc", ()) if part != "body")
    said = str(first.get("msg", "")).removeprefix("Value error, ")
    return " ".join(f"{where}: {said}".removeprefix(": ").split()) + f" ({len(errors)} faults)" * (len(errors) > 1)


def create_app(agent: Agent, name: str, limits: Limits, token: str = "") -> Any:
    """The ASGI application.

    Args:
        name: of the network, as clients ask for it.
        token: which requests must bring; "": none is asked for, and only this machine's names are answered.
    """
    from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.exceptions import HTTPException

    metrics = new_metrics()
    control, talking = Control(agent.network, limits, metrics), Talking(agent, name, limits, metrics)

    async def look_after() -> None:
        while True:
            await asyncio.sleep(min(LOOK, limits.idle / 4))
            control.end_idle()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(look_after())
        yield
        looking.cancel()
        talking.workers.shutdown(wait=False, cancel_futures=True)
        control.stop()

    app = FastAPI(title="Calico", lifespan=lifespan, redoc_url=None)
    app.state.control, app.state.talking, app.state.metrics = control, talking, metrics

    # ---- errors

    def answer_error(status: int, message: str, headers: Any = None) -> Response:
        return JSONResponse(error_document(status, console.printable(message)), status, headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return answer_error(error.status, error.message, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return answer_error(400, sentence(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        what = {404: f"there is no {request.url.path[:200]}; there are {', '.join(ROUTES)}",
                405: f"{request.method} is not for {request.url.path[:200]}"}
        return answer_error(error.status_code, what.get(error.status_code, str(error.detail)), error.headers)

    # ---- words

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [talking.model()]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        if model != name:
            raise Refused(404, f"there is no model {model[:80]!r} here; ask for {name!r}")
        return talking.model()

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        if asked.stream_options is not None and not asked.stream:
            raise Refused(400, "stream_options goes with stream=true")
        pieces = talking.reply(asked)
        if asked.stream:
            first = await anext(pieces)           # what cannot be answered is refused before a stream begins
            return StreamingResponse(events(asked, first, pieces), media_type="text/event-stream",
                                     headers={"Cache-Control": "no-cache"})
        whole = asyncio.ensure_future(gathered(pieces))
        leaving = asyncio.ensure_future(request.receive())
        await asyncio.wait({whole, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not whole.done():                      # the client has left: nobody reads the answer
            whole.cancel()
            with suppress(asyncio.CancelledError):
                await whole
            return Response(status_code=499)
        text, ended = whole.result()
        return JSONResponse(completion(name, text, ended))

    async def gathered(pieces: AsyncIterator[str | Ended]) -> tuple[str, Ended]:
        found = [piece async for piece in pieces]
        return "".join(piece for piece in found if isinstance(piece, str)), found[-1]     # type: ignore[return-value]

    async def events(asked: ChatRequest, first: str | Ended, rest: AsyncIterator[str | Ended]) -> AsyncIterator[str]:
        head = heading(name, "chat.completion.chunk")
        more = {"usage": None} if asked.stream_options and asked.stream_options.include_usage else {}
        yield event({**chunk(head, {"role": "assistant", "content": ""}), **more})
        item = first
        try:
            while isinstance(item, str):
                yield event({**chunk(head, {"content": item}), **more})
                item = await anext(rest)
            yield event({**chunk(head, {}, item.reason), **cut_of(item), **more})
            if more:
                yield event({**head, "choices": [], "usage": usage(item)})
            yield "data: [DONE]\n\n"
        finally:
            await rest.aclose()                   # type: ignore[attr-defined]

    def event(document: Any) -> str:
        return f"data: {json.dumps(document)}\n\n"

    # ---- control

    @app.get("/v1/tasks")
    async def tasks() -> dict[str, Any]:
        return {"object": "list", "data": list(control.codecs)}

    @app.get("/v1/tasks/{task:path}")
    async def task(task: str) -> dict[str, Any]:
        return control.spaces(task)

    async def step(asked: ActRequest, session: Session | None) -> tuple[dict[str, Any], Session]:
        """One step; the session that it was taken in."""
        if asked.session is not None:
            if session is not None and asked.session != session.id:
                raise Refused(400, "over a WebSocket a session is the connection's own; leave session out")
            session = session or control.find(asked.session)
        answer: dict[str, Any] = {}
        is_new = session is None
        if asked.reset is not None:
            session = control.reset(session, asked.reset, asked.seed, asked.temperature, asked.top_k)
            answer = {"session": session.id, **control.spaces(asked.reset)}
        if session is None:
            raise Refused(400, 'there is no session yet; begin one with {"reset": TASK}')
        if "observation" in asked.model_fields_set:
            try:
                answer |= {"action": await control.act(session, asked.observation), "step": session.steps}
            except Refused:
                if is_new:                         # the client has not heard of it
                    control.end(session)
                raise
        if asked.end:
            control.end(session)
            answer["ended"] = True
        return answer, session

    @app.post("/v1/act")
    async def act(asked: ActRequest) -> dict[str, Any]:
        answer, _ = await step(asked, None)
        return answer

    @app.websocket("/v1/act")
    async def act_on(socket: WebSocket) -> None:
        await socket.accept()
        session: Session | None = None
        try:
            while True:
                async with asyncio.timeout(limits.idle):
                    text = await socket.receive_text()
                try:
                    answer, session = await step(ActRequest.model_validate_json(text), session)
                    if answer.get("ended"):
                        session = None
                except Refused as error:
                    answer = {**error_document(error.status, console.printable(error.message)), "status": error.status}
                    if session is not None and session.id not in control.sessions:
                        session = None
                except ValidationError as error:
                    answer = {**error_document(400, console.printable(sentence(list(error.errors())))), "status": 400}
                await socket.send_text(json.dumps(answer))
        except WebSocketDisconnect:
            pass
        except KeyError:                           # bytes came
            await socket.close(1003, "send text: JSON objects")
        except TimeoutError:
            await socket.close(1001, f"nothing came for {limits.idle:g} seconds")
        finally:
            if session is not None:
                control.end(session)

    # ---- for those who watch over machines

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "tasks": len(control.codecs), "sessions": len(control.sessions)}

    @app.get("/metrics")
    async def numbers() -> Response:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Guard(app, limits, metrics, token, ROUTES)
