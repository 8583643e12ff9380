"""Search in a network that is trained already, partly or wholly, and by whatever means.

    python experiments/gallery/pretrained.py

A network is trained by SGD for no, two and ten epochs. In each, the training images that it still
gets wrong are searched: how sure of the right class it is before, how sure search makes it, and how
far the representations had to move for that.
"""

import jax
import numpy as np
from flax import nnx

import dsl_jax as dsl


def main():
    """One line for each state of training."""
    dataset = dsl.load_dataset("digits", num_train=600, validation_size=100)
    images, labels = dataset.normalize(dataset.train.images), dataset.train.labels
    network = dsl.ConvNet(
        dataset.image_shape, 10, widths=(16, 16, 16), normalize_blocks=True, rngs=nnx.Rngs(0)
    )
    network.whiten(images)
    config = dsl.get_preset("smoke", "digits").later_cycles[0].search  # gentle mutations
    for epochs in (0, 2, 10):
        if epochs:
            learning = dsl.LearnConfig(epochs=epochs, batch_size=50, learning_rate=0.05)
            trained = dsl.learn_sgd(jax.random.key(1), network, dataset, learning).network
            stages = dsl.frozen_stages(trained)
        else:
            stages = dsl.frozen_stages(network, images, config, key=jax.random.key(0))
        natural = [images]
        for stage in stages:
            natural.append(stage(natural[-1]))
        wrong = np.flatnonzero(np.argmax(natural[-1], axis=-1) != labels)
        print(f"{epochs} epochs: {len(wrong)} of {len(labels)} images wrong")
        if len(wrong):
            rows = wrong[:32]
            found = dsl.search(jax.random.key(2), stages, images[rows], labels[rows], config)
            before, after = (float(found.fitness[i][:, j].mean()) for i, j in ((0, 0), (-1, -1)))
            moved = [
                float(dsl.measures.cosine_distance(h, x[rows]).mean())
                for h, x in zip(found.representations[:-1], natural[1:-1], strict=True)
            ]
            print(f"  log-likelihood {before:.2f} -> {after:.2f}, cosine distance a layer", moved)


if __name__ == "__main__":
    main()
