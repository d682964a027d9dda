#!/usr/bin/env bash
# `python -m tests.gpu` on a bare machine without a network:
#
#     tests/gpu/run.sh [ARGUMENT…]
#
# Takes packages that its Python lacks from the wheels in $WHEELS (.wheels), and says
# which of them are missing. PYTHON names another Python.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${PYTHON:-python3}
wheels=${WHEELS:-.wheels}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

if compgen -G "$wheels/*.whl" > /dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --disable-pip-version-check --target "$site" "$wheels"/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PATH="$site/bin:$PATH"
fi

if ! "$python" -m tests.gpu.needs; then
    echo "bring wheels for $("$python" -V) in $wheels: pip download --no-deps -d $wheels …" >&2
    exit 2
fi
# When stopped it still writes its results.
"$python" -m tests.gpu "$@" &
trap 'kill -TERM $! 2> /dev/null; wait $!' TERM INT
wait $!
