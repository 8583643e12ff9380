"""Train networks by searching representations and learning them (arXiv 2509.10973)."""

from dsl_jax import evolution, learning, measures
from dsl_jax.config import CycleConfig, LayerSchedule, LearnConfig, Preset, SearchConfig
from dsl_jax.datasets import Dataset, Split, load_dataset
from dsl_jax.evaluation import Evaluation, evaluate
from dsl_jax.image_search import SearchResult, search_image
from dsl_jax.learning import LearnResult, learn, learn_sgd
from dsl_jax.models import PairNetwork, StagedNetwork
from dsl_jax.network import ConvNet
from dsl_jax.overlay import Overlay
from dsl_jax.presets import get_preset
from dsl_jax.runs import LoadedRun, load_run
from dsl_jax.search import search
from dsl_jax.stage_checks import check_stages
from dsl_jax.stages import frozen_stages
from dsl_jax.targets import TargetStore, search_to_store

__all__ = [
    "ConvNet",
    "CycleConfig",
    "Dataset",
    "Evaluation",
    "LayerSchedule",
    "LearnConfig",
    "LearnResult",
    "LoadedRun",
    "Overlay",
    "PairNetwork",
    "Preset",
    "SearchConfig",
    "SearchResult",
    "Split",
    "StagedNetwork",
    "TargetStore",
    "check_stages",
    "evaluate",
    "evolution",
    "frozen_stages",
    "get_preset",
    "learn",
    "learn_sgd",
    "learning",
    "load_dataset",
    "load_run",
    "measures",
    "search",
    "search_image",
    "search_to_store",
]
