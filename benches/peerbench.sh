#!/bin/sh
# Starts the gateway for the harness: an HMAC secret is named differently from a key set.
set -eu
case "$PB_ALG" in
    HS256) sed -i "s|jwks_file: .*|secret: { file: \"$PB_KEY\" } }|" "$1" ;;
esac
exec "$(dirname "$0")/../target/release/portcullis" run --config "$1"
