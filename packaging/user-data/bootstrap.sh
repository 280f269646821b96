#!/bin/sh
# EC2 user-data: installs instance-agent, writes its configuration and starts it, on systemd or upstart. Environment and
# apps are left to the instance's tags. It may run again at any time, and changes only what differs.
#
# Set these for your fleet. DRY_RUN=1 shows what would be done, and does nothing.
set -eu

# Of the .deb: https://…, s3://… (needs the AWS CLI) or file://…
: "${PACKAGE_URL:=https://downloads.example.com/instance-agent_0.1.0_amd64.deb}"
: "${PACKAGE_SHA256:=0000000000000000000000000000000000000000000000000000000000000000}"
: "${BROKER_URL:=mqtts://broker.example.com}"
# The SSM parameter with the broker's password for the user instance-agent (needs the AWS CLI); empty: no password.
: "${PASSWORD_PARAMETER=/instance-agent/broker-password}"
# Where the parameter and the bucket are, such as eu-central-1; empty: as the AWS CLI is configured.
: "${REGION:=}"
: "${DRY_RUN:=}"

etc=/etc/instance-agent

configuration() {
    printf 'mqtt:\n  url: "%s"\n' "$BROKER_URL"
    [ -z "$PASSWORD_PARAMETER" ] || printf '  username: instance-agent\n  password_file: %s/password\n' "$etc"
    printf 'ec2: {tags: true}\n'
}

# cloud-init keeps the standard output of user-data scripts in /var/log/cloud-init-output.log.
say() {
    printf 'instance-agent: %s\n' "$*"
    [ -n "$DRY_RUN" ] || logger -t instance-agent-bootstrap -- "$*" 2>/dev/null || :
}

fail() {
    say "error: $*" >&2
    exit 1
}

run() {
    if [ -n "$DRY_RUN" ]; then say "would run: $*"; else "$@"; fi
}

has() { command -v "$1" >/dev/null 2>&1; }

download() {
    case $PACKAGE_URL in
        file://*) cp "${PACKAGE_URL#file://}" "$1" ;;
        s3://*) aws ${REGION:+--region "$REGION"} s3 cp --only-show-errors "$PACKAGE_URL" "$1" ;;
        *) if has curl; then curl -fsSL --retry 5 -o "$1" "$PACKAGE_URL"; else wget -q -t 5 -O "$1" "$PACKAGE_URL"; fi ;;
    esac || fail "$PACKAGE_URL: cannot be downloaded"
}

verify() {
    printf '%s  %s\n' "$PACKAGE_SHA256" "$1" | sha256sum -c - >/dev/null 2>&1 ||
        fail "$PACKAGE_URL: its SHA-256 is not $PACKAGE_SHA256: nothing was installed"
}

# That of the package, or nothing. One that was removed and left its configuration still has a version.
installed_version() {
    dpkg-query -W -f '${db:Status-Abbrev}${Version}' "$1" 2>/dev/null | sed -n 's/^.i //p'
}

# apt-get takes a file since 1.1; Ubuntu 14.04 has an older one.
install_file() {
    if dpkg --compare-versions "$(installed_version apt)" ge 1.1; then
        run env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -q -y "$1"
    else
        run env DEBIAN_FRONTEND=noninteractive dpkg -i "$1"
    fi
}

install_package() {
    if [ -n "$DRY_RUN" ]; then
        say "would download $PACKAGE_URL and compare its SHA-256 with $PACKAGE_SHA256"
        install_file "$directory/instance-agent.deb"
        return
    fi
    download "$directory/instance-agent.deb"
    verify "$directory/instance-agent.deb"
    if [ "$(installed_version instance-agent)" = "$(dpkg-deb -f "$directory/instance-agent.deb" Version)" ]; then
        say 'this version is installed already'
        return
    fi
    say "installing $PACKAGE_URL"
    install_file "$directory/instance-agent.deb"
    changed=yes
}

# put FILE MODE: writes standard input to it in one step, unless that is what it holds.
put() {
    if [ -n "$DRY_RUN" ]; then
        say "would write $1 (mode $2):"
        sed 's/^/    /'
        return
    fi
    (umask 077 && cat >"$1.new")
    if cmp -s "$1.new" "$1"; then
        rm "$1.new"
        return
    fi
    chmod "$2" "$1.new"
    mv "$1.new" "$1"
    say "wrote $1"
    changed=yes
}

fetch_password() {
    aws ${REGION:+--region "$REGION"} ssm get-parameter --name "$PASSWORD_PARAMETER" --with-decryption \
        --query Parameter.Value --output text
}

write_password() {
    if [ -n "$DRY_RUN" ]; then
        say "would write $etc/password (mode 0600) from the SSM parameter $PASSWORD_PARAMETER"
        return
    fi
    (umask 077 && fetch_password >"$directory/password") ||
        fail "$PASSWORD_PARAMETER: cannot be read from the SSM Parameter Store"
    put "$etc/password" 0600 <"$directory/password"
}

start() {
    if [ -d /run/systemd/system ]; then
        run systemctl enable instance-agent.service
        if [ -n "$changed" ]; then
            run systemctl restart instance-agent.service
        else
            run systemctl start instance-agent.service
        fi
    elif has initctl && [ -e /etc/init/instance-agent.conf ]; then
        [ -z "$changed" ] || run initctl stop instance-agent || :
        run initctl start instance-agent || run initctl status instance-agent | grep start/
    elif [ -n "$DRY_RUN" ]; then
        say 'would fail: neither systemd nor upstart runs here'
    else
        fail 'neither systemd nor upstart runs here: start instance-agent run by hand'
    fi
}

changed=${DRY_RUN:+yes}
directory=$(mktemp -d)
# apt-get reads packages as a user of its own.
chmod 755 "$directory"
trap 'rm -rf "$directory"' EXIT
install_package
run mkdir -p "$etc"
[ -z "$PASSWORD_PARAMETER" ] || write_password
configuration >"$directory/config.yaml"
put "$etc/config.yaml" 0644 <"$directory/config.yaml"
start
say 'done'
