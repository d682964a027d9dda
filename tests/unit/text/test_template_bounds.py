"""Templates that want to run for ever, or to fill the memory."""

import tracemalloc
from typing import Any

import pytest

from neuron.text import template_traits
from neuron.text.chat import ChatTemplate
from neuron.text.compiled_template import CompiledTemplate, TemplateError
from neuron.text.template_bounds import Budget, RenderLimits, bounded_by, tick

SMALL = RenderLimits(seconds=60, value=1 << 16, total=1 << 20)
QUICK = RenderLimits(seconds=0.1)
LOOP = "{% for i in range(100000) %}"
DOUBLE = "{% set ns = namespace(x=START) %}" + LOOP + "{% set ns.x = X %}{% endfor %}"


def doubling(start: str, expression: str) -> str:
    return DOUBLE.replace("START", start).replace("X", expression)


ENDLESS = {
    "loops": LOOP * 3 + "{% endfor %}" * 3,
    "filtered loops": "{% for x in range(100000) if range(100000)|list %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "shared lists": doubling("[1]", "[ns.x, ns.x]"),
    "shared tuples": doubling("1", "(ns.x, ns.x)"),
    "shared mappings": doubling("1", "{'a': ns.x, 'b': ns.x}"),
    "shared dicts": doubling("1", "dict(a=ns.x, b=ns.x)"),
    "straight comparisons": "{% set s = 'a' * 9999999 %}{% set t = 'a' * 9999999 %}"
    + "{{ s == t }}{{ 'ba' in s }}{{ s is in(t) }}" * 300,
    "shared batches": doubling("[1]", "([ns.x] * 2) | batch(1) | list"),
}
LARGE = {
    "sums": doubling("'a'", "ns.x + ns.x"),
    "joins": doubling("'a'", "ns.x ~ ns.x"),
    "lists": doubling("[1]", "ns.x + ns.x"),
    "numbers": doubling("3", "ns.x * ns.x"),
    "blocks": "{% set ns = namespace(x='a') %}"
    + LOOP
    + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "output": LOOP + "{{ 'a' * 1000 }}{% endfor %}",
    "slices": "{% set s = 'a' * 60000 %}" + "{% set x = s[1:] %}" * 30,
    "products": "{{ 'a' * 10 ** 9 }}",
    "products from the left": "{{ 10 ** 9 * [1] }}",
    "powers": "{{ 2 ** 1000000000 }}",
    "filters": "{{ 'a' | center(10 ** 9) }}",
    "methods": "{{ 'a'.ljust(10 ** 9) }}",
    "methods by name": "{{ ('a' | attr('zfill'))(10 ** 9) }}",
    "mapped filters": "{{ ['a'] | map('center', 10 ** 9) | list }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10 ** 9, 1) }}",
    "percent mapping": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "nested format": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "mapped format": "{{ '{a:{b}}'.format_map({'a': 1, 'b': 10 ** 9}) }}",
    "repeated format": "{{ ('{0}' * 10000).format('a' * 60000) }}",
    "replace": "{{ ('a' * 60000).replace('a', 'b' * 60000) }}",
    "replace filter": "{{ ('a' * 60000) | replace('a', 'b' * 60000) }}",
    "join": "{{ ('a' * 60000).join('b' * 60000) }}",
    "join filter": "{{ ('a' * 60000) | join('b' * 60000) }}",
    "join generator": "{{ range(3000) | map('string') | join('b' * 60000) }}",
    "join range": "{{ range(60000) | join('b' * 60000) }}",
    "join values": "{{ dict.fromkeys(range(3000), 1).values() | join('b' * 60000) }}",
    "join method generator": "{{ ('b' * 60000).join(range(3000) | map('string')) }}",
    "strip": "{{ ('a' * 60000).strip('b' * 60000) }}",
    "sums of lists": "{{ range(2000) | batch(1) | sum(start=[]) }}",
    "round": "{{ 1.5 | round(10 ** 9, 'ceil') }}",
    "translate": "{{ ('a' * 60000).translate({97: 'b' * 60000}) }}",
    "tabs": "{{ ('\\t' * 60000).expandtabs(60000) }}",
    "indent": "{{ ('\\n' * 60000) | indent(60000) }}",
    "json": "{{ [1] | tojson(indent=10 ** 9) }}",
    "nested json": "{{ deep | tojson(indent=60000) }}",
    "json separators": "{{ (range(9999) | list) | tojson(separators=(s, s)) }}",
    "batches": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "constants": "{{ 'aaaaaaaaaaaaaaaa' | center(1000000000) | length }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_stopped(name: str) -> None:
    with pytest.raises(TemplateError, match=r"takes longer|makes"):
        CompiledTemplate(ENDLESS[name], QUICK).render({})


@pytest.mark.parametrize("name", LARGE)
def test_what_grows_is_stopped_before_it_is_large(name: str) -> None:
    values: dict[str, object] = {}
    if "json" in name:
        values = {"deep": [[[[1] * 20] * 20] * 20], "s": "x" * 5000}
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError, match="makes"):
            CompiledTemplate(LARGE[name], SMALL).render(values)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ],
)
def test_what_goes_round_in_circles_fails(source: str) -> None:
    with pytest.raises(TemplateError):
        CompiledTemplate(source).render({})


def test_what_never_ends_is_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[object] = []
    render = CompiledTemplate.render

    def counted(self: CompiledTemplate, *arguments: Any) -> str:
        tried.append(self)
        return render(self, *arguments)

    monkeypatch.setattr(CompiledTemplate, "render", counted)
    monkeypatch.setattr(template_traits, "_LIMITS", QUICK)
    monkeypatch.setattr(template_traits, "_SECONDS", 1.5 * QUICK.seconds)
    assert not ChatTemplate(ENDLESS["loops"]).tool_support(tools=True).history
    assert len(tried) == 2


def test_the_bounds_grow_with_the_conversation() -> None:
    template = CompiledTemplate("{{ m | upper }}{{ m ~ m }}", SMALL)
    assert len(template.render({"m": "x" * 500_000})) == 1_500_000


def test_ordinary_formatting_is_not_in_the_way() -> None:
    source = "{{ '%05d|%-4s|' % (7, 'a') }}{{ '{:>4} {}'.format('b', 1700000000) }}"
    assert CompiledTemplate(source).render({}) == "00007|a   |   b 1700000000"
    source = "{{ 'a\nb' | indent(2) }}{{ '-' * 3 }}{{ [1, 2] | join(', ') }}"
    assert CompiledTemplate(source).render({}) == "a\n  b---1, 2"


def test_hooks_need_a_budget() -> None:
    with pytest.raises(RuntimeError, match="bounded_by"):
        tick()
    with bounded_by(Budget(SMALL)):
        assert tick() == ""


def test_what_else_a_loop_knows_is_not_an_argument() -> None:
    source = (
        "{% for m in [x] %}{% set kept = m %}{{ kept.strip('\\n') }}{% endfor %}"
        "{% set y %}{% for m in [x] %}{% set z = m %}"
        "{{ z.split('b')[0].rstrip('\\n') }}{% endfor %}{% endset %}{{ y }}"
    )
    said = "a" * 500_000
    assert CompiledTemplate(source).render({"x": said}) == 2 * said
