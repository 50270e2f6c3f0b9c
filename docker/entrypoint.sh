#!/bin/sh
# Runs the command it is given, in its own place, so that signals reach it.
# Any user id may be given (docker run --user); one without a home still needs a folder that it can write.
[ -w "${HOME:-/}" ] || export HOME=/tmp
[ $# -gt 0 ] || set -- enc-caffe --help
exec "$@"
