"""Cases of attention over a cache; plain values, that any process can be handed."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Case:
    """One call: what is in the cache, and what is asked of it."""

    lengths: tuple[int, ...]
    """Keys in the cache of each sequence, before those that the call appends."""
    queries: int = 1
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    page: int | None = 32
    """Tokens in a page; None: a cache without pages."""
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    appends: bool = True
    dtype: str = "float16"
    spare_columns: int = 0
    """Entries of the block table behind the longest sequence's pages."""

    def __str__(self) -> str:
        changed = [
            f"{name}{getattr(self, name)}"
            for name in self.__slots__
            if name != "lengths" and getattr(self, name) != _default(name)
        ]
        return "-".join([*map(str, self.lengths), *changed]).replace(" ", "")


def _default(name: str) -> object:
    return Case.__dataclass_fields__[name].default


MODELS: Final = (
    Case((37, 300), heads=8, kv_heads=2, head_dim=128, page=256),
    Case((0, 700), heads=4, kv_heads=4, head_dim=128, page=256),
    Case((300,), heads=7, kv_heads=1, head_dim=128, page=256),  # 7 heads a group
    Case((90, 4), head_dim=32),
    Case((90, 4), head_dim=80),
    Case((90, 4), head_dim=96, heads=2),
    Case((90,), head_dim=72, heads=2, causal=False),  # SigLIP
    Case((70, 200), head_dim=256, softcap=50.0, window=(40, 40), page=256),
)
"""Head layouts of the models that exllamav2 knows."""

MASKS: Final = (
    Case((90, 61), window=(40, 40)),
    Case((600,), window=(100, 100), page=256),
    Case((90, 61), window=(0, 0)),
    Case((90,), window=(1000, 1000)),  # wider than the text
    Case((90,), queries=5, window=(20, 20)),
    Case((90, 33), causal=False),
    Case((90,), queries=6, causal=False, window=(10, 3)),
    Case((90,), queries=6, causal=False, window=(-1, 2)),
    Case((90,), softcap=0.5),
    Case((90, 200), queries=4, softcap=30.0, window=(50, 50)),
)

EDGES: Final = (
    Case((0,)),
    Case((0, 0, 50), appends=False),  # rows that see nothing
    Case((2, 40), queries=4, appends=False),  # more queries than keys
    Case((31, 32, 33)),  # around a page's end
    Case((30, 63), queries=5),  # across it
    Case((255, 256, 257), page=256),
    Case((90, 10), spare_columns=3),
    Case((1100,), page=256, spare_columns=4),  # more splits than there are keys for
    Case((50,), page=48),
    Case((50,), page=16),
)

LONG: Final = (
    Case((40,), queries=16, heads=8, kv_heads=2),
    Case((3, 100), queries=8, heads=16, kv_heads=2),  # 64 rows
    Case((130,), queries=90, heads=4, kv_heads=2, head_dim=32),  # several tiles
    Case((130,), queries=40, softcap=20.0, heads=2, kv_heads=1, window=(30, 30)),
    Case((10,), queries=70, head_dim=256, softcap=50.0, heads=2, kv_heads=1),
)
"""Drafts, and chunks of a prompt."""

WITHOUT_PAGES: Final = (
    Case((40, 3), page=None),
    Case((40, 3), page=None, queries=3, window=(8, 8)),
    Case((200,), page=None, appends=False, softcap=10.0),
    Case((60, 60), page=None, appends=False, queries=20, causal=False),
)
