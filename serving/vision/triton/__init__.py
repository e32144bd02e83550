"""The vision half on a Triton server.

Begin with ``engine``; below it ``connection`` keeps the server usable, ``failures`` reads its errors,
``client`` makes the calls. tritonclient may be imported by ``client`` alone.
"""
