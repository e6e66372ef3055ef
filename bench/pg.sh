# Sourced: a PostgreSQL server for the moments in which data is made. It listens on a socket of its own only.

pg_bin=${PG_BIN:-/usr/lib/postgresql/15/bin}
[ -x "$pg_bin/postgres" ] || { echo "no PostgreSQL 15 in $pg_bin (package postgresql-15; or set PG_BIN)" >&2; exit 1; }

# PostgreSQL refuses to run as root.
pg_run() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && runuser -u postgres -- env PGHOST="$pg_socket" PGUSER=postgres "PATH=$pg_bin:$PATH" "$@")
    else
        PGHOST=$pg_socket PGUSER=postgres PATH=$pg_bin:$PATH "$@"
    fi
}

# Without fsync and autovacuum: the first costs time, the second changes the data at moments of its own.
pg_start() {
    pg_socket=$(mktemp -d)
    chmod 0777 "$pg_socket"
    pg_run pg_ctl start -s -w -D "$1" -l "$pg_socket/log" \
        -o "-c listen_addresses= -c unix_socket_directories=$pg_socket -c fsync=off -c autovacuum=off" ||
        { cat "$pg_socket/log" >&2; return 1; }
}

pg_stop() {
    pg_run pg_ctl stop -s -w -m fast -D "$1"
    rm -r "$pg_socket"
}
