#!/usr/bin/env bash
# Installs what tests, `make lint` and `make audit` need: `tools.sh NAME...`, of milvus, minio, chromium, buf and audit.
#
# What can not be installed is told with what to do about it. Tests that need it are skipped then, but in CI (CI=true)
# that is a failure.
#
# Everything but Debian's packages lands under .tools/ of the repository, or under $SACCADE_TOOLS. A stamp that names
# the version says that a tool is there; remove the stamp, or the folder, to install it again.
set -euo pipefail

readonly MILVUS_VERSION=2.3.5
readonly MINIO_VERSION=v0.0.0-20260212201848-7aac2a2c5b7c # the last commit of the archived server
readonly BUF_VERSION=1.75.0
readonly PIP_AUDIT_VERSION=2.10.1

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${SACCADE_TOOLS:-$root/.tools}
mkdir -p "$tools/bin" "$tools/stamps"
tools=$(cd "$tools" && pwd)
readonly root tools
failed=0

say() { printf 'tools: %s\n' "$*"; }
problem() {
    printf 'tools: %s\n' "$*" >&2
    failed=1
}
# Without it some tests are skipped.
lacking() {
    if [[ ${CI:-} == true ]]; then problem "$*"; else say "$*; tests that need it are skipped"; fi
}
# Programs alone: functions of this script are named after the tools.
have() { type -P "$1" >/dev/null; }

# stamped NAME FILE: true when this version was installed to its end and its program is still there.
stamped() { [[ -e $tools/stamps/$1 && -x $2 ]]; }

# stamp NAME: records the version as installed, and forgets the versions before it.
stamp() {
    rm -f "$tools/stamps/${1%%@*}@"*
    touch "$tools/stamps/$1"
    say "$1 is installed"
}

chromium() {
    local as_root=()
    if have chromium; then say "chromium is there"; return; fi
    if ! have apt-get; then
        lacking "install chromium with this system's package manager, then run this again"
        return
    fi
    if ((EUID != 0)); then
        if ! have sudo || ! sudo -n true 2>/dev/null; then
            lacking "as root, run: apt-get install --no-install-recommends chromium"
            return
        fi
        as_root=(sudo)
    fi
    say "installing Debian's chromium"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends chromium >/dev/null
}

milvus() {
    local stamp=milvus@$MILVUS_VERSION home=$tools/milvus python=${PYTHON:-python3}
    if stamped "$stamp" "$home/server/bin/milvus"; then say "$stamp is there"; return; fi
    say "installing $stamp (58 MB to fetch, 250 MB unpacked, half a minute)"
    rm -rf "$home"
    if ! "$python" -m venv "$home"; then
        lacking "Milvus needs a Python that can make virtual environments: on Debian, install python3-venv"
        return
    fi
    if ! "$home/bin/pip" install --quiet --disable-pip-version-check --no-deps "milvus==$MILVUS_VERSION"; then
        lacking "Milvus $MILVUS_VERSION can not be had from PyPI, which has it for x86-64 Linux and macOS on ARM"
        return
    fi
    # The package unpacks its server into each data folder. Unpacked here once, it starts with no such wait.
    "$home/bin/python" - "$home/server" <<'PYTHON'
import sys

import milvus

milvus._initialize_data_files(sys.argv[1])
milvus.MilvusServerConfig(data_dir=sys.argv[1]).resolve()
PYTHON
    stamp "$stamp"
}

minio() {
    local stamp=minio@$MINIO_VERSION
    if stamped "$stamp" "$tools/bin/minio"; then say "$stamp is there"; return; fi
    local instead="or run another S3 server (the image pgsty/silo, MinIO's maintained fork, or any S3 endpoint) and name \
it in the settings"
    if ! have go; then
        lacking "MinIO's server is built with Go, which is not here: install Go 1.24 or later, $instead"
        return
    fi
    say "building $stamp (four minutes on two cores)"
    if ! (cd / && GOBIN=$tools/bin CGO_ENABLED=0 nice -n 10 \
        go install -trimpath -ldflags='-s -w' "github.com/minio/minio@$MINIO_VERSION"); then
        lacking "MinIO did not build; $(go version) says why above, and MinIO needs Go 1.24 or later: install that, $instead"
        return
    fi
    stamp "$stamp"
}

buf() {
    local stamp=buf@$BUF_VERSION
    if stamped "$stamp" "$tools/bin/buf"; then say "$stamp is there"; return; fi
    if ! have npm; then
        problem "buf comes from npm, which is not here: install Node.js with npm (Debian: apt install npm)"
        return
    fi
    say "installing $stamp"
    npm install --prefix "$tools/node" --save-exact --no-audit --no-fund --ignore-scripts --loglevel=error \
        "@bufbuild/buf@$BUF_VERSION" >/dev/null
    ln -sfn ../node/node_modules/.bin/buf "$tools/bin/buf"
    "$tools/bin/buf" --version >/dev/null
    stamp "$stamp"
}

audit() {
    local stamp=pip-audit@$PIP_AUDIT_VERSION home=$tools/audit python=${PYTHON:-python3}
    if stamped "$stamp" "$home/bin/pip-audit"; then say "$stamp is there"; return; fi
    say "installing $stamp"
    rm -rf "$home"
    # In an environment of its own: what it needs itself is none of what it looks through.
    if ! "$python" -m venv "$home" \
        || ! "$home/bin/pip" install --quiet --disable-pip-version-check "pip-audit==$PIP_AUDIT_VERSION"; then
        problem "pip-audit can not be installed: it needs a Python that can make virtual environments, and its index"
        return
    fi
    ln -sfn ../audit/bin/pip-audit "$tools/bin/pip-audit"
    stamp "$stamp"
}

(($#)) || set -- milvus minio chromium buf
for name in "$@"; do
    case $name in
        milvus | minio | chromium | buf | audit) "$name" ;;
        *) problem "there is no tool $name: milvus, minio, chromium, buf or audit" ;;
    esac
done
exit "$failed"
