#!/bin/sh
# Installs instance-agent where there is no dpkg, such as on Amazon Linux 2023: run it from where the tarball was
# unpacked. It may run again at any time, to upgrade too. It never touches /etc/instance-agent/config.yaml.
#
#     sudo ./install.sh               install or upgrade, enable and start
#     sudo ./install.sh --uninstall   stop and remove; the state and the configuration stay
#     sudo ./install.sh --purge       the same, and the state is removed
#
# With DESTDIR set, files are only copied below it, or removed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

check() {
    [ -x "$here/usr/bin/instance-agent" ] || fail "$here/usr/bin/instance-agent is missing: unpack the whole tarball"
    [ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail 'root is needed: sudo ./install.sh'
    if [ -z "$root" ] && dpkg-query -W -f '${Status}' instance-agent 2>/dev/null | grep -q ' installed$'; then
        fail 'the Debian package is installed here: upgrade or remove it with apt'
    fi
    # Of another architecture or a libc that is too old.
    "$here/usr/bin/instance-agent" --version >/dev/null || fail 'this binary does not run on this machine'
}

files() { (cd "$here" && find usr -type f); }

# Each in one step: an agent that runs keeps the old program until it is restarted.
copy_files() {
    files | while IFS= read -r file; do
        mkdir -p "$root/${file%/*}"
        case $file in usr/bin/*) mode=755 ;; *) mode=644 ;; esac
        cp "$here/$file" "$root/$file.new"
        chmod "$mode" "$root/$file.new"
        mv "$root/$file.new" "$root/$file"
    done
    if [ -z "$root" ] && command -v restorecon >/dev/null; then
        files | sed 's,^,/,' | xargs restorecon
    fi
}

remove_files() {
    files | while IFS= read -r file; do
        rm -f "$root/$file"
        case $file in */instance-agent/*) rmdir -p --ignore-fail-on-non-empty "$root/${file%/*}" 2>/dev/null || : ;; esac
    done
}

# The package's own scripts, which do what there is to do on each init system.
script() {
    [ -n "$root" ] || sh "$here/scripts/$1" "$2" "${3:-}"
}

install_all() {
    before=
    [ ! -e "$root/usr/bin/instance-agent" ] || before=another
    copy_files
    script postinst configure "$before"
}

uninstall() {
    script prerm remove
    remove_files
    script postrm "$1"
}

case ${1:-} in
    '') check && install_all ;;
    --uninstall) check && uninstall remove ;;
    --purge) check && uninstall purge ;;
    *) fail "usage: $0 [--uninstall | --purge]" ;;
esac
