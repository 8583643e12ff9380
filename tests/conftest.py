"""Strict settings for every test: warnings are errors, no silent broadcasting, eight devices."""

import os
import tempfile

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["DSL_JAX_CACHE"] = tempfile.mkdtemp(prefix="dsl_jax_test_cache_")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
