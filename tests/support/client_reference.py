"""The README's line for each client, from the table that `cortex-tui connect` uses.

`python -m tests.support.client_reference` writes them into the README.
"""

from pathlib import Path

from cortex_tui.connect.client import Connection, Folders
from cortex_tui.connect.clients import CLIENTS
from tests.support.readme import README, with_part

BEGIN, END = "<!-- clients -->", "<!-- end of clients -->"
EXAMPLE = Connection("http://127.0.0.1:31313", "qwen3-8b-4.5bpw")
"""With the default port, and the model of the README's other examples."""


def table() -> str:
    lines = ["| Client | `connect` | In one line |", "|---|---|---|"]
    for client in CLIENTS:
        line = client.one_line(EXAMPLE, Folders(Path("~")))
        assert "|" not in line, "Markdown would split it"
        lines.append(f"| {client.name} | `{client.id}` | `{line}` |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """The README's text with the clients as they are now.

    Raises:
        ValueError: the README has no place for them.
    """
    return with_part(readme, BEGIN, END, table())


if __name__ == "__main__":
    README.write_text(with_table(README.read_text("utf-8")), encoding="utf-8")
