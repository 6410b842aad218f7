#!/bin/sh
set -e
if [ "$1" = cache-server ] && [ "$(id -u)" = 0 ]; then exec stepdown cache "$0" "$@"; fi
exec "$@"
