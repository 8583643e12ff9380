"""The measures of diversity against the one matrix product that they cannot do without.

pip install -e . && python benchmarks/measures.py
"""

import jax
import timing
from absl import app, flags

from dsl_jax import measures

_NUMBER = flags.DEFINE_integer("number", 2000, "Representations.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each piece is timed; medians count.")
_JSON = flags.DEFINE_string("json", None, "Where the results go.")

BLOCK_0 = {"64-64-64, 28x28": (13, 13, 64), "256-256-256, 32x32": (15, 15, 256)}


def main(_) -> None:
    rows = []
    for name, shape in BLOCK_0.items():
        reps = jax.random.normal(jax.random.key(0), (_NUMBER.value, *shape))
        labels = jax.random.randint(jax.random.key(1), (_NUMBER.value,), 0, 10)
        product = jax.jit(lambda x: x.reshape(len(x), -1) @ x.reshape(len(x), -1).T)
        gram, solutions = jax.jit(measures.cosine_gram), jax.jit(measures.effective_solutions)
        within = jax.jit(measures.within_class_entropy, static_argnums=2)
        times = timing.side_by_side(
            {
                "product": lambda: product(reps),
                "cosine_gram": lambda: gram(reps),
                "effective_solutions": lambda: solutions(reps),
                "within_class_entropy": lambda: within(reps, labels, 10),
            },
            _ROUNDS.value,
        )
        for measure in ("cosine_gram", "effective_solutions", "within_class_entropy"):
            rows.append(
                {
                    "what": f"{measure} of {_NUMBER.value:,} of block 0, {name}",
                    "seconds": times[measure],
                    "the product alone, s": times["product"],
                    "times the product": times[measure] / times["product"],
                }
            )
    timing.report(rows, timing.machine("numpy"), _JSON.value)


if __name__ == "__main__":
    app.run(main)
