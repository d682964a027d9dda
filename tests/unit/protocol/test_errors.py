"""The envelope and its helpers."""

from neuron.protocol.errors import ApiError, model_not_found, overloaded
from neuron.protocol.routes import model_endpoint


def test_the_envelope_has_all_members_and_the_numbers() -> None:
    error = ApiError(507, "too big", code="insufficient_memory", details={"need": 5})
    assert error.envelope() == {
        "error": {
            "message": "too big",
            "type": "invalid_request_error",
            "code": "insufficient_memory",
            "param": None,
            "need": 5,
        }
    }
    assert error.headers() == {}


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    assert overloaded("full", 0.2).headers() == {"Retry-After": "1"}
    assert overloaded("full", 7.6).headers() == {"Retry-After": "8"}


def test_what_takes_long_is_not_waited_for() -> None:
    assert "X-Should-Retry" not in overloaded("full", 120).headers()
    assert overloaded("full", 121).headers()["X-Should-Retry"] == "false"


def test_an_unknown_model_is_told_which_there_are() -> None:
    message = str(model_not_found("x", ["b", "a"]))
    assert message == "model 'x' does not exist; available: a, b"
    assert "none" in str(model_not_found("x", []))


def test_ids_with_a_slash_stay_one_part_of_the_path() -> None:
    assert model_endpoint("org/name") == "/models/org%2Fname/endpoint"
