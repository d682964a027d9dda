"""What a neuron's errors become."""

import pytest

from services.fleet.client import api_error


def test_an_envelope_is_kept_whole() -> None:
    body = (
        b'{"error": {"message": "too big", "type": "server_error",'
        b' "code": "insufficient_memory", "param": "model", "need": 7}}'
    )
    error = api_error(507, body)
    assert (error.status, error.code, error.param) == (
        507,
        "insufficient_memory",
        "model",
    )
    assert error.envelope()["error"]["need"] == 7


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"error": "flat"}', b'{"error": {}}']
)
def test_anything_else_is_said_to_be_without_a_reason(body: bytes) -> None:
    error = api_error(500, body)
    assert error.code == "neuron_error"
    assert "HTTP 500 without a reason" in error.message
