#!/usr/bin/env bash
# `python -m tests.gpu` on a bare machine without a network:
#
#     tests/gpu/run.sh [ARGUMENT…]
#
# Its Python has torch, its PATH a CUDA toolkit and a C++ compiler. Other packages come
# from the wheels in $WHEELS (.wheels), which `python -m tests.gpu.wheels` fills where
# there is a network; what is missing is said at once. PYTHON names another Python.
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
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "fill $wheels where there is a network: python -m tests.gpu.wheels --python $version" >&2
    exit 2
fi
# When stopped it still writes its results.
"$python" -m tests.gpu "$@" &
trap 'kill -TERM $! 2> /dev/null; wait $!' TERM INT
wait $!
