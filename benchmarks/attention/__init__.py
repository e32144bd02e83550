"""The image encoder's attention in its forms: time, memory, and what TensorRT makes of each."""
