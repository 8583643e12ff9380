"""The operators against slow twins in NumPy, and the statistics of their noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_jax import keys
from dsl_jax.evolution import operators
from dsl_jax.evolution.noise import noise_basis

KEY = keys.philox_key(jax.random.key(0))


def slow_average_pool(h, passes):
    """3x3 average pooling, written as loops over a zero-padded copy; the divisor is always 9."""
    height, width, channels = h.shape
    for _ in range(passes):
        out = np.zeros_like(h)
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    total = 0.0
                    for di in (-1, 0, 1):
                        for dj in (-1, 0, 1):
                            if 0 <= i + di < height and 0 <= j + dj < width:
                                total += h[i + di, j + dj, c]
                    out[i, j, c] = total / 9
        h = out
    return h


def slow_covariance(height, width, passes):
    """Covariance over positions of white noise after smoothing, column by column."""
    columns = []
    for position in range(height * width):
        unit = np.zeros((height * width, 1))
        unit[position] = 1
        columns.append(slow_average_pool(unit.reshape(height, width, 1), passes).ravel())
    matrix = np.array(columns).T
    return matrix @ matrix.T


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 4))
def test_smoothing_is_repeated_average_pooling(height, width, passes):
    h = np.random.default_rng(0).normal(size=(height, width, 2))
    with jax.enable_x64(True):
        ours = operators.smooth(jnp.asarray(h), passes)
    np.testing.assert_allclose(ours, slow_average_pool(h, passes), atol=1e-12)


def test_a_constant_fades_at_the_border_because_padding_is_counted():
    once = operators.smooth(jnp.ones((4, 4, 1)), 1)
    assert once[0, 0, 0] == pytest.approx(4 / 9)
    assert once[0, 1, 0] == pytest.approx(6 / 9)
    assert once[1, 1, 0] == pytest.approx(1)


def test_tokens_are_smoothed_along_tokens_alone_and_vectors_not_at_all():
    tokens = jnp.zeros((5, 3)).at[2, 1].set(3.0)
    smoothed = operators.smooth(tokens, 1)
    np.testing.assert_allclose(smoothed[:, 1], [0, 1, 1, 1, 0], atol=1e-6)
    assert not smoothed[:, (0, 2)].any()
    vector = jnp.arange(4.0)
    np.testing.assert_array_equal(operators.smooth(vector, 3), vector)


def test_normalize_acts_on_all_axes_together():
    h = np.random.default_rng(1).normal(3, [1, 10, 100], size=(4, 5, 3))
    flat = h.ravel()
    expected = (h - flat.mean()) / np.sqrt(flat.var() + 1e-5)
    np.testing.assert_allclose(
        operators.normalize(jnp.asarray(h, jnp.float32)), expected, rtol=2e-5, atol=2e-5
    )


def test_spread_is_over_space_and_keeps_channels_apart():
    h = np.random.default_rng(2).normal(size=(4, 5, 3))
    ours = operators.spread(jnp.asarray(h, jnp.float32))
    assert ours.shape == (1, 1, 3)
    np.testing.assert_allclose(ours[0, 0], [h[:, :, c].std() for c in range(3)], rtol=1e-5)
    assert operators.spread(jnp.arange(5.0)).shape == (1,)
    assert float(operators.spread(jnp.arange(5.0))[0]) == pytest.approx(np.sqrt(2))


def draws(number, shape, sigma, **options):
    keys = jax.random.split(KEY, number)
    zero = jnp.zeros(shape)

    def draw(key):
        return operators.mutate(key, zero, jnp.asarray(sigma), **options)

    return np.asarray(jax.vmap(draw)(keys))


def test_noise_has_strength_times_sigma_in_each_channel():
    sigma = np.array([0.5, 2.0], np.float32).reshape(1, 1, 2)
    noise = draws(4000, (3, 3, 2), sigma, strength=0.3)
    np.testing.assert_allclose(
        noise.std(axis=0), np.broadcast_to(0.3 * sigma, (3, 3, 2)), rtol=0.06
    )
    assert abs(noise.mean()) < 0.01


@pytest.mark.parametrize(
    ("shape", "passes", "truncation"), [((5, 4, 1), 2, 0.0), ((5, 5, 1), 5, 1e-3)]
)
def test_smoothed_noise_has_the_covariance_of_smoothed_white_noise(shape, passes, truncation):
    sigma = np.ones((1, 1, 1), np.float32)
    noise = draws(
        60_000, shape, sigma, strength=1.0, smoothing_passes=passes, truncation=truncation
    )
    flat = noise.reshape(len(noise), -1)
    expected = slow_covariance(*shape[:2], passes)
    # A covariance estimated from n draws is off by about variance / sqrt(n); five of these.
    np.testing.assert_allclose(
        flat.T @ flat / len(flat), expected, atol=5 * expected.max() / np.sqrt(len(flat)) * 1.5
    )


def test_truncation_loses_no_more_variance_than_it_says():
    for size, passes in ((15, 5), (13, 5), (7, 1), (3, 1)):
        expected = slow_covariance(size, size, passes) if size < 8 else None
        exact = noise_basis((size, size), passes, truncation=0.0)
        short = noise_basis((size, size), passes, truncation=1e-3)
        assert short.shape[1] < exact.shape[1] or size == 3
        lost = 1 - np.square(short).sum() / np.square(exact).sum()
        assert 0 <= lost <= 1e-3
        if expected is not None:
            np.testing.assert_allclose(exact @ exact.T, expected, atol=1e-6)
    assert noise_basis((15, 15), 5, truncation=1e-3).shape[1] <= 64


def test_rescaled_noise_has_its_strength_everywhere():
    sigma = np.ones((1, 1, 1), np.float32)
    noise = draws(
        20_000,
        (6, 6, 1),
        sigma,
        strength=0.5,
        smoothing_passes=5,
        smoothing="noise_rescaled",
        truncation=0.0,
    )
    np.testing.assert_allclose(noise.std(axis=0), 0.5, rtol=0.05)


def test_the_two_readings_of_smoothing_differ_by_what_happens_to_the_child():
    child = jax.random.normal(jax.random.key(3), (5, 5, 2))
    sigma = operators.spread(child)
    options = {"strength": 0.2, "smoothing_passes": 2}
    noise_only = operators.mutate(KEY, child, sigma, **options) - child
    whole = operators.mutate(KEY, child, sigma, smoothing="child", **options)
    np.testing.assert_allclose(
        whole - noise_only, slow_average_pool(np.asarray(child), 2), atol=1e-5
    )


def test_children_are_means_of_two_parents_that_may_be_the_same():
    parents = jnp.asarray(np.random.default_rng(4).normal(size=(3, 4, 4, 2)), jnp.float32)
    children = np.asarray(operators.reproduce(KEY, parents, 400, 0.0))
    pairs = {}
    for i in range(3):
        for j in range(3):
            mean = np.asarray(parents[i] + parents[j]).astype(np.float64) / 2
            pairs[i, j] = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-5)
    counts = dict.fromkeys(pairs, 0)
    for child in children:
        match = min(pairs, key=lambda pair: np.abs(pairs[pair] - child).max())
        assert np.abs(pairs[match] - child).max() < 1e-4
        counts[match] += 1
    alone = sum(counts[i, i] for i in range(3)) / 400
    assert 0.23 < alone < 0.43  # a third, within four standard deviations


def test_a_childs_sigma_is_the_mean_of_its_parents_sigmas():
    # Opposite parents: their mean is zero, so that only the noise is left before normalisation.
    h = jax.random.normal(jax.random.key(5), (6,))
    parents = jnp.stack([h, -h])
    children = np.asarray(operators.reproduce(KEY, parents, 20_000, 0.1, kind="logits"))
    assert children.mean(axis=1) == pytest.approx(np.zeros(20_000), abs=1e-5)
    mixed = children[np.abs(children @ np.asarray(h)) < 0.9 * float(h @ h) / 2]
    expected = 0.1 * float(jnp.std(h)) * np.sqrt(1 - 1 / 6)  # minus the mean over 6 classes
    assert mixed.std() == pytest.approx(expected, rel=0.05)


def test_an_images_noise_is_as_strong_as_each_channel_varies():
    image = jax.random.normal(KEY, (40, 40, 2)) * jnp.array([[[1.0, 10.0]]])
    noise = operators.perturb_image(jax.random.key(8), image, 0.1) - image
    expected = 0.1 * jnp.std(image, axis=(0, 1))
    np.testing.assert_allclose(jnp.std(noise, axis=(0, 1)), expected, rtol=0.1)


def test_a_childs_sigma_counts_both_parents():
    h = jax.random.normal(jax.random.key(5), (6,))
    parents = jnp.stack([h, -3 * h])  # their mean is -h, their mean sigma that of 2 h
    children = np.asarray(operators.reproduce(KEY, parents, 20_000, 0.1, kind="logits"))
    centred = np.asarray(h - h.mean())
    mixed = children[np.abs(children + centred).max(axis=1) < 0.9 * np.abs(centred).max()]
    spread = (mixed + centred).std()
    assert len(mixed) > 8_000
    assert spread == pytest.approx(0.2 * float(jnp.std(h)) * np.sqrt(1 - 1 / 6), rel=0.05)


def test_vectors_are_normalised_and_logits_centred():
    parents = jax.random.normal(jax.random.key(6), (4, 8)) * 3 + 1
    vector = operators.reproduce(KEY, parents, 5, 0.1, kind="vector")
    np.testing.assert_allclose(jnp.std(vector, axis=1), 1, atol=1e-4)
    logits = operators.reproduce(KEY, parents, 5, 0.1)
    np.testing.assert_allclose(jnp.mean(logits, axis=1), 0, atol=1e-5)
    assert (jnp.std(logits, axis=1) > 1.2).all()


def test_no_two_children_share_their_noise():
    parents = jnp.ones((1, 4, 4, 2)) + jax.random.normal(jax.random.key(7), (1, 4, 4, 2))
    children = np.asarray(operators.reproduce(KEY, parents, 50, 0.5)).reshape(50, -1)
    centred = children - children.mean(axis=0)
    similarity = np.corrcoef(centred) - np.eye(50)
    assert np.abs(similarity).max() < 0.75


@pytest.mark.parametrize("wrong", [np.ones((5, 6, 6, 3), np.float32), np.ones((6, 6, 3), int)])
def test_a_batch_or_integers_are_no_individual(wrong):
    for operator in (
        lambda: operators.spread(wrong),
        lambda: operators.smooth(wrong, 1),
        lambda: operators.mutate(KEY, wrong, 1.0, 0.1),
        lambda: operators.perturb_image(KEY, wrong, 0.1),
    ):
        with pytest.raises(ValueError, match=r"is no individual: give .*jax\.vmap takes a batch"):
            operator()


def test_an_unknown_smoothing_is_refused():
    with pytest.raises(ValueError, match="smoothing 'rescaled' is unknown: choose one of noise, "):
        operators.reproduce(KEY, jnp.ones((2, 3, 3, 1)), 4, 0.1, smoothing="rescaled")


def test_passes_and_truncation_that_are_none_are_refused():
    with pytest.raises(ValueError, match="smoothing_passes is -1"):
        operators.smooth(jnp.ones((4, 4, 1)), -1)
    with pytest.raises(ValueError, match="smoothing_passes is -2"):
        operators.mutate(KEY, jnp.ones((4, 4, 1)), jnp.ones((1, 1, 1)), 0.1, -2)
    with pytest.raises(ValueError, match=r"truncation is 1\.0"):
        noise_basis((5, 5), 1, truncation=1.0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'tokens' is unknown"):
        operators.reproduce(KEY, jnp.ones((2, 3)), 2, 0.1, kind="tokens")


def test_any_key_gives_a_philox_key_and_philox_stays():
    for key in (jax.random.key(1), jax.random.PRNGKey(1)):
        derived = keys.philox_key(key)
        assert "philox" in str(jax.random.key_impl(derived))
        assert (keys.philox_key(derived) == derived).all()
    assert not (keys.philox_key(jax.random.key(1)) == KEY).all()


def test_a_number_is_no_key():
    advice = r"give one key, such as jax\.random\.key\(0\)"
    with pytest.raises(TypeError, match=rf"the key is 0 \(int\): {advice}"):
        keys.philox_key(0)
