"""Augmentation of a batch, on the device (paper 4.2, A.3)."""

import functools

import jax
import jax.numpy as jnp


def augment(
    key: jax.Array, images: jax.Array, *, padding: int = 2, flip: bool = False
) -> jax.Array:
    """Random crop after reflect padding, and mirroring with probability 1/2 (paper 4.2, A.3).

    Pure; to be jitted with `padding` and `flip` static. Image i draws from `fold_in(key, i)`: what
    happens to it depends neither on its neighbours nor on their number.

    Args:
      images: [B, H, W, C], any dtype.
      padding: pixels added on each side before the crop of H x W.
      flip: mirror left and right; only where a mirror image is of the same class.

    Returns:
      [B, H, W, C], the same dtype.

    Raises:
      ValueError: images of another rank, or a padding that is negative or not below H and W.
    """
    if images.ndim != 4:
        raise ValueError(f"images are {images.shape}: augment takes [B, H, W, C]")
    _, height, width, _ = images.shape
    if not 0 <= padding < min(height, width):
        raise ValueError(
            f"padding is {padding}: it must be between 0 and {min(height, width) - 1} "
            f"for images of {height}x{width}"
        )
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(images)))
    return jax.vmap(functools.partial(_augment_image, padding=padding, flip=flip))(keys, images)


def _augment_image(key: jax.Array, image: jax.Array, *, padding: int, flip: bool) -> jax.Array:
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1, jnp.int32)
    image = jax.lax.dynamic_slice(padded, (row, column, jnp.int32(0)), image.shape)
    if flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    return image
