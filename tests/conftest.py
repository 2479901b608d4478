"""One environment for every test: eight simulated devices, a compile cache, no silent broadcasting."""

import importlib.metadata
import os
import pathlib
import tempfile

os.environ.setdefault(
    "NPROC", "16"
)  # a larger CPU thread pool; without it 8 simulated devices on 2 cores deadlock
# Most of a run is compilation, and optimization a good part of that; nothing here runs long enough to gain.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    # A fifth of the time each; other versions may not know them, and abort.
    + (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        " --xla_cpu_enable_concurrency_optimized_scheduler=false"
        if importlib.metadata.version("jaxlib").startswith("0.10.")
        else ""
    )
)

import jax
import pytest
from jax._src.lru_cache import LRUCache

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent / ".cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # whose directory enters every key


def put(cache, key, value):
    """Whole or not at all: the workers share the cache, and jax's own writing is read half done."""
    with tempfile.NamedTemporaryFile(dir=cache.path, delete=False) as file:
        file.write(value)
    os.replace(file.name, cache.path / f"{key}-cache")


LRUCache.put = put


# The longest, of few tests each, by which xdist would sort them to the end, where one worker waits.
LONG = (
    "test_tutorials",
    "test_readme",
    "test_faults",
    "test_parallel",
    "test_tolerance",
    "test_difference",
    "test_classifier",
)


def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: a worker waits for the processes of its tests and for the disk."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else None


def pytest_collection_modifyitems(items):
    """Long files first, so that the workers end together."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs are kept for as long as their functions, which are the library's own.

    Each takes several maps of memory, of which Linux allows a process 65,530: beyond, XLA dies of it.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def axes():
    """To draw on; what was drawn is rendered at the end."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    yield axes
    figure.canvas.draw()
    pyplot.close(figure)


@pytest.fixture
def float64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield
