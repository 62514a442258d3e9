#!/usr/bin/env bash
# Builds the images of the Dockerfile without a Docker engine or a registry and runs their entry points as uid 10001.
#
#   tests/images/build.sh [operator] [trainer]      default: both; the trainer needs 40 GB of free disk
#
# Needs root, and buildah and debootstrap of Debian. The public base image is replaced by a Debian root file system
# that debootstrap makes once (1 minute, 275 MB, below $XDG_CACHE_HOME/mochi-operator/images). pip's configuration and
# certificates of this machine are mounted while packages are installed; neither enters the Dockerfile or an image.
# Images and containers live in a directory that is deleted at the end; KEEP_STORAGE=DIR keeps them in DIR instead.
set -euo pipefail

readonly ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/mochi-operator/images
readonly SUITE=bookworm
readonly BASE_IMAGE=localhost/mochi-base:$SUITE
readonly NEEDED_GB_OPERATOR=3 NEEDED_GB_TRAINER=40

fail() { echo "build.sh: $*" >&2; exit 1; }
say() { echo "build.sh: $*" >&2; }

check_machine() {
    [[ $(id -u) -eq 0 ]] || fail "must run as root, got uid $(id -u)"
    local tool
    for tool in buildah debootstrap; do
        command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install --no-install-recommends buildah debootstrap"
    done
}

check_disk() {  # directory, GB
    local free
    free=$(df --output=avail -B1G "$1" | tail -1)
    ((free >= $2)) || fail "$1 must have at least $2 GB free, got $free"
}

base_rootfs() {
    local rootfs=$CACHE/rootfs-$SUITE
    if [[ ! -d $rootfs ]]; then
        say "making the base file system, about 1 minute"
        rm -rf "$rootfs.partial"
        mkdir -p "$CACHE"
        nice debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" "$rootfs.partial" \
            >"$CACHE/debootstrap.log" 2>&1 || fail "debootstrap failed, see $CACHE/debootstrap.log"
        mv "$rootfs.partial" "$rootfs"
    fi
    echo "$rootfs"
}

base_image() {
    local rootfs container
    rootfs=$(base_rootfs)
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$rootfs" / >/dev/null
    buildah commit --quiet --rm "$container" "$BASE_IMAGE" >/dev/null
}

pip_configuration() {  # writes what pip on this machine is configured with, from files and environment, into one file
    python3 - "$1" <<'PY'
import configparser, os, subprocess, sys

config = configparser.RawConfigParser()
config["global"] = {}
for line in subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout.splitlines():
    name, _, value = line.partition("=")
    option = name.removeprefix("global.").removeprefix(":env:.")
    if option in {"index-url", "extra-index-url", "trusted-host", "proxy", "cert", "default-timeout", "timeout"}:
        config["global"]["timeout" if option == "default-timeout" else option] = value.strip("'")
with open(sys.argv[1], "w", encoding="utf-8") as file:
    config.write(file)
os.chmod(sys.argv[1], 0o600)
PY
}

build() {  # target
    local started=$SECONDS
    nice buildah bud --quiet --layers=false --target "$1" --tag "localhost/mochi-$1:test" \
        --build-arg BASE="$BASE_IMAGE" --build-arg REVISION="$(git -C "$ROOT" rev-parse HEAD 2>/dev/null || echo unknown)" \
        --volume "$WORK/pip.conf:/etc/pip.conf:ro" \
        --volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro \
        --file "$ROOT/Dockerfile" "$ROOT" >"$WORK/$1.log" 2>&1 || { tail -n 40 "$WORK/$1.log" >&2; fail "target $1 did not build"; }
    say "target $1 built in $((SECONDS - started)) s"
}

run_in() {  # container, command...: as the image says, without a network and with nothing but /tmp to write to
    buildah run --network none "$@"
}

answers() {  # target, container: the trainer has --help; the operator, which takes no arguments, names what it misses
    local code=0
    if [[ $1 == trainer ]]; then
        run_in "$2" -- python -m mochi_trainer --help >"$WORK/$1.answer" 2>&1
    else
        run_in "$2" -- python -m mochi_operator >"$WORK/$1.answer" 2>&1 || code=$?
        ((code != 0)) && grep -q "MOCHI_TRAINER_IMAGE must name the trainer image" "$WORK/$1.answer"
    fi
}

compiles() {  # container: Triton and inductor make a C file into a library when the blocks are first compiled
    run_in "$1" -- sh -c 'echo "int answer(void) { return 42; }" | gcc -shared -fPIC -x c - -o /tmp/answer.so &&
        python -c "import ctypes; raise SystemExit(ctypes.CDLL(\"/tmp/answer.so\").answer() != 42)"'
}

check() {  # target, modules that must be absent
    local container package=mochi_$1
    container=$(buildah from --quiet "localhost/mochi-$1:test")
    local settings
    settings=$(buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}' "localhost/mochi-$1:test")
    [[ $settings == "10001:10001 [python -m $package]" ]] || fail "image $1 must run [python -m $package] as 10001:10001, got $settings"
    [[ $(run_in "$container" -- id -u) == 10001 ]] || fail "image $1 must run as uid 10001"
    answers "$1" "$container" || fail "python -m $package does not answer as it should in image $1: $(cat "$WORK/$1.answer")"
    run_in "$container" -- python -c "
import importlib.util as u, sys
found = [m for m in sys.argv[2:] if u.find_spec(m)]
sys.exit(f'image must not hold {found}' if found or not u.find_spec(sys.argv[1]) else 0)" "$package" "${@:2}"
    [[ $1 != trainer ]] || compiles "$container" || fail "image trainer must have a C compiler that uid 10001 can use"
    # buildah leaves an empty file where the volume was mounted.
    run_in "$container" -- sh -c '! touch /opt/venv/x 2>/dev/null && ! test -s /etc/pip.conf' ||
        fail "image $1 must hold no pip configuration, and its packages must be read-only to uid 10001"
    say "image $1: $(du -sh "$(buildah mount "$container")" | cut -f1), uid 10001, python -m $package says: $(head -1 "$WORK/$1.answer")"
    buildah rm "$container" >/dev/null
}

main() {
    local targets=("$@") target
    ((${#targets[@]})) || targets=(operator trainer)
    for target in "${targets[@]}"; do
        [[ $target == operator || $target == trainer ]] || fail "target must be operator or trainer, got $target"
    done
    check_machine
    mkdir -p "$CACHE"
    WORK=$(mktemp -d "$CACHE/build.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
    export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs TMPDIR=$WORK
    local storage=${KEEP_STORAGE:-$WORK/storage}
    mkdir -p "$storage"
    printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' "$storage" "$WORK/run" >"$WORK/storage.conf"
    export CONTAINERS_STORAGE_CONF=$WORK/storage.conf
    pip_configuration "$WORK/pip.conf"
    base_image
    for target in "${targets[@]}"; do
        case $target in
            operator) check_disk "$WORK" "$NEEDED_GB_OPERATOR"; build operator; check operator torch boto3 av mochi_trainer pip ;;
            trainer) check_disk "$WORK" "$NEEDED_GB_TRAINER"; build trainer; check trainer kubernetes kopf mochi_operator pip ;;
        esac
    done
}

main "$@"
