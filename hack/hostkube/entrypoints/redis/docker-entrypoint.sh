#!/bin/sh
# The contract of the official redis image: a first argument that is an option or a config file goes to redis-server,
# root steps down to the redis user, and protected mode is off unless somebody asked for it.
set -eu

case "${1:-redis-server}" in
    -* | *.conf) set -- redis-server "$@" ;;
esac

if [ "$1" = redis-server ]; then
    if [ "$(id -u)" = 0 ]; then
        find /data ! -user redis -exec chown redis:redis '{}' +
        exec setpriv --reuid=redis --regid=redis --init-groups "$0" "$@"
    fi
    umask 0077

    # The official build has another compiled-in default: in a container "protected" would refuse every other pod.
    asked=no
    for argument in "$@"; do
        case "$argument" in
            --protected-mode) asked=yes ;;
            *.conf) if grep -qsi '^[[:space:]]*protected-mode' "$argument"; then asked=yes; fi ;;
        esac
    done
    if [ "$asked" = no ]; then
        set -- "$@" --protected-mode no
    fi
fi

exec "$@"
