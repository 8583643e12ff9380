"""Train networks by searching representations and learning them (arXiv 2509.10973)."""

from dsl_jax import evolution, learning, measures
from dsl_jax.config import (
    CycleConfig,
    LayerSchedule,
    LearnConfig,
    RunConfig,
    SamplerConfig,
    SearchConfig,
    SharedConfig,
)
from dsl_jax.data.dataset import Dataset, Split
from dsl_jax.data.load import load_dataset
from dsl_jax.evolution.image import SearchResult, search_image
from dsl_jax.evolution.images import search
from dsl_jax.evolution.shared import SharedSearch, search_shared
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.learning.evaluation import Evaluation, evaluate, predict
from dsl_jax.learning.refreshed import along_gradient, refreshed
from dsl_jax.learning.result import LearnResult
from dsl_jax.learning.train import learn, learn_sgd
from dsl_jax.networks.adapters import PairNetwork, StagedNetwork
from dsl_jax.networks.check import check_stages
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.frozen import frozen_stages
from dsl_jax.networks.sampler import Sampler
from dsl_jax.presets import get_preset
from dsl_jax.reports.run import run
from dsl_jax.runs.load import LoadedRun, load_run
from dsl_jax.runs.verify import verify_run
from dsl_jax.targets import controls
from dsl_jax.targets.decomposition import decompose
from dsl_jax.targets.fill import search_to_store
from dsl_jax.targets.overlay import Overlay
from dsl_jax.targets.sampling import LearnedSampler, learn_sampler
from dsl_jax.targets.shared_files import load_targets, save_targets
from dsl_jax.targets.store import TargetStore

__all__ = [
    "ConvNet",
    "CycleConfig",
    "Dataset",
    "Evaluation",
    "LayerSchedule",
    "LearnConfig",
    "LearnResult",
    "LearnedSampler",
    "LoadedRun",
    "Overlay",
    "PairNetwork",
    "RunConfig",
    "Sampler",
    "SamplerConfig",
    "SearchConfig",
    "SearchResult",
    "SharedConfig",
    "SharedSearch",
    "SharedTargets",
    "Split",
    "StagedNetwork",
    "TargetStore",
    "along_gradient",
    "check_stages",
    "controls",
    "decompose",
    "evaluate",
    "evolution",
    "frozen_stages",
    "get_preset",
    "learn",
    "learn_sampler",
    "learn_sgd",
    "learning",
    "load_dataset",
    "load_run",
    "load_targets",
    "measures",
    "predict",
    "refreshed",
    "run",
    "save_targets",
    "search",
    "search_image",
    "search_shared",
    "search_to_store",
    "verify_run",
]
