"""What `full_data.py` trains: its methods, what each needs, and what it is compared with."""

from typing import NamedTuple

from common import sweep_rows

SGD = ("sgd_g1", "sgd_g2", "sgd_g3")
CROSS_FITTED = ("cross_fitted", "cross_fitted_permuted")
SECOND = (  # these need a second search of every image
    "again",
    "again_permuted",
    "again_natural",
    "again_class_part",
    "again_channel_code",
    *CROSS_FITTED,
)
STARTED = ("started", "started_permuted")  # and these one that begins with a sampler's proposals
STORED = ("searched", "permuted", *SECOND, *STARTED)  # these need a search of every image
PER_CLASS = ("per_class", "per_class_code")  # these need a search of every class
SHARED = ("class_part", "per_class", "channel_code", "per_class_code", "sampler")
# What a method is compared with: the first of these that was trained.
CONTROLS = {
    "searched": ("permuted",),
    "class_part": ("channel_code",),
    "per_class": ("per_class_code", "channel_code"),  # the first with a method's own logits
    "sampler": ("class_part",),
    "started": ("started_permuted",),
    "again": ("again_permuted",),
    "cross_fitted": ("cross_fitted_permuted",),
}


class Method(NamedTuple):
    """What a point trains: its name, and "" or the variant of learning."""

    name: str
    variant: str

    @property
    def title(self) -> str:
        """As tables and figures call it."""
        variant = self.variant.replace("_", " ")
        return f"{method_title(self.name)}, {variant}" if variant else method_title(self.name)


def method_title(name: str) -> str:
    """A method, without its variant."""
    return sweep_rows.training_name(name) if name in SGD else name.replace("_", " ")
