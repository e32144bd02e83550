#!/bin/sh
# Compiles protos/ into typed stubs: the public contract into the client, the internal one into the server. The public
# .proto itself is copied beside its stubs, so that the client's wheel brings it to those who generate other languages.
# Usage, from the repository's root: sh protos/generate.sh [OUT]
# OUT is the repository unless given; the drift check compiles elsewhere and compares.
# PYTHON names the interpreter of an environment with grpcio-tools and mypy-protobuf.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=${1:-"$root"}
python=${PYTHON:-"$root/.venv/bin/python"}

# compile IMPORT_ROOT PROTO_PATH FILE
compile() {
    mkdir -p "$1"
    # protoc looks for its plug-ins (protoc-gen-mypy) on PATH.
    PATH="$(dirname -- "$(command -v "$python")"):$PATH" "$python" -m grpc_tools.protoc \
        --proto_path="$2" \
        --python_out="$1" --mypy_out="quiet:$1" \
        --grpc_python_out="$1" --mypy_grpc_out="quiet:$1" \
        "$3"
}

compile "$out/clients" "$root/protos" mediround/v1/segmentation.proto
cp "$root/protos/mediround/v1/segmentation.proto" "$out/clients/mediround/v1/segmentation.proto"
# Path = import: the internal package is imported as serving.llm.v1.
compile "$out" "serving/llm/v1=$root/protos/mediround/internal/v1" serving/llm/v1/language.proto
