"""Lark grammars that are regular, as the regex that says the same.

A schema takes no grammar for a string but a regex. Most grammars of tools fit: those
whose rules do not recur, and that skip nothing between their terminals.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

LONGEST: Final = 16 * 1024
"""In characters; a neuron takes no longer regex."""
LONGEST_GRAMMAR: Final = 2 * LONGEST
LONGEST_TERMINAL: Final = 1024
_START: Final = "start"
_TOKEN: Final = re.compile(
    r"""
    (?P<comment> //[^\n]* )
    | (?P<rule> ^[ \t]* [?!]* (?P<name> [A-Za-z_]\w* ) (?: \.-?\d+ )? [ \t]* : )
    | (?P<import> ^[ \t]* %import[ \t]+ common\.(?P<common> \w+ ) [ \t]*$ )
    | (?P<string> "(?: [^"\\\n] | \\. )*" ) (?P<caseless> i? )
    | (?P<regex> / (?: [^/\\\n] | \\. )+ / ) (?P<flags> [imsux]* )
    | (?P<alias> ->[ \t]*\w+ )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<times> ~[ \t]*(?P<least> \d+ ) (?: [ \t]*\.\.[ \t]*(?P<most> \d+ ) )? )
    | (?P<braces> \{ \d+ (?: , \d* )? \} )
    | (?P<sign> [][()|?*+] )
    | (?P<space> [ \t\r]+ | \n )
    """,
    re.VERBOSE | re.MULTILINE,
)
_COMMON: Final = {
    "CNAME": "[_A-Za-z][_A-Za-z0-9]*",
    "CR": r"\r",
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "LCASE_LETTER": "[a-z]",
    "LETTER": "[A-Za-z]",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "UCASE_LETTER": "[A-Z]",
    "WORD": "[A-Za-z]+",
    "WS": r"[ \t\f\r\n]+",
    "WS_INLINE": r"[ \t]+",
}
_CLASS: Final = re.compile(r"\\\\|\\\[|\[(?:\\.|[^\]\\])*\]")
_LOOKS_AROUND: Final = re.compile(r"\(\?<?[=!]|\\[1-9bBAzZ]|(?<!\\)[\^$]")
_META: Final = re.compile(r"[\\.+*?()|\[\]{}^$/]")

Tokens = list[re.Match[str]]


class NotRegularError(Exception):
    """Not a grammar that a regex can say; `str` tells why."""


def as_regex(grammar: str) -> str:
    """The regex of all that the grammar takes.

    Raises:
        NotRegularError: there is none, or it is not known here how to find it.
    """
    if len(grammar) > LONGEST_GRAMMAR:
        raise NotRegularError(f"it is longer than {LONGEST_GRAMMAR} characters")
    try:
        return _Expansion(*_rules(grammar)).of(_START)
    except RecursionError as error:
        raise NotRegularError("it is nested too deeply") from error


def _rules(grammar: str) -> tuple[dict[str, Tokens], dict[str, str]]:
    rules: dict[str, Tokens] = {}
    imported: dict[str, str] = {}
    current: Tokens | None = None
    for token in _tokens(grammar):
        if token["rule"]:
            if token["name"] in rules:
                raise NotRegularError(f"{token['name']} is defined twice")
            current = rules[token["name"]] = []
        elif token["import"]:
            name = token["common"]
            if name not in _COMMON:
                raise NotRegularError(f"common.{name} is not known")
            imported[name] = _COMMON[name]
        elif current is None:
            raise NotRegularError("it begins with no rule")
        else:
            current.append(token)
    return rules, imported


def _tokens(grammar: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(grammar):
        token = _TOKEN.match(grammar, at)
        if token is None:
            line = grammar.count("\n", 0, at) + 1
            raise NotRegularError(f"line {line} is not understood")
        at = token.end()
        if not (token["comment"] or token["space"] or token["alias"]):
            yield token


class _Expansion:
    """Puts the rules into one another."""

    def __init__(self, rules: dict[str, Tokens], imported: dict[str, str]) -> None:
        self._rules = rules
        self._known = dict(imported)
        self._open: list[str] = []

    def of(self, name: str) -> str:
        """A rule's or terminal's regex."""
        if name in self._known:
            return self._known[name]
        if name in self._open:
            raise NotRegularError(f"{name} recurs")
        if name not in self._rules:
            raise NotRegularError(f"{name} is not defined")
        self._open.append(name)
        tokens = list(reversed(self._rules[name]))
        regex = self._alternatives(tokens)
        if tokens:
            raise NotRegularError(f"{name} has a bracket too many")
        self._open.pop()
        self._known[name] = regex
        return regex

    def _alternatives(self, tokens: Tokens) -> str:
        """Up to the bracket that closes them; takes the tokens from the end."""
        found = [self._sequence(tokens)]
        while tokens and tokens[-1]["sign"] == "|":
            tokens.pop()
            found.append(self._sequence(tokens))
        return _bounded(found[0] if len(found) == 1 else f"(?:{'|'.join(found)})")

    def _sequence(self, tokens: Tokens) -> str:
        regex = ""
        while tokens and (tokens[-1]["sign"] or "(") in "([":
            atom = self._atom(tokens)
            while tokens and (often := _often(tokens[-1])):
                atom = f"(?:{atom}){often}"
                tokens.pop()
            regex = _bounded(regex + atom)
        return regex

    def _atom(self, tokens: Tokens) -> str:
        token = tokens.pop()
        if token["string"]:
            return _literal(token)
        if token["regex"]:
            return _inner(token)
        if token["word"]:
            return self.of(token["word"])
        if not token["sign"]:
            raise NotRegularError(f"{token[0]!r} repeats nothing")
        closing = ")" if token["sign"] == "(" else "]"
        regex = self._alternatives(tokens)
        if not tokens or tokens.pop()["sign"] != closing:
            raise NotRegularError(f"{token['sign']} is not closed")
        return f"(?:{regex})" if closing == ")" else f"(?:{regex})?"


def _bounded(regex: str) -> str:
    if len(regex) > LONGEST:
        raise NotRegularError(f"its regex is longer than {LONGEST} characters")
    return regex


def _often(token: re.Match[str]) -> str:
    """How a quantifier is written in a regex; "" for what is none."""
    if token["times"]:
        most = token["most"]
        return f"{{{token['least']},{most}}}" if most else f"{{{token['least']}}}"
    if token["braces"]:
        return token["braces"]
    return token["sign"] if token["sign"] in ("?", "*", "+") else ""


def _literal(token: re.Match[str]) -> str:
    try:
        text = json.loads(token["string"])
    except ValueError as error:
        raise NotRegularError(f"{token['string']} is not understood") from error
    regex = _META.sub(r"\\\g<0>", text)
    return f"(?i:{regex})" if token["caseless"] else regex


def _inner(token: re.Match[str]) -> str:
    regex = token["regex"][1:-1]
    if len(regex) > LONGEST_TERMINAL:
        raise NotRegularError(f"{regex[:20]}… is too long")
    if _LOOKS_AROUND.search(_CLASS.sub("", regex)):
        raise NotRegularError(f"{token['regex']} looks around")
    return f"(?{token['flags']}:{regex})"
