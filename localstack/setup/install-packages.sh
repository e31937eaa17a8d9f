#!/bin/sh
# Install Debian packages for their programs only: run as root with the package names as arguments.
#
# Debian starts a package's service when it is installed. A policy-rc.d that forbids this stands in
# while apt-get runs, and the machine's own one (or none) is put back after it, also on Ctrl-C; what
# a killed run left is put back by the next one.
set -eu

policy=${TICKETRA_POLICY_RC_D:-/usr/sbin/policy-rc.d} # another file in tests
saved=$policy.before-ticketra
mark='# written by the set-up of ticketra, which removes it again'
services='postgresql redis-server rabbitmq-server epmd.socket epmd'

restore_policy() {
    if [ -f "$policy" ] && grep -qF "$mark" "$policy"; then
        rm -f "$policy"
    fi
    if [ -e "$saved" ] || [ -L "$saved" ]; then
        mv "$saved" "$policy"
    fi
}

forbid_services() {
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        mv "$policy" "$saved"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > "$policy.partial"
    chmod 755 "$policy.partial"
    mv "$policy.partial" "$policy"
}

install_packages() {
    apt-get install --yes --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
}

# Two checkouts may be set up at once, and the policy is one for the machine.
exec 9> /run/lock/ticketra-setup.lock
flock 9

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
trap restore_policy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
restore_policy
forbid_services

starts_at_boot() {
    systemctl is-enabled --quiet "$1" 2> /dev/null
}

not_started_before=
for service in $services; do
    starts_at_boot "$service" || not_started_before="$not_started_before $service"
done

# An interrupted earlier installation would make apt-get refuse.
if [ -n "$(dpkg --audit)" ]; then
    dpkg --configure -a
fi
# The package lists of a fresh machine are empty or old.
if ! install_packages "$@"; then
    apt-get update
    install_packages "$@"
fi

# Only what this run brought: a service that started at boot before is the machine's own.
for service in $not_started_before; do
    if starts_at_boot "$service"; then
        systemctl disable "$service" || echo "could not disable $service"
    fi
done
