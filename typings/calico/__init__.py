"""Calico in Python: one network, one set of weights, one token stream.

    import calico

    agent = calico.load()                                  # the network that comes with Calico, or load("runs/demo")
    policy, env = agent.policy("CartPole-v1"), agent.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    ended = False
    while not ended:
        action, _ = policy.predict(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated

    agent.caption("room.png")
    agent.chat("who are you?")
    print(agent.tokens("CartPole-v1"))

Nothing is loaded before it is used: `import calico` takes milliseconds. docs/python.md shows every call.

The package's folders stand at the top of the repository; this file and the links beside it give them their installed names.
"""

from importlib import import_module

TYPE_CHECKING = False     # checkers of types take it for True; typing itself would take as long to import as all the rest
if TYPE_CHECKING:
    from typing import Any

    from .envs.registry import Task
    from .scripts.api.agents import Agent, load
    from .scripts.api.environments import make, make_vec, tasks
    from .scripts.api.networks import data2vec, features, perceiver
    from .scripts.api.policy import Policy

    __version__: str

__all__ = ["Agent", "Policy", "Task", "__version__", "data2vec", "features", "load", "make", "make_vec", "perceiver", "tasks"]

_HOMES = {"perceiver": "scripts.api.networks", "data2vec": "scripts.api.networks", "features": "scripts.api.networks",
          "Agent": "scripts.api.agents", "load": "scripts.api.agents", "Policy": "scripts.api.policy", "Task": "envs.registry",
          "make": "scripts.api.environments", "make_vec": "scripts.api.environments", "tasks": "scripts.api.environments"}


def __getattr__(name: str) -> "Any":
    if name == "__version__":
        from importlib.metadata import version

        return version("calico-agent")
    if name not in _HOMES:
        raise AttributeError(f"module 'calico' has no attribute {name!r}; there are: {', '.join(__all__)}")
    found = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = found          # the next look finds it at once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
