#!/bin/sh
# Use the pyloop that is installed where `python` is, beside what it should work with:
#
#   sh scripts/wheels/try.sh EXAMPLES
#
# The release and `make wheels` run it. aiohttp and uvloop are installed where they have
# wheels for this Python and system; check.py says what it left out without them.
set -eu

for package in aiohttp uvloop; do
    python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
        "$package" 2>/dev/null || echo "$package has no wheel here" >&2
done
exec python "$(dirname "$0")/check.py" "$1"
