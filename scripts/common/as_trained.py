"""A task in the view that an agent was trained with."""

from calico.agent.agent import Agent
from calico.envs.registry import Task, get_task, make, recorded_task
from calico.tokenizers.spaces import space_to_json


def as_trained(agent: Agent, task: str) -> Task:
    """The task in the view that the agent was trained with.

    Raises:
        ValueError: what the agent has learnt to see and do is not what the installed environment shows and takes.
    """
    codec = agent.codec(task)
    seen = recorded_task(task, agent.tasks[task].get("data", {}).get("environment", {}))
    env = make(seen)
    env.close()
    for role, here, learnt in (("observation", env.observation_space, codec.observation_space),
                               ("action", env.action_space, codec.action_space)):
        if space_to_json(here) != space_to_json(learnt):
            versions = agent.tasks[task].get("data", {}).get("environment", {}).get("versions", {})
            then = ", ".join(f"{package} {version}" for package, version in versions.items()) or "unknown versions"
            raise ValueError(f"{task}: its {role} space is {here} here but was {learnt} in training ({then}); install what "
                             "the data were made with, or train again")
    return seen


def view_of(agent: Agent, task: str) -> Task:
    """The task as the agent sees it, or would: a new one in its frugal view."""
    return as_trained(agent, task) if task in agent.tasks else get_task(task).compact()
