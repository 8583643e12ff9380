"""A report in which nothing is left out."""

from dsl_jax.reports.pages import Report, Row, Table


def full_report():
    return Report(
        title="A run",
        notices=("mnist was replaced by mnist_5k",),
        finding="Searched targets are not distinguishable from SGD's.",
        command="python experiments/main.py --dataset=mnist",
        summary=(("dataset", "mnist_5k"), ("candidates", 4800)),
        rows=(
            Row("all layers", "regression", 2, (0.96, 0.97, 0.98), (0.95, 0.95, 0.95), (), 75.4),
            Row(
                "SGD",
                "",
                None,
                (0.98765,),
                (0.9,),
                (0.05126,),
                7384.0,
                is_reference=True,
                interval=(0.9854, 0.9897),
            ),
        ),
        tables=(
            Table("What it is made of", ("part", "share"), (("block 0", "12.5%"),), "Two parts."),
        ),
        figures=(("Accuracy of every row", "accuracy plot.png"),),
        timings=(("search", 59.94), ("learning", 59.97)),
        settings={"search": {"layers": [{"generations": 20}]}, "name": "smoke"},
        environment={"jax": "0.10.2"},
    )
