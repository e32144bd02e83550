"""A dialogue on one image, cell by cell: VS Code, PyCharm and Jupytext open this file as a notebook. As a program:

python examples/notebook.py --server 127.0.0.1:50051 --image slice.png --out overlay.png
"""

# %% Connect
import argparse
from pathlib import Path

from PIL import Image

from mediround import Client

parser = argparse.ArgumentParser()
parser.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT")
parser.add_argument("--image", type=Path, default=Path("models/mediround-lite/slices/slice_z076.png"))
parser.add_argument("--out", type=Path, default=Path("overlay.png"))
given, _ = parser.parse_known_args()  # a notebook's kernel has arguments of its own

client = Client(given.server)
served = client.describe()
print(f"{served.model_name} {served.model_version}: {served.intended_use}")

# %% Open the image and ask
session = client.open(given.image)
first = session.ask("Segment the left thalamus.")
print(first)

# %% Ask about that mask
second = session.ask("Segment the same structure on the other side.", refer_to=first)
print(second)

# %% Look: the mask tinted, what the question refers to outlined; a cell that ends in `second` shows the same
Image.fromarray(second.overlay(given.image)).save(given.out)

# %% Close
session.close()
client.close()
