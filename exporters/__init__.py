"""From a checkpoint in the published layout to a bundle that serving can load."""

import serving  # noqa: F401  # silences ONNX Runtime, which exporters import, too
