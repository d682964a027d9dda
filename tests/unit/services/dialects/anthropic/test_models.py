"""The list of models, page by page."""

import pytest
from hypothesis import given, strategies as st

from neuron.protocol.errors import ApiError
from services.gateway.dialects.anthropic import model_entry, models_page
from services.gateway.dialects.base import Json


def model(id_: str) -> Json:
    return {"id": id_, "object": "model", "created": 86400, "max_model_len": 2048}


MODELS = [model(f"m{index:02}") for index in range(30)]
IDS = [entry["id"] for entry in MODELS]


def ids(query: dict[str, str]) -> tuple[list[str], bool]:
    page = models_page(MODELS, query)
    found = [entry["id"] for entry in page["data"]]
    assert page["first_id"] == (found[0] if found else None)
    assert page["last_id"] == (found[-1] if found else None)
    return found, page["has_more"]


def test_an_entry_says_how_much_fits() -> None:
    assert model_entry(model("a/b")) == {
        "type": "model",
        "id": "a/b",
        "display_name": "a/b",
        "created_at": "1970-01-02T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 2048,
        "max_tokens": 2048,
    }


@given(st.integers(1, 40))
def test_pages_forwards_and_backwards_are_the_whole(limit: int) -> None:
    for cursor, place in (("after_id", -1), ("before_id", 0)):
        seen: list[str] = []
        query = {"limit": str(limit)}
        if cursor == "before_id":
            query[cursor] = IDS[-1]
            seen = IDS[-1:]
        more = True
        while more:
            found, more = ids(query)
            seen = found + seen if cursor == "before_id" else seen + found
            query[cursor] = found[place]
        assert seen == IDS


def test_twenty_models_are_a_page_and_none_are_one_too() -> None:
    assert ids({}) == (IDS[:20], True)
    assert ids({"after_id": "m29"}) == ([], False)
    assert models_page([], {"limit": "1000"})["data"] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "0"), ("limit", "1001"), ("limit", "x"), ("limit", "²"),
     ("limit", "0000005"), ("after_id", "nope"), ("before_id", "")],
)  # fmt: skip
def test_what_is_wrong_with_a_query_is_named(name: str, value: str) -> None:
    with pytest.raises(ApiError) as refused:
        models_page(MODELS, {name: value})
    assert refused.value.param == name
