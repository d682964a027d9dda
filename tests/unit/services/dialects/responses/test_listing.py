"""Items of a stored response, page by page."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from neuron.protocol.errors import ApiError
from services.gateway.dialects.responses.listing import Page, kept, listed

IDS = st.lists(st.sampled_from([None, "", "a", "b"]), max_size=12)


def items(ids: list[str | None]) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": str(number), "id": id_}
        for number, id_ in enumerate(ids)
    ]


@given(IDS, st.integers(1, 5), st.booleans())
def test_pages_hold_every_item_once(
    ids: list[str | None], limit: int, ascending: bool
) -> None:
    whole = kept(items(ids), "u")
    found, after = [], None
    while True:
        page = listed(whole, Page(limit, after, ascending))
        found += page["data"]
        if not page["has_more"]:
            break
        after = page["last_id"]
        assert len(found) < len(whole)
    assert found == (whole if ascending else whole[::-1])


@given(IDS)
def test_ids_are_the_clients_own_where_they_are_unique(ids: list[str | None]) -> None:
    found = [item["id"] for item in kept(items(ids), "u")]
    assert len(set(found)) == len(ids)
    assert set(found) >= set(ids) - {None}


@pytest.mark.parametrize("limit", ["0", "101", "²", "000000001" + "0" * 5000])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(ApiError) as refused:
        Page.of({"limit": limit})
    assert refused.value.param == "limit"
