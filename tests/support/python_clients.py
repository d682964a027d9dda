"""Clients in Python that `dev` lacks: why their tests are skipped without them, and how
they are kept from talking to anybody but the gateway.

A module that imports one of them begins with

    python_clients.require("litellm")
"""

import os
from importlib.util import find_spec
from typing import Final

import pytest

INSTALL: Final = "pip install -e '.[dev,clients]'"
_APART: Final = {"instructor": "pip install --no-deps instructor==1.17.0"}
"""What cannot be in `clients`: it caps jiter and rich below what openai and textual
need, and works all the same."""
_QUIET: Final = {
    "ANONYMIZED_TELEMETRY": "false",
    "AWS_EC2_METADATA_DISABLED": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}


def missing(*packages: str) -> str | None:
    """The first one that cannot be imported, and how to install it."""
    for package in packages:
        if find_spec(package) is None:
            return f"{package} is not installed: {_APART.get(package, INSTALL)}"
    return None


def require(*packages: str) -> None:
    """Skip the module or the test that calls this unless all can be imported.

    What they look for in the environment when imported then says that they report
    nothing to anybody.
    """
    if reason := missing(*packages):
        pytest.skip(reason, allow_module_level=True)
    os.environ.update(_QUIET)
