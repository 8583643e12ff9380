"""The datasets that have a name: what is known of each before it is read."""

from typing import NamedTuple

from dsl_jax.config import one_of


class Facts(NamedTuple):
    """What is known of a dataset.

    title: the name for people.
    num_classes: labels go from 0 to this less 1.
    image_shape: (H, W, C).
    train_images, test_images: how many its source has.
    may_mirror: whether an image's mirror image is of the same class.
    url: where tensorflow-datasets downloads it from; None: it is inside an installed package.
    """

    title: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train_images: int
    test_images: int
    may_mirror: bool
    url: str | None = None

    @property
    def is_grey(self) -> bool:
        """Whether its images have one channel."""
        return self.image_shape[-1] == 1


GREY, COLOUR = (28, 28, 1), (32, 32, 3)
CIFAR = "https://www.cs.toronto.edu/~kriz/"
MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

CATALOGUE = {
    "mnist": Facts("MNIST", 10, GREY, 60_000, 10_000, False, MNIST),
    "fashion_mnist": Facts("Fashion-MNIST", 10, GREY, 60_000, 10_000, True, FASHION),
    "cifar10": Facts("CIFAR-10", 10, COLOUR, 50_000, 10_000, True, CIFAR),
    "cifar100": Facts("CIFAR-100", 100, COLOUR, 50_000, 10_000, True, CIFAR),
    "mnist_5k": Facts("MNIST, 5,000-image sample", 10, GREY, 4_000, 1_000, False),
    "digits": Facts("scikit-learn digits, resized to 28x28", 10, GREY, 1_297, 500, False),
}


def facts(name: str) -> Facts:
    """What is known of a dataset.

    Raises:
      ValueError: the name is unknown; the message lists those that there are.
    """
    one_of("dataset", name, tuple(CATALOGUE))
    return CATALOGUE[name]
