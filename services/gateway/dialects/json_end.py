"""Finding the end of a JSON object that arrives in pieces."""

import re
from typing import Final

_OUTSIDE: Final = re.compile(r'["{}\[\]]')
_INSIDE: Final = re.compile(r'"|\\', re.DOTALL)


class JsonEnd:
    """Reads valid JSON; of anything else it says nothing useful."""

    def __init__(self) -> None:
        self.reached = False
        """The outermost bracket is closed."""
        self._depth = 0
        self._in_string = False
        self._escaped = False
        """The next character of the string is none of its end."""

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped, at = False, at + 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(text, at)
            if found is None:
                return
            self._meet(found[0])
            at = found.end()

    def _meet(self, mark: str) -> None:
        if mark == '"':
            self._in_string = not self._in_string
        elif mark == "\\":
            self._escaped = True
        else:
            self._depth += 1 if mark in "{[" else -1
            self.reached = self.reached or self._depth == 0
