"""The wire: stubs generated from ``protos/mediround/v1`` by ``protos/generate.sh``."""
