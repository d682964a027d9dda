"""Serves GGUF files with llama.cpp until its standard input ends.

Run as a program, with `xllamacpp` on the path, so that what it does to its process,
such as writing logs and taking threads, stays there. Prints a JSON list of addresses.
"""

import importlib
import json
import sys
from typing import Any


def main(files: list[str]) -> None:
    """One server for each file, on loopback and a free port each."""
    llama: Any = importlib.import_module("xllamacpp")
    servers = []
    for file in files:
        params = llama.CommonParams()
        params.model.path = file
        params.n_ctx = 1024
        params.n_parallel = 1
        # Several wait for each other by spinning, which starves a busy machine.
        params.cpuparams.n_threads = 1
        params.cpuparams_batch.n_threads = 1
        params.warmup = False
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        # Keys and values in float32, so that only the weights' types differ.
        params.cache_type_k = llama.ggml_type.GGML_TYPE_F32
        params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
        servers.append(llama.Server(params))
    sys.stdout.write(
        json.dumps([server.listening_address for server in servers]) + "\n"
    )
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
