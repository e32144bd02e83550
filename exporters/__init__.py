"""From a checkpoint in the published layout to a bundle that serving can load.

Begin with ``bundle``; ``__main__`` lists the commands. Serving's classes may be imported; nothing that
serves imports this.
"""

import serving  # noqa: F401  # silences ONNX Runtime, which exporters import, too
