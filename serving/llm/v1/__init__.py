"""The internal wire: stubs generated from ``protos/mediround/internal/v1`` by ``protos/generate.sh``."""
