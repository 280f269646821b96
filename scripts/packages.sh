# shellcheck shell=sh
# Sourced by the install scripts: finds out which commands are missing, and installs their packages.

# Debian keeps daemons where an ordinary user's PATH does not look.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing=

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# need COMMAND DEBIAN_PACKAGES [FEDORA_PACKAGES]: notes the packages when the command is not there.
need() {
    if has "$1"; then
        return
    elif has apt-get; then
        missing="$missing $2"
    elif has dnf || has yum; then
        missing="$missing ${3:-$2}"
    else
        fail "$1 is missing, and there is no apt-get, dnf or yum to install it: install it by hand ($2 on Debian)"
    fi
}

install_missing() {
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ] && ! has sudo; then
        fail "missing here, and installing packages needs root or sudo:$missing"
    fi
    say "missing here, installing:$missing"
    if has apt-get; then
        hold_services_back
        as_root apt-get update -qq || say "warning: apt-get update failed; trying with the lists that are here"
    fi
    # One by one, so that a failure names the package.
    for package in $missing; do
        install_package "$package" || fail "the package $package cannot be installed; install it by hand and run this again"
    done
    missing=
}

install_package() {
    if has apt-get; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
            -o Dpkg::Use-Pty=0 install -qq --no-install-recommends "$1"
    elif has dnf; then
        as_root dnf install -q -y "$1"
    else
        as_root yum install -q -y "$1"
    fi
}

# On a Debian host with systemd a package's services are started as it is installed (mosquitto: a broker on port
# 1883). Maintainer scripts ask policy-rc.d first; 101 means no. A file that is already there is left alone.
policy=/usr/sbin/policy-rc.d
hold_services_back() {
    [ -e "$policy" ] && return
    trap 'as_root rm -f "$policy"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
}
