"""The datasets that have a name: what is known of each before it is read."""

from typing import NamedTuple

from dsl_jax.values import one_of


class Facts(NamedTuple):
    """What is known of a dataset.

    title: the name for people.
    num_classes: labels go from 0 to this minus 1.
    image_shape: (H, W, C).
    train_images, test_images: how many its source has.
    may_mirror: whether an image's mirror image is of the same class.
    url: where tensorflow-datasets downloads it from; None: it is inside an installed package.
    class_names: of the labels in order; none: they are their numbers.
    """

    title: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train_images: int
    test_images: int
    may_mirror: bool
    url: str | None = None
    class_names: tuple[str, ...] = ()

    @property
    def is_grey(self) -> bool:
        """Whether its images have one channel."""
        return self.image_shape[-1] == 1


GREY, COLOUR = (28, 28, 1), (32, 32, 3)
CIFAR = "https://www.cs.toronto.edu/~kriz/"
MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

_CLOTHES = "T-shirt trousers pullover dress coat sandal shirt sneaker bag boot"
CLOTHES = tuple(_CLOTHES.split())
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_HUNDRED = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
HUNDRED = tuple(_HUNDRED.split())

CATALOGUE = {
    "mnist": Facts("MNIST", 10, GREY, 60_000, 10_000, False, MNIST),
    "fashion_mnist": Facts("Fashion-MNIST", 10, GREY, 60_000, 10_000, True, FASHION, CLOTHES),
    "cifar10": Facts("CIFAR-10", 10, COLOUR, 50_000, 10_000, True, CIFAR, THINGS),
    "cifar100": Facts("CIFAR-100", 100, COLOUR, 50_000, 10_000, True, CIFAR, HUNDRED),
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
