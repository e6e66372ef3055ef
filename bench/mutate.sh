#!/bin/bash
# Makes the N-th change set, in place, for backups of changed data:
#
#   bench/mutate.sh vm DIR N DONOR     rewrites 3.0 % of DIR/disk.img, scattered, with pieces of DONOR
#   bench/mutate.sh pgdata DIR N       starts the PostgreSQL cluster in DIR, runs 6,000 pgbench transactions and
#                                      about 900 updates of jsonb values, and stops it again
#   bench/mutate.sh tree DIR N         edits 1.5 % of the files, removes 0.4 %, adds 0.4 %
#
# N seeds the change set. The image's and the tree's are the same bytes each time; PostgreSQL's differs in times and log only.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
source "$here/pg.sh"

set_name=$1 dir=$2 number=$3
case $set_name in
vm) python3 "$here/content.py" edit-image "$dir/disk.img" "$4" "$number" ;;
tree) python3 "$here/content.py" edit-tree "$dir" "$number" ;;
pgdata)
    pg_start "$dir"
    trap 'pg_stop "$dir"' EXIT
    pg_run pgbench -n -c 1 -t 6000 --random-seed="$number" bench >/dev/null 2>&1
    pg_run psql -qX -v ON_ERROR_STOP=1 bench -c "UPDATE documents
        SET attrs = attrs || jsonb_build_object('views', $number, 'revised', md5(id::text || '/$number'))
        WHERE id % 100 = $number % 100"
    ;;
*) sed -n '2,/^set/s/^# \?//p' "$0"; exit 2 ;;
esac
