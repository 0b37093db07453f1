#!/bin/sh
# Installs, through apt, the programs of programs.txt that are missing; "slow" or "bench" as an argument: those too that are
# marked so.
set -eu
here=$(dirname "$0")
packages=
while read -r program package mark; do
	case $program in '' | '#'*) continue ;; esac
	if [ -n "$mark" ] && [ "$mark" != "${1:-}" ]; then continue; fi
	command -v "$program" >/dev/null || [ -e "$program" ] || packages="$packages $package"
done <"$here/programs.txt"
[ -n "$packages" ] || exit 0

# shellcheck disable=SC2086  # a list of words
command="apt-get install -y --no-install-recommends$packages"
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "programs that tests need are missing; as root on Debian or Ubuntu: $command" >&2
	exit 0 # the tests themselves say it once more: skipped, or failed with CI=true
fi
echo "installing$packages"
# A service must not start by itself: the tests start their own, on ports of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive $command -qq >/dev/null
