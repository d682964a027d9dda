"""Lark grammars as regexes, where they are regular."""

import re
from itertools import pairwise

import pytest

from services.gateway.dialects.responses.lark import NotRegularError, as_regex

PATCH = """
start: begin hunk+ end
begin: "*** Begin" LF
end: "*** End" LF?

hunk: add | update   // two kinds
add: "*** Add: " name LF line+
?update.2: "*** Update: " name LF
        | "*** Touch: " name LF
name: /(.+)/
line: "+" /(.*)/ LF -> added

%import common.LF
"""
DEEP = "\n".join([
    "start: a",
    *(f"{outer}: {inner} {inner} {inner}" for outer, inner in pairwise("abcdefgh")),
    'h: "0123456789"',
])  # fmt: skip


@pytest.mark.parametrize(
    ("grammar", "taken", "refused"),
    [
        ('start: "a"', ["a"], ["", "b", "aa"]),
        ('start: "a.b" | "c+"', ["a.b", "c+"], ["axb", "cc"]),
        ('start: ("a" | "b")+ "c"?', ["a", "bab", "abc"], ["c", "acc"]),
        ('start: ["a"] B ~ 2\nB: "b"i', ["abb", "bB"], ["ab", "bbb"]),
        ('start: "x"~1..2 "y"{2} "z"{1,}', ["xyyz", "xxyyzzz"], ["yyz", "xyz"]),
        ('start: A*\nA: /[\\/"]|\\//i', ["", '/"/'], ["a"]),
        (r'start: "\"\\\n"', ['"\\\n'], ['"']),
        ("start: /a.c/s", ["a\nc"], ["ac"]),
        ("start: /a.c/", ["abc"], ["a\nc"]),
        ("start: /A/i", ["a", "A"], ["b"]),
        (r"start: /[^a$]\$\[/", ["b$["], ["a$["]),
        ('\n    start: a\n      | "c"\n    a: "b"\n', ["b", "c"], ["a"]),
        (
            "%import common.INT\n%import common.WS_INLINE\nstart: INT (WS_INLINE INT)*",
            ["1", "12 3\t4"],
            ["", "1 ", "a"],
        ),
        (
            PATCH,
            [
                "*** Begin\n*** Add: a.py\n+x\n+\n*** End",
                "*** Begin\n*** Update: a\n*** Touch: b\n*** End\n",
            ],
            ["*** Begin\n*** End", "*** Begin\n*** Add: a.py\n*** End"],
        ),
    ],
)
def test_it_takes_what_the_grammar_takes(
    grammar: str, taken: list[str], refused: list[str]
) -> None:
    regex = as_regex(grammar)
    for text in taken:
        assert re.fullmatch(regex, text), text
    for text in refused:
        assert not re.fullmatch(regex, text), text


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("", "start is not defined"),
        ('"a"', "begins with no rule"),
        ('start: "(" start ")" | "x"', "start recurs"),
        ('start: a\na: b\nb: a | "x"', "a recurs"),
        ("start: lost", "lost is not defined"),
        ('start: "a"\nstart: "b"', "defined twice"),
        ('start: "a"\n%ignore " "', "line 2 is not understood"),
        ("%import common.ESCAPED_STRING\nstart: ESCAPED_STRING", "not known"),
        ("%import python.NAME\nstart: NAME", "line 1 is not understood"),
        ('start[lazy]: "a"', "begins with no rule"),
        ("start: /a(?=b)/", "looks around"),
        ("start: /^a/", "looks around"),
        (r"start: /(a)\1/", "looks around"),
        (r'start: "\x"', "is not understood"),
        ('start: ("a"', "not closed"),
        ('start: ("a"]', "not closed"),
        ('start: "a")', "bracket too many"),
        (DEEP, "longer than"),
        ("start: a\na: " + "b " * 9000 + '\nb: "0123456789"', "longer than"),
        ("start: " + "(" * 9000, "nested too deeply"),
        ("//" + "x" * 40_000, "longer than"),
        (f"start: /{'[' * 2000}/", "too long"),
    ],
)
def test_what_is_not_regular_is_told(grammar: str, why: str) -> None:
    with pytest.raises(NotRegularError, match=why):
        as_regex(grammar)
