"""Strict settings for every test: warnings are errors, no silent broadcasting, eight devices."""

import collections
import gc
import importlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["DSL_JAX_CACHE"] = tempfile.mkdtemp(prefix="dsl_jax_test_cache_")
# A program that one test has compiled, the others need not, nor the processes that they start, nor
# pytest's workers, which inherit the folder of the process that starts them.
os.environ.setdefault("DSL_JAX_TEST_PROGRAMS", os.path.join(os.environ["DSL_JAX_CACHE"], "xla"))
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["DSL_JAX_TEST_PROGRAMS"]
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

# A shell's background job ignores Ctrl-C, and so would what tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE = os.environ["DSL_JAX_CACHE"]  # of this process, whose end removes it
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure():
    shutil.rmtree(CACHE, ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Files with many slow tests first, as a file is one process's: so both end at about a time."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_file():
    """Frees each file's compiled programs: each costs memory maps, of which Linux grants 65,530."""
    yield
    jax.clear_caches()
    gc.collect()


# What is tested here is files, processes and commands, and which candidates are drawn and chosen.
# Bits and rounding are tested elsewhere, with programs that XLA optimises as for a user; compiling
# those is most of a test's time.
BARELY_OPTIMIZED = {
    *("end_to_end", "experiments", "pages", "reports", "runs"),
    *(f"test_{name}.py" for name in ("fitness_noise", "near", "own_fitness", "strategies")),
    *("test_refreshed.py", "test_shared.py"),
}
FOR_CHIPS = {"test_accelerators.py"}


@pytest.fixture(scope="module", autouse=True)
def optimization(request):
    """How much XLA optimises the programs of a file's tests, and of the processes they start."""
    names = {request.path.parent.name, request.path.name}
    if not names & BARELY_OPTIMIZED or names & FOR_CHIPS:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A complete store of `toy_targets`, not to be changed."""
    from toy_targets import run

    path = tmp_path_factory.mktemp("targets") / "undisturbed"
    run(path)
    return path


@pytest.fixture
def folder(undisturbed, tmp_path):
    """A copy of the complete store."""
    return Path(shutil.copytree(undisturbed, tmp_path / "copy"))


@pytest.fixture
def searched(monkeypatch):
    """The ids that each call of `search` was given."""
    from dsl_jax.targets import fill

    search, calls = fill.search, []

    def recorded(*arguments, ids, **options):
        calls.append(ids.tolist())
        return search(*arguments, ids=ids, **options)

    monkeypatch.setattr(fill, "search", recorded)
    return calls


@pytest.fixture(scope="module")
def experiment():
    """From the name of a script in experiments/ to a function that runs it as a command."""
    from absl import flags
    from common import command_line

    def load(name):
        module = importlib.import_module(name)
        work = module.run_all

        def run(*arguments):
            """Runs the command; its exit code."""
            for flag in flags.FLAGS.get_key_flags_for_module(command_line):
                flag.unparse()
            for flag in flags.FLAGS.get_key_flags_for_module(module):
                flag.unparse()
            try:
                command_line.parse_flags([f"{name}.py", *arguments])
                command_line.guarded(work)
            except SystemExit as stop:
                return stop.code
            return 0

        return run

    cache = jax.config.jax_compilation_cache_dir
    yield load
    jax.config.update("jax_compilation_cache_dir", cache)


@pytest.fixture
def left_over_tasks():
    """Of a write or a read that fails orbax leaves tasks: they end with the test, which may ignore
    their warnings, and not with the session."""
    yield
    gc.collect()


@pytest.fixture
def one_device(monkeypatch):
    """Each of eight devices would compile the search; `test_mesh` has them."""
    from dsl_jax import devices, pipeline

    monkeypatch.setattr(devices, "device_mesh", lambda *_: None)
    monkeypatch.setattr(pipeline, "device_mesh", lambda *_: None)


@pytest.fixture
def no_test_image(monkeypatch):
    """Reading a test image is an error."""
    from common import sweep_points

    from dsl_jax.runs import comparison

    def never(*_, **__):
        raise AssertionError("the test split is read once, at the end of a run")

    for module in (comparison, sweep_points):
        monkeypatch.setattr(module, "evaluation_and_predictions", never)
    monkeypatch.setattr(comparison, "linear_probe", never)
