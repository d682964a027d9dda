"""Merging into settings files of every layout loses nothing of what they have."""

import copy
import json
import tomllib
from typing import Any

import pytest
import tomlkit
from hypothesis import assume, given, settings as examples, strategies as st

from cortex_tui.connect.formats import (
    JSON,
    TOML,
    YAML,
    Format,
    FormatError,
    fresh,
    merge,
)
from cortex_tui.connect.merge import Entries, IfAbsent, apply, edits, plain
from tests.unit.console.connect import texts


def check(format_: Format, text: str, settings: Any, wanted: Any) -> None:
    try:
        changes = edits(settings, wanted)
    except ValueError:
        with pytest.raises(FormatError, match="should be"):
            merge(format_, text, wanted)
        return
    merged = merge(format_, text, wanted)
    assert format_.loads(merged.text) == apply(copy.deepcopy(settings), changes)
    assert not merge(format_, merged.text, wanted).changes, "it says so now"
    if not any(change.replaces for change in merged.changes):
        assert texts.within(text, merged.text), "only additions"
    if not changes:
        assert merged.text == text


@examples(max_examples=50)
@given(st.data())
def test_json(data: st.DataObject) -> None:
    settings = data.draw(texts.tables())
    text = data.draw(texts.jsonc(settings))
    assert JSON.loads(text) == settings
    check(JSON, text, settings, data.draw(texts.wanted()))


@given(st.data())
def test_comments_survive_whatever_is_replaced(data: st.DataObject) -> None:
    settings = data.draw(st.dictionaries(texts.NAMES, st.integers(), min_size=1))
    text = data.draw(texts.jsonc(settings))
    replaced = dict.fromkeys(settings, "new")
    merged = merge(JSON, text, replaced)
    for comment in (" // no, {this}\n", "/* a, b */", "\r\n"):
        assert merged.text.count(comment) == text.count(comment)


@examples(max_examples=50)
@given(st.data())
def test_yaml(data: st.DataObject) -> None:
    settings = data.draw(texts.tables())
    assume(settings)
    text = data.draw(texts.yaml(settings))
    assert YAML.loads(text) == settings
    check(YAML, text, settings, data.draw(texts.wanted()))


@given(st.data())
def test_a_list_in_yaml(data: st.DataObject) -> None:
    settings = data.draw(
        st.lists(st.fixed_dictionaries({"name": texts.NAMES}), min_size=1)
    )
    text = data.draw(texts.yaml(settings))
    item = {"name": data.draw(texts.NAMES), "b": data.draw(texts.SCALARS)}
    check(YAML, text, settings, Entries("name", (item,)))


@given(st.data())
def test_toml(data: st.DataObject) -> None:
    settings = data.draw(texts.tables())
    lines = tomlkit.dumps(settings).splitlines()
    comment = st.sampled_from(["", "", "# mine\n", "\n"])
    text = "".join(f"{data.draw(comment)}{line}\n" for line in lines)
    assert tomllib.loads(text) == settings
    check(TOML, text, settings, data.draw(texts.wanted()))


@pytest.mark.parametrize("format_", [JSON, TOML, YAML], ids=["json", "toml", "yaml"])
@given(data=st.data())
def test_new_files(format_: Format, data: st.DataObject) -> None:
    wanted = data.draw(texts.wanted())
    assert format_.loads(fresh(format_, wanted)) == plain(wanted)
    assert merge(format_, "", wanted).text == fresh(format_, wanted)


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        (JSON, "// nothing yet\n"),
        (JSON, "\ufeff"),
        (TOML, "# nothing\n"),
        (YAML, "# no"),
    ],
)
def test_files_with_no_settings(format_: Format, text: str) -> None:
    merged = merge(format_, text, {"a": {"b": 1}})
    assert merged.text.startswith(text)
    assert format_.loads(merged.text) == {"a": {"b": 1}}


def test_additions_follow_the_files_own_layout() -> None:
    text = '{\r\n\t"a": 1, // one\r\n\t// the end\r\n}\r\n'
    assert merge(JSON, text, {"b": {"c": [True]}}).text == (
        '{\r\n\t"a": 1, // one\r\n\t"b": {\r\n\t\t"c": [\r\n\t\t\ttrue\r\n\t\t]\r\n\t},'
        "\r\n\t// the end\r\n}\r\n"
    )
    text = "models:\n- name: x # mine\n\n# about b\nb: 2\n"
    wanted = {"models": Entries("name", ({"name": "y", "c": 1},))}
    merged = merge(YAML, text, wanted)
    assert merged.text == (
        'models:\n- name: x # mine\n- name: "y"\n  c: 1\n\n# about b\nb: 2\n'
    )
    assert [*map(str, merged.changes)] == ["models: an entry added"]
    text = "models: # none: yet\n  # really\nb: 2\n"
    assert merge(YAML, text, {"models": Entries("name", ({"name": "y"},))}).text == (
        'models: [{"name": "y"}] # none: yet\n  # really\nb: 2\n'
    )
    text = "a = 1 # one\n\n[t]\nx = 1\n\n[u]\ny = 2\n"
    assert merge(TOML, text, {"b": 2, "t": {"z": 3}}).text == (
        "a = 1 # one\nb = 2\n\n[t]\nx = 1\nz = 3\n\n[u]\ny = 2\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[p.x]\na = 1\n\n# about z\n[z]\nb = 1\n",
        "p.x.a = 1\r\n# about z\r\n[z]\r\nb = 1\r\n",
        "[z]\nb = 1\n[[p.x.c]]\nd = 1",
    ],
)
def test_a_table_comes_last_in_toml(text: str) -> None:
    added = merge(TOML, text, {"p": {"y": {"u": 1}}}).text
    newline = "\r\n" if "\r\n" in text else "\n"
    assert added.startswith(text)
    assert added.endswith(f"{newline}{newline}[p.y]{newline}u = 1{newline}")
    changed = merge(TOML, added, {"p": {"y": {"u": 2, "v": 3}}})
    assert tomllib.loads(changed.text)["p"]["y"] == {"u": 2, "v": 3}
    assert changed.text.startswith(text)


def test_what_is_there_is_not_replaced_by_a_default() -> None:
    merged = merge(JSON, '{"key": "mine"}', {"key": IfAbsent("none"), "b": IfAbsent(1)})
    assert json.loads(merged.text) == {"key": "mine", "b": 1}


@pytest.mark.parametrize(
    ("format_", "text", "said"),
    [
        (JSON, '{"a": 1', "line 1: a comma or `}` was expected"),
        (JSON, '{"a" 1}', "line 1: a colon was expected"),
        (JSON, "{a: 1}", "line 1: a name in double quotes was expected"),
        (JSON, '{"a": 1}\n\n{}', "line 3: something after the end"),
        (JSON, '{"b": NaN}', "NaN is no JSON"),
        (JSON, '{"b": nothing}', "line 1: expecting value"),
        (JSON, "{} /*", "line 1: a comment without its end"),
        (JSON, "[]", "`the whole` should be a table of settings"),
        (JSON, '{"a": "text"}', "`a` should be a table of settings"),
        (TOML, "a = ", "Invalid value"),
        (YAML, "a: [", "expected the node content"),
        (YAML, "a: 1\n---\nb: 2\n", "expected a single document"),
        (YAML, "x: &x {c: 1}\na: *x\n", "written in a way that cannot be added to"),
    ],
)
def test_refusals(format_: Format, text: str, said: str) -> None:
    with pytest.raises(FormatError) as refused:
        merge(format_, text, {"m": IfAbsent(1), "a": {"b": {"c": 1}}})
    assert said in str(refused.value)
