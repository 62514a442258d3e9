#!/usr/bin/env bash
# Says, in one line each, what this machine lacks.
set -u
missing=0
lacks() { printf 'missing: %s\n' "$1" >&2; missing=1; }
[ "$(uname -s)" = Linux ] || lacks "Linux (the dev cluster uses its namespaces), found $(uname -s)"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  || lacks "Python 3.11 or newer as python3, found $(python3 --version 2>/dev/null || echo none)"
python3 -c 'import venv, ensurepip' 2>/dev/null || lacks "Python's venv module (Debian: apt-get install python3-venv)"
command -v cc >/dev/null || lacks "a C compiler as cc (Debian: apt-get install build-essential)"
if [ -z "${DEVCLUSTER_BIN:-}" ]; then
  go_version=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
  case "$go_version" in
    "") lacks "Go 1.26 or newer (the control plane is built from the Go module proxy)" ;;
    *) [ "$(printf '%s\n1.26\n' "$go_version" | sort -V | head -n 1)" = 1.26 ] \
         || lacks "Go 1.26 or newer, found $go_version" ;;
  esac
fi
exit "$missing"
