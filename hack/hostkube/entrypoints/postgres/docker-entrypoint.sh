#!/usr/bin/env bash
# The contract of the official postgres image, on Debian's packages: an empty PGDATA is initialised from POSTGRES_USER,
# POSTGRES_PASSWORD, POSTGRES_DB (each also as NAME_FILE), POSTGRES_INITDB_ARGS and POSTGRES_HOST_AUTH_METHOD, then
# /docker-entrypoint-initdb.d runs once. Root steps down to the postgres user; any other user id works as it is.
set -Eeuo pipefail

# value_of NAME DEFAULT: NAME, or the content of the file that NAME_FILE points at, or DEFAULT.
value_of() {
    local name=$1 fallback=${2:-} file_name=$1_FILE
    if [[ -n ${!name:-} && -n ${!file_name:-} ]]; then
        echo "error: both $name and $file_name are set, and only one may be" >&2
        exit 1
    fi
    if [[ -n ${!file_name:-} ]]; then
        printf '%s' "$(<"${!file_name}")"
    else
        printf '%s' "${!name:-$fallback}"
    fi
}

# initdb and psql look up the name of the user they run as; a user id without an entry gets one by libnss-wrapper.
borrow_user_name() {
    if getent passwd "$(id -u)" >/dev/null; then
        return
    fi
    local folder
    folder=$(mktemp -d /tmp/nss.XXXXXX)
    printf 'postgres:x:%s:%s:PostgreSQL:%s:/bin/false\n' "$(id -u)" "$(id -g)" "$PGDATA" >"$folder/passwd"
    printf 'postgres:x:%s:\n' "$(id -g)" >"$folder/group"
    export NSS_WRAPPER_PASSWD=$folder/passwd NSS_WRAPPER_GROUP=$folder/group LD_PRELOAD=libnss_wrapper.so
}

step_down_from_root() {
    mkdir -p "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    chmod 3777 /var/run/postgresql
    find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown postgres:postgres '{}' +
    exec setpriv --reuid=postgres --regid=postgres --init-groups "${BASH_SOURCE[0]}" "$@"
}

initialise() {
    local user password database method
    user=$(value_of POSTGRES_USER postgres)
    password=$(value_of POSTGRES_PASSWORD)
    database=$(value_of POSTGRES_DB "$user")
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [[ -z $password && $method != trust ]]; then
        echo 'error: the database is uninitialised and POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) is not set' >&2
        exit 1
    fi

    borrow_user_name
    # Word splitting is wanted: POSTGRES_INITDB_ARGS holds several options.
    # shellcheck disable=SC2086
    initdb --username="$user" --pwfile=<(printf '%s\n' "$password") ${POSTGRES_INITDB_ARGS:-}
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

    # Only the socket listens while the scripts run, so that nobody connects to a half-made database.
    PGUSER=$user pg_ctl -D "$PGDATA" -w start -o "-c listen_addresses='' -p ${PGPORT:-5432}"
    export PGHOST=/var/run/postgresql PGUSER=$user PGPASSWORD=$password
    if [[ $database != postgres ]]; then
        PGDATABASE=postgres psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc --set db="$database" <<<'CREATE DATABASE :"db";'
    fi
    run_initdb_scripts "$database"
    pg_ctl -D "$PGDATA" -m fast -w stop
    unset PGHOST PGUSER PGPASSWORD LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
    echo 'PostgreSQL init process complete; ready for start up.'
}

run_initdb_scripts() {
    local script query=(psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc --dbname "$1")
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
            *.sh)
                if [[ -x $script ]]; then
                    "$script"
                else
                    # shellcheck disable=SC1090
                    . "$script"
                fi
                ;;
            *.sql) "${query[@]}" -f "$script" ;;
            *.sql.gz) gunzip -c "$script" | "${query[@]}" ;;
            *.sql.xz) xzcat "$script" | "${query[@]}" ;;
            *.sql.zst) zstd -dc "$script" | "${query[@]}" ;;
        esac
    done
}

if [[ ${1:-postgres} == -* ]]; then
    set -- postgres "$@"
fi

if [[ ${1:-} == postgres ]]; then
    for argument in "$@"; do
        case $argument in
            -'?' | --help | --describe-config | -V | --version) exec "$@" ;;
        esac
    done
    if [[ $(id -u) == 0 ]]; then
        step_down_from_root "$@"
    fi
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA" 2>/dev/null || true # a volume's root may belong to another user
    if [[ -s $PGDATA/PG_VERSION ]]; then
        echo 'PostgreSQL Database directory appears to contain a database; Skipping initialization'
    else
        initialise
    fi
fi

exec "$@"
