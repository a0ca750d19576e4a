"""What a server tells Prometheus: requests, sessions, batches of actions, tokens, its memory."""

from dataclasses import dataclass
from typing import Any

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Metrics:
    """Counters of one server, and their registry; made by `new_metrics`."""

    registry: Any
    requests: Any      # labels: route, status
    seconds: Any       # label: route
    sessions: Any
    waiting: Any
    actions: Any
    batch_rows: Any    # its count is the number of batches, each read in one forward per action token
    act_seconds: Any   # from an observation's arrival to its action
    tokens: Any        # label: kind

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))


def new_metrics() -> Metrics:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.process_collector import ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return Metrics(
        registry,
        Counter("calico_requests", "Requests answered", ["route", "status"], registry=registry),
        Histogram("calico_request_seconds", "Seconds of a request", ["route"], buckets=SECONDS, registry=registry),
        Gauge("calico_sessions", "Control loops that are open", registry=registry),
        Gauge("calico_chats_waiting", "Chats that are written or wait for it", registry=registry),
        Counter("calico_actions", "Actions chosen", registry=registry),
        Histogram("calico_act_batch_rows", "Observations that went through the network together", buckets=ROWS,
                  registry=registry),
        Histogram("calico_act_seconds", "Seconds from an observation to its action", buckets=SECONDS, registry=registry),
        Counter("calico_chat_tokens", "Tokens of chats", ["kind"], registry=registry))
