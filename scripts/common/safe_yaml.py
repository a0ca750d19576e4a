"""YAML that only says values: what a config never needs and an attacker might is refused before any object is made.

Refused: tags (`!!python/object`), `${...}` interpolation (OmegaConf would read environment variables for it), deep
nesting, aliases that unfold into more than a config can hold (430 bytes can mean a billion values). OmegaConf reads the
rest: 1e-4 is a number there and a key given twice is an error; plain PyYAML says text, and takes the last.
"""

from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

MAX_DEPTH = 32       # brackets within brackets
MAX_NODES = 20_000   # keys and values, once aliases are written out


def read_yaml(text: str, source: str) -> Any:
    """One YAML value: mapping, list or scalar; None for an empty text.

    Args:
        text: at most some 100 kB; the caller checks that.
        source: file or key, to begin an error with.
    Raises:
        ValueError: not YAML, or not plain; one line with the position.
    """
    import yaml  # comes with OmegaConf, which reads with it

    try:
        _scan(text)
        values: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
        return values["value"]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{source}: {': '.join(filter(None, (error.context, error.problem)))}{position}") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"{source}: {str(error).splitlines()[0]}") from None


def _scan(text: str) -> None:
    """Raise yaml.MarkedYAMLError for what is not plain, reading the stream of events: no object is made yet."""
    import yaml

    open_nodes: list[tuple[str | None, int]] = [(None, 0)]   # anchor and size so far of each node around the event
    sizes: dict[str, int] = {}                               # anchor -> size with aliases written out
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if not isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            continue
        problem, size = None, 1
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
            problem = None if event.anchor in sizes else f"*{event.anchor} stands for nothing, or for itself"
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            sizes |= {anchor: size} if anchor else {}
        elif event.tag is not None:
            problem = f"the tag {event.tag} is not read; write plain values"
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            size = 0
        elif "${" in event.value:
            problem = "${...} is not read (it could take secrets from the environment); write the value itself"
        around, before = open_nodes[-1]
        open_nodes[-1] = around, before + size
        if len(open_nodes) > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} deep"
        if before + size > MAX_NODES:
            problem = f"more than {MAX_NODES:,} values once aliases are written out"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
