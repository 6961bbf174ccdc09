#!/bin/sh
# Makes random passwords and a token in a folder: deploy/secrets, which deploy/compose.yaml reads, or the one given. Those that exist stay.
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
for name in ray_token redis_password postgres_password; do
    test -s "$folder/$name" && continue
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
    # The containers' users must read it; the folder is closed to others.
    chmod 444 "$folder/$name"
done
