"""docs/settings.md says what the dataclasses say."""

import dataclasses
from pathlib import Path

import pytest

from calico.agent.backbones import KINDS
from calico.scripts.common.settings import DataSettings, RunSettings, SourceSettings
from calico.scripts.common.settings_page import page, settings_of

ROOT = Path(__file__).parents[3]


def test_the_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m calico.scripts.common.settings_page > docs/settings.md"


@pytest.mark.parametrize("schema", [RunSettings, DataSettings, SourceSettings, *(kind.config for kind in KINDS.values())])
def test_every_key_is_there(schema: type) -> None:
    written = page()
    for field in dataclasses.fields(schema):
        assert f"| `{field.name}` |" in written, field.name


def test_fields_are_read_with_their_comments() -> None:
    source = '''
class Some:
    """What it is.

    More.
    """

    a: int            # needed
    b: str = ""       # one line
                      # and another
    # above it
    c: bool = True
    d: list = field(default_factory=list)

    def method(self) -> None:
        e: int = 1    # not a field
'''
    opening, settings = settings_of(source, "Some")
    assert opening == "What it is."
    assert [(one.name, one.default, one.text) for one in settings] == [
        ("a", "(must be given)", "needed"), ("b", "(empty)", "one line and another"), ("c", "true", "above it"),
        ("d", "[]", "")]
    with pytest.raises(ValueError, match="no class Other"):
        settings_of(source, "Other")
