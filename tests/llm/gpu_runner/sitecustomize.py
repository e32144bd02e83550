"""vLLM's CPU build with what a GPU runs: model runner V2, steps scheduled ahead. A Python imports it at its start.

V2 wants Triton, and the CPU build a Triton that has a backend named "cpu". Triton's interpreter
(TRITON_INTERPRET=1) needs nothing of a backend but its name, so that is all there is of this one.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from types import SimpleNamespace


class Changing(MetaPathFinder):
    """Hands a module to the change that is named after it, once it is imported."""

    def __init__(self, changes):
        self._changes = changes

    def find_spec(self, fullname, path=None, target=None):
        change = self._changes.pop(fullname, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def changed(module):
            execute(module)
            change(module)

        spec.loader.exec_module = changed
        return spec


def name_a_backend(module):
    module.backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)


def schedule_ahead(module):
    """As on a GPU, where it is vLLM's default; for a CPU vLLM turns it off."""
    for_a_cpu = module.CpuPlatform.check_and_update_config

    def check(vllm_config):
        for_a_cpu(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    module.CpuPlatform.check_and_update_config = staticmethod(check)


sys.meta_path.insert(0, Changing({"triton.backends": name_a_backend, "vllm.platforms.cpu": schedule_ahead}))
