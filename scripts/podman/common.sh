# shellcheck shell=bash
# Where the engine and what it needs lie. Sourced by the scripts beside it, never run.
# shellcheck disable=SC2034  # not every script uses every name

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${MAILSENDER_CACHE:-$HOME/.cache/mailsender}
engine=$cache/engine
# Podman allows the run directory 50 characters and a socket's path has at most 107: too few for any cache.
run=/run/mailsender-engine-$(printf %s "$cache" | cksum | cut -d ' ' -f 1)
python=$repo/.venv/bin/python

# Everything of this engine lies in directories of its own: a Podman that the machine has for other things
# keeps its images, networks and settings.
export CONTAINERS_CONF=$engine/containers.conf
export CONTAINERS_STORAGE_CONF=$engine/storage.conf
# Docker before 23 builds without secrets and caches unless it is told to.
export DOCKER_BUILDKIT=1
# Builds run without a container runtime's namespaces: quicker, and the network is the machine's.
export BUILDAH_ISOLATION=chroot
# Without systemd there are no timers; health-checks runs the checks instead.
export DISABLE_HC_SYSTEMD=true

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "$*"
    exit 1
}

lacks() {
    ! command -v "$1" >/dev/null
}

# docker_answers: whether an engine of Docker's own answers (DOCKER_HOST or the usual socket).
docker_answers() {
    [[ ${MAILSENDER_ENGINE:-} != podman ]] && ! lacks docker && docker version >/dev/null 2>&1
}

# digest FILE…: a short name for their contents.
digest() {
    cat -- "$@" | sha256sum | cut -c 1-12
}

# exists IMAGE: whether the engine has it.
exists() {
    "$builder" image inspect "$1" >/dev/null 2>&1
}

# build ARGUMENT…: build an image, with the health checks that only Docker's format carries.
build() {
    if [[ $builder == podman ]]; then
        podman build --quiet --layers --format docker "$@"
    else
        docker build --quiet "$@"
    fi
}

if docker_answers; then builder=docker; else builder=podman; fi
