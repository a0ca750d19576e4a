"""YAML that is plain is read; anything else is a one-line error, and nothing runs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico.scripts.common.safe_yaml import read_yaml


@pytest.mark.parametrize("text, value", [
    ("", None), ("# only a comment", None), ("1e-4", 1e-4), ("lr: 1e-4", {"lr": 1e-4}), ("'12'", "12"),
    ("[1, 2.5, true, null, x]", [1, 2.5, True, None, "x"]), ("a:\n  - 1\n  - {b: 2}\n", {"a": [1, {"b": 2}]}),
    ("base: &base {x: 1}\nmore: {<<: *base, y: 2}", {"base": {"x": 1}, "more": {"x": 1, "y": 2}}),
    ('{"seed": 1, "list": ["a"]}', {"seed": 1, "list": ["a"]}),
])
def test_plain_values(text: str, value: object) -> None:
    read = read_yaml(text, "here")
    assert read == value and type(read) is type(value)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8))   # 9^9 leaves


@pytest.mark.parametrize("text, says", [
    ("a: 1\nb: 2\na: 3", r"duplicate key a \(line 3, column 1\)"),
    ("x: {a: 1, a: 2}", "duplicate key a"),
    (BOMB, "more than 20,000 values"),
    ("&a [*a]", "stands for nothing, or for itself"),
    ("a: *b", r"\*b stands for nothing"),
    ("a: !!python/object/apply:os.system [ls]", "tag tag:yaml.org,2002:python/object/apply:os.system is not read"),
    ("a: !mine 3", "tag !mine"),
    ("a: ${oc.env:HOME}", r"\$\{...\} is not read.*line 1, column 4"),
    ("${oc.env:HOME}: 1", r"\$\{...\} is not read"),
    ("[" * 100_000, "nested more than 32 deep"),
    ("a: {" * 20_000, "nested more than 32 deep"),
    ("- " * 50_000, "nested more than 32 deep"),
    ("a: [1", "line 1"),
    ("a:\n\tb: 1", "line 2, column 1"),
    ("a: 1\n---\nb: 2", "another document"),
    ("x: \0", "special characters"),
    ("null: 4", "key"),
    ("9" * 5000, "4300 digits"),
], ids=range(18))
def test_what_is_not_plain_is_one_line_that_names_its_place(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=f"^here: .*{says}") as caught:
        read_yaml(text, "here")
    assert "\n" not in str(caught.value)


def test_no_tag_runs_anything(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for tag in ("object/apply:pathlib.Path.touch", "object/new:pathlib.Path", "name:os.system", "module:antigravity"):
        with pytest.raises(ValueError, match="is not read"):
            read_yaml(f"a: !!python/{tag} ['{canary}']", "here")
    assert not canary.exists()


@given(st.text(alphabet=st.sampled_from("ab01:-?[]{},&*!|>'\"%@`#\n\t $.e~<=\\\x00\ufeffé"), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_yaml(text, "here")
    except ValueError as error:
        assert "\n" not in str(error)
