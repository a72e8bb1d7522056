#!/bin/sh
# Write .env from .env.example, with random passwords and tokens. An existing .env is not touched.
#
#   docker/make_env.sh [you@example.com]
set -eu
here=$(dirname "$0")
example="$here/../.env.example"
target="${ENV_FILE:-$here/../.env}"
if [ -e "$target" ]; then
    echo "$target is there already; delete it to make a new one" >&2
    exit 1
fi
random() { od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
while IFS= read -r line; do
    case "$line" in
        STUDIO_EMAIL=*) echo "STUDIO_EMAIL=${1:-${line#*=}}" ;;
        [A-Z]*=) echo "$line$(random 20)" ;;
        *) echo "$line" ;;
    esac
done < "$example" > "$target"
echo "wrote $target; the login of Label Studio is STUDIO_EMAIL and STUDIO_PASSWORD there"
