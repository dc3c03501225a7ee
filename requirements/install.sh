#!/usr/bin/env bash
# Makes .venv with everything in cpu.lock and the command `zj`. Needs Python 3.11 and a way to PyPI or a mirror of it.
# A second call with the same lock returns at once. PYTHON=... chooses the interpreter, VENV=... the folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
LOCK=requirements/cpu.lock
TORCH=$(grep -E '^torch==' "$LOCK")
TORCH_INDEX=https://download.pytorch.org/whl/cpu # PyTorch's own; PyPI's torch of this version is the CUDA build
STAMP=$VENV/.zj-installed
# The path belongs to the stamp: a virtual environment that was copied elsewhere does not work.
WANTED=$({ cat "$LOCK" pyproject.toml requirements/install.sh; pwd; } | sha256sum | cut -d' ' -f1)

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf '\033[1;31merror: %s\033[0m\n' "$*" >&2; exit 1; }

[[ -f $STAMP && $(<"$STAMP") == "$WANTED" ]] && exit 0

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3 python; do
    [[ -n $candidate ]] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo "$candidate"; return; }
  done
  die "Python 3.11 was not found (the lock's wheels are for it) — install it, or name it: make demo PYTHON=/path/to/python3.11"
}

# uv does not read pip's settings. This prints them as uv's environment variables; what is set for uv already stays.
uv_settings() {
  "$VENV/bin/python" - <<'PY'
import ast, os, shlex, subprocess, sys

lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60).stdout.splitlines()
found = {}
for rank, prefix in enumerate(("global.", "install.", ":env:.")):  # later ones win, as in pip
    for line in lines:
        key, _, value = line.partition("=")
        if key.startswith(prefix):
            found[key.removeprefix(prefix)] = ast.literal_eval(value)


def words(key):
    return str(found.get(key, "")).split()


settings = {
    "UV_FIND_LINKS": ",".join(words("find-links")),
    "UV_DEFAULT_INDEX": " ".join(words("index-url")),
    "UV_INDEX": " ".join(words("extra-index-url")),
    "UV_INSECURE_HOST": " ".join(words("trusted-host")),
    "UV_NO_INDEX": "1" if str(found.get("no-index", "")).lower() in ("1", "true", "yes", "on") else "",
    "UV_HTTP_TIMEOUT": "".join(words("timeout") or words("default-timeout")),
    "SSL_CERT_FILE": str(found.get("cert", "")),
    "SSL_CLIENT_CERT": str(found.get("client-cert", "")),
    "HTTP_PROXY": str(found.get("proxy", "")),
    "HTTPS_PROXY": str(found.get("proxy", "")),
    "UV_INDEX_STRATEGY": "unsafe-best-match",  # as pip: look in every index; the lock pins the versions
}
for name, value in settings.items():
    if value and not os.environ.get(name):
        print(f"export {name}={shlex.quote(value)}")
PY
}

install_with_uv() {
  local uv=("$VENV/bin/uv" pip install --python "$VENV/bin/python" --no-deps --compile-bytecode)
  eval "$(uv_settings)"
  # torch first and alone: PyTorch's index is asked for nothing else, and only where the user's own settings have no CPU build.
  "${uv[@]}" --quiet "$TORCH" 2>/dev/null || "${uv[@]}" --index "$TORCH_INDEX" "$TORCH" ||
    die "$TORCH was found neither through your pip settings nor on PyTorch's index — put its wheel into a folder and set PIP_FIND_LINKS to it"
  "${uv[@]}" -r "$LOCK" || die "the lock could not be installed (see above) — check the network, your pip settings and the free disk space (6 GB)"
  "${uv[@]}" --quiet --no-build-isolation -e .
}

install_with_pip() {
  local pip=("$VENV/bin/python" -m pip install --no-deps --no-input --disable-pip-version-check)
  "${pip[@]}" --quiet "$TORCH" 2>/dev/null || "${pip[@]}" --extra-index-url "$TORCH_INDEX" "$TORCH" ||
    die "$TORCH was found neither through your pip settings nor on PyTorch's index — put its wheel into a folder and set PIP_FIND_LINKS to it"
  "${pip[@]}" -r "$LOCK" || die "the lock could not be installed (see above) — check the network, your pip settings and the free disk space (6 GB)"
  "${pip[@]}" --quiet --no-build-isolation -e .
}

if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
  python=$(find_python)
  say "making $VENV with $("$python" --version)"
  "$python" -m venv "$VENV" || die "python -m venv failed — install your system's venv package (Debian and Ubuntu: python3.11-venv)"
fi
say "installing $(grep -cE '^[a-z0-9]' "$LOCK") pinned packages (4 GB on disk; one to five minutes)"
if "$VENV/bin/python" -m pip install --quiet --no-input --disable-pip-version-check uv; then
  install_with_uv
else
  say "uv could not be installed: using pip, which is slower"
  install_with_pip
fi
"$VENV/bin/zj" --help >/dev/null || die "the command zj does not start — remove $VENV and try again"
echo "$WANTED" >"$STAMP"
say "done: $VENV/bin/zj"
