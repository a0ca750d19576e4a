"""What a server allows, and how it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes on.

    Attributes:
        sessions: control loops at once.
        waiting: chats that wait for their turn.
        bytes: of a request, or a WebSocket's message.
        pixels: of all pictures of a request.
        shown: pictures and sounds of a request.
        seconds: of sending a request, and of writing a reply.
        idle: seconds after which a session without a word ends.
    """

    sessions: int = 64
    waiting: int = 16
    bytes: int = 16_000_000
    pixels: int = 1 << 24
    shown: int = 16
    seconds: float = 60.0
    idle: float = 300.0


@dataclass
class Refused(Exception):
    """A request that is not answered: an HTTP status from 400 on, and a sentence for whoever sent it."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_document(status: int, message: str) -> dict[str, Any]:
    """An error in OpenAI's form, which its clients show."""
    kind = "server_error" if status >= 500 else KINDS.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
