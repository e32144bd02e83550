#!/bin/sh
# Compiles protos/ into typed stubs. Usage, from the repository's root: sh clients/generate.sh [OUT]
# OUT is clients/ unless given; the drift check compiles elsewhere and compares.
# PYTHON names the interpreter of an environment with grpcio-tools and mypy-protobuf.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=${1:-"$root/clients"}
python=${PYTHON:-"$root/.venv/bin/python"}
mkdir -p "$out"
# protoc looks for its plug-ins (protoc-gen-mypy) on PATH.
PATH="$(dirname -- "$(command -v "$python")"):$PATH" "$python" -m grpc_tools.protoc \
    --proto_path="$root/protos" \
    --python_out="$out" --mypy_out="quiet:$out" \
    --grpc_python_out="$out" --mypy_grpc_out="quiet:$out" \
    mediround/v1/segmentation.proto
