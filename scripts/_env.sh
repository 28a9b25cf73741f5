# Sourced by the two README commands: makes or refreshes .venv/ from a lock file, once, whoever comes first.
# Usage: ensure_env LOCKFILE

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$top/.venv"

say() { printf '%s\n' "$*" >&2; }

find_python() {
    local name
    for name in ${RUSTIC_HOST_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    say "rustic-host needs Python 3.11 or newer, and found none on PATH. On Debian: apt install python3 python3-venv"
    return 1
}

fingerprint() {  # of everything the environment is made from
    { cat "$1" "$top/pyproject.toml" "$top/scripts/_env.sh"; printf '%s' "$top"; } | sha256sum | cut -d' ' -f1
}

make_env() {
    local lock=$1 python
    python=$(find_python) || return 1
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        say "$python has no venv module. On Debian: apt install python3-venv ($("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))"
        return 1
    fi
    say "rustic-host: making the environment in .venv/ (once; about half a minute) ..."
    # Explicit && throughout: errexit is off in a function whose status is tested. Hashes hold whatever index pip asks.
    if ! "$venv/bin/python" -c '' 2>/dev/null; then
        "$python" -m venv --clear "$venv" || return 1
    fi
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r "$lock" &&
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable "$top"
}

ensure_env() {
    local lock="$top/$1" stamp want
    stamp="$venv/.made-from-$1"
    want=$(fingerprint "$lock")
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
    exec 9>"$top/.venv.lock"
    flock 9  # two first commands at once: the second waits, then finds it made
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        rm -f "$stamp"
        make_env "$lock" || return 1
        printf '%s\n' "$want" >"$stamp"
    fi
    exec 9>&-
}
