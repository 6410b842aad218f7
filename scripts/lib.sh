# Shared by the scripts in this directory; sourced, never run. POSIX-ish bash.
#
# Where things live:
#   $LAPSTRAKE_TEST_CACHE   base images made from Debian packages. Default: /var/cache/lapstrake-test for root
#                           (every user must be able to read them), ~/.cache/lapstrake-test for anyone else.
#   $CACHE/busybox          OCI layout, tag "latest":   linux/amd64, linux/arm64, linux/arm/v7
#   $CACHE/debian           OCI layout, tag "bookworm": linux/amd64, linux/arm64

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -z "${LAPSTRAKE_TEST_CACHE:-}" ]; then
    if [ "$(id -u)" = 0 ]; then
        LAPSTRAKE_TEST_CACHE=/var/cache/lapstrake-test
    else
        LAPSTRAKE_TEST_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/lapstrake-test
    fi
fi
export LAPSTRAKE_TEST_CACHE

say() { printf '\033[1m%s\033[0m\n' "==> $*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# The triple of this machine's Rust toolchain.
host_triple() { rustc -vV | sed -n 's/^host: //p'; }

# Where `scripts/build` leaves the release binary.
release_binary() {
    echo "${CARGO_TARGET_DIR:-$here/target}/$(host_triple)/release/lapstrake"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# need COMMAND=PACKAGE ...: installs, in one go, the packages whose commands are missing.
need() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${pair%%=*}" ] || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} = 0 ] && return 0
    command -v apt-get >/dev/null || die "missing and no apt-get to install them: ${missing[*]}"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        die "missing; ask an administrator to run: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
    if ! as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/tmp/lapstrake-apt.$$ 2>&1; then
        as_root "${apt[@]}" update >&2 || true
        as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/tmp/lapstrake-apt.$$ 2>&1 ||
            { cat /tmp/lapstrake-apt.$$ >&2; die "apt-get install failed"; }
    fi
    rm -f /tmp/lapstrake-apt.$$
}

# ensure_user NAME with|without: an unprivileged user with, or without, a range in /etc/subuid.
ensure_user() {
    local name=$1 subids=$2
    id "$name" >/dev/null 2>&1 || as_root /usr/sbin/useradd --create-home --shell /bin/bash "$name"
    # Homes must be searchable by the tests, and useradd's default differs between machines.
    if [ "$subids" = with ]; then
        if ! grep -q "^$name:" /etc/subuid 2>/dev/null; then
            local start
            start=$(cat /etc/subuid /etc/subgid 2>/dev/null |
                awk -F: 'BEGIN { e = 100000 } $2 + $3 > e { e = $2 + $3 } END { print e }')
            as_root /usr/sbin/usermod --add-subuids "$start-$((start + 65535))" \
                --add-subgids "$start-$((start + 65535))" "$name"
        fi
    else
        as_root sed -i "/^$name:/d" /etc/subuid /etc/subgid
    fi
}

# as_user NAME COMMAND...: runs it with that user's ids, groups and home, and a small clean environment.
as_user() {
    local name=$1 home; shift
    home=$(getent passwd "$name" | cut -d: -f6)
    if [ "$(id -un)" = "$name" ]; then "$@"; return; fi
    as_root setpriv --reuid "$name" --regid "$(id -g "$name")" --init-groups \
        env -i HOME="$home" USER="$name" LOGNAME="$name" TERM="${TERM:-dumb}" LANG="${LANG:-C.UTF-8}" \
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LAPSTRAKE_TEST_CACHE="$LAPSTRAKE_TEST_CACHE" "$@"
}
