"""What templates find, and what they do not."""

import datetime

import pytest

from neuron.text import template_environment
from neuron.text.compiled_template import CompiledTemplate, TemplateError


def rendered(source: str, **variables: object) -> str:
    return CompiledTemplate(source).render(variables)


def test_blocks_leave_no_lines_behind() -> None:
    assert rendered("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_json_is_not_html_and_takes_pythons_options() -> None:
    value = {"b": "<é>&'", "a": [1, None]}
    assert rendered("{{ v | tojson }}", v=value) == ('{"b": "<é>&\'", "a": [1, null]}')
    assert rendered("{{ v | tojson(ensure_ascii=true) }}", v="é") == '"\\u00e9"'
    assert rendered("{{ v | tojson(indent=1, sort_keys=true) }}", v=value) == (
        '{\n "a": [\n  1,\n  null\n ],\n "b": "<é>&\'"\n}'
    )
    assert rendered("{{ v | tojson(separators=(',', ':')) }}", v=[1, 2]) == "[1,2]"


def test_loops_can_be_left() -> None:
    assert rendered("{% for i in v %}{% break %}{% endfor %}", v=[1]) == ""
    skipped = (
        "{% for i in v %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}"
    )
    assert rendered(skipped, v=[1, 2]) == "2"


def test_generation_blocks_are_their_text() -> None:
    source = "{% for m in v %}{% generation %}{{ m }}!{% endgeneration %}{% endfor %}"
    assert rendered(source, v=["a", "b"]) == "a!b!"


def test_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.datetime(2026, 1, 2)
    monkeypatch.setattr(template_environment, "_now", lambda: now)
    assert rendered("{{ strftime_now('%d %b %Y') }}") == "02 Jan 2026"
    monkeypatch.undo()
    year = rendered("{{ strftime_now('%Y') }}")
    assert int(year) >= datetime.date.today().year - 1


def test_namespaces_and_dicts() -> None:
    source = "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}"
    assert rendered(source) == "2"
    assert rendered("{{ dict(a=1).a }}{{ dict.fromkeys(['b'], 2).b }}") == "12"
    assert rendered("{{ namespace(self=1).self }}") == "1"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'].__mro__ }}",
        "{{ v.append(1) }}",
        "{{ v | attr('append') | string }}{{ v.clear() }}",
        "{{ '{0.__class__.__mro__}'.format(v) }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
        "{{ dict.__init__.__globals__ }}",
        "{% include 'x' %}",
        "{{ lipsum() }}",
        "{{ range(10 ** 6) }}",
        "{{ 'a'.encode('punycode') }}",
        "{{ (1).to_bytes(10 ** 10, 'big') }}",
        "{{ 'a' | wordwrap }}",
        "{{ raise_exception.__globals__.os }}",
    ],
)
def test_what_is_out_of_reach(source: str) -> None:
    values = [1]
    with pytest.raises(TemplateError):
        rendered(source, v=values)
    assert values == [1]
