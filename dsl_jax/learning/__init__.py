"""Learning (paper 4.2, A.3): one training loop for searched targets and for SGD, and evaluation."""

from dsl_jax.learning.objectives import head_loss, regression_loss
from dsl_jax.learning.result import LearnResult
from dsl_jax.learning.train import learn, learn_sgd

__all__ = ["LearnResult", "head_loss", "learn", "learn_sgd", "regression_loss"]
