"""Measures: closed forms, a slow NumPy twin, and the edges (zeros, absent classes, jit)."""

import chex
import hypothesis.extra.numpy as npst
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_jax import measures


def spectral_entropy(reps):
    """Renyi-2 entropy of the eigenvalues of K / trace(K), in float64; for nonzero rows."""
    flat = np.asarray(reps, np.float64).reshape(len(reps), -1)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    gram = unit @ unit.T
    return -np.log(np.sum(np.linalg.eigvalsh(gram / np.trace(gram)) ** 2))


def random_reps(n=6, shape=(3, 3, 4), seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


# --------------------------------------------------------------------------------------------
# One group
# --------------------------------------------------------------------------------------------


def test_the_gram_matrix_holds_the_cosine_of_every_pair():
    reps = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, -3.0]], np.float32)
    half = np.sqrt(0.5)
    expected = [[1, half, 0], [half, 1, -half], [0, -half, 1]]
    np.testing.assert_allclose(measures.cosine_gram(reps), expected, atol=1e-6)


def test_all_axes_after_the_first_are_flattened():
    reps = random_reps()
    np.testing.assert_array_equal(
        measures.cosine_gram(reps), measures.cosine_gram(reps.reshape(6, -1))
    )


def test_identical_representations_are_one_solution():
    reps = np.repeat(random_reps(1), 5, axis=0) * np.array([1, 2, 3, -1, 9])[:, None, None, None]
    assert measures.effective_solutions(reps) == pytest.approx(1, abs=1e-5)


def test_orthogonal_representations_are_n_solutions():
    assert measures.effective_solutions(np.eye(7) * 3) == pytest.approx(7, rel=1e-6)
    assert measures.collision_entropy(np.eye(7)) == pytest.approx(np.log(7), rel=1e-6)


def test_two_groups_of_different_size_have_the_purity_of_their_shares():
    reps = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    assert measures.effective_solutions(reps) == pytest.approx(1 / (0.75**2 + 0.25**2), rel=1e-6)


def test_entropy_is_that_of_the_spectrum():
    for seed in range(3):
        reps = random_reps(seed=seed) + 0.5
        assert measures.collision_entropy(reps) == pytest.approx(spectral_entropy(reps), rel=1e-5)


elements = st.floats(-10, 10, width=32, allow_subnormal=False)
arrays = npst.arrays(np.float32, st.sampled_from([(1, 4), (2, 4), (5, 4)]), elements=elements)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(arrays, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_number_of_solutions_is_bounded_and_blind_to_scale_and_order(reps, scale, random):
    n = len(reps)
    solutions = measures.effective_solutions(reps)
    assert 1 <= solutions <= n * (1 + 1e-6)
    scales = np.float32([scale * random.choice([1, -1]) for _ in range(n)])
    order = random.sample(range(n), n)
    other = measures.effective_solutions((reps * scales[:, None])[order])
    assert other == pytest.approx(float(solutions), rel=1e-4)


def test_zeros_are_alike_to_each_other_and_to_nothing_else():
    reps = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(
        measures.cosine_gram(reps), [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-6
    )
    assert measures.effective_solutions(np.zeros((4, 3))) == 1


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_very_small_and_very_large_activations_neither_vanish_nor_overflow(scale):
    reps = random_reps() + 0.5
    expected = measures.collision_entropy(reps)
    assert measures.collision_entropy(reps * np.float32(scale)) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_half_precision_is_computed_in_float32():
    reps = (random_reps(shape=(64,)) * 100).astype(np.float16)  # squares overflow in float16
    entropy = measures.collision_entropy(reps)
    assert entropy.dtype == jnp.float32
    assert entropy == pytest.approx(spectral_entropy(reps), rel=1e-5)


def test_nan_is_not_hidden():
    reps = random_reps()
    reps[2, 0, 0, 0] = np.nan
    assert np.isnan(measures.collision_entropy(reps))


# --------------------------------------------------------------------------------------------
# Pairs
# --------------------------------------------------------------------------------------------


def test_cosine_distance_of_known_pairs():
    a = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 0], [0, 0]])
    b = np.array([[5.0, 0], [0, 2], [-1, 0], [1, 1], [0, 1], [0, 0]])
    expected = [0, 1, 2, 1 - np.sqrt(0.5), 1, 0]
    np.testing.assert_allclose(measures.cosine_distance(a, b), expected, atol=1e-6)


def test_cosine_distance_pairs_along_the_first_axis_only():
    a, b = random_reps(seed=1), random_reps(seed=2)
    fa, fb = (x.reshape(6, -1).astype(np.float64) for x in (a, b))
    cosines = np.sum(fa * fb, 1) / (np.linalg.norm(fa, axis=1) * np.linalg.norm(fb, axis=1))
    np.testing.assert_allclose(measures.cosine_distance(a, b), 1 - cosines, atol=1e-6)


def test_small_cosine_distances_keep_their_digits():
    angle = 1e-4  # 1 - cos is 5e-9, below the resolution of float32 near 1
    a, b = np.array([[1.0, 0.0]]), np.array([[np.cos(angle), np.sin(angle)]])
    assert measures.cosine_distance(a, b)[0] == pytest.approx(angle**2 / 2, rel=1e-3)


# --------------------------------------------------------------------------------------------
# Classes
# --------------------------------------------------------------------------------------------

LABELS = np.array([0, 2, 2, 0, 2, 3, 0, 2])  # class 1 is absent, class 3 has one


def twin_within(reps, labels):
    return np.mean([spectral_entropy(reps[labels == c]) for c in np.unique(labels)])


def twin_between(reps, labels):
    return spectral_entropy([reps[labels == c].mean(axis=0) for c in np.unique(labels)])


@pytest.mark.parametrize(
    ("measure", "twin"),
    [
        (measures.within_class_entropy, twin_within),
        (measures.between_class_entropy, twin_between),
    ],
)
@pytest.mark.parametrize("num_classes", [None, 4, 10])
def test_class_entropies_equal_a_loop_over_the_classes(measure, twin, num_classes):
    reps = random_reps(8) + 0.5
    assert measure(reps, LABELS, num_classes) == pytest.approx(twin(reps, LABELS), rel=1e-5)


def test_collapsed_classes_have_no_entropy_within_and_all_of_it_between():
    reps = np.eye(4)[LABELS]
    assert measures.within_class_entropy(reps, LABELS) == pytest.approx(0, abs=1e-6)
    assert measures.between_class_entropy(reps, LABELS) == pytest.approx(np.log(3), rel=1e-6)


def test_classes_count_once_whatever_their_size():
    reps = np.concatenate([np.eye(8)[:2], np.repeat(np.eye(8)[2:3], 6, axis=0)])
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    assert measures.within_class_entropy(reps, labels) == pytest.approx(np.log(2) / 2, rel=1e-6)


def test_class_means_weigh_a_representation_by_its_length():
    reps = np.array([[9.0, 0.0], [0.0, 1.0], [0.0, 1.0]])  # means [4.5, 0.5] and [0, 1]
    labels = np.array([0, 0, 1])
    expected = spectral_entropy([[4.5, 0.5], [0, 1]])
    assert measures.between_class_entropy(reps, labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("measure", [measures.within_class_entropy, measures.between_class_entropy])
def test_labels_out_of_range_are_left_out(measure):
    reps = random_reps(8) + 0.5
    labels = np.where(np.arange(8) < 6, LABELS, -1)
    padded = measure(reps, labels, 4)
    assert padded == pytest.approx(float(measure(reps[:6], LABELS[:6], 4)), rel=1e-5)
    labels = np.where(np.arange(8) < 6, LABELS, 4)
    assert measure(reps, labels, 4) == pytest.approx(float(padded), rel=1e-6)
    assert np.isnan(measure(reps, np.full(8, -1)))


# --------------------------------------------------------------------------------------------
# Order 1, centred features, alignment of two networks
# --------------------------------------------------------------------------------------------


def test_vendi_score_is_the_entropy_of_the_shares():
    reps = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert measures.vendi_score(reps) == pytest.approx(expected, rel=1e-5)
    assert measures.vendi_score(np.eye(5)) == pytest.approx(5, rel=1e-5)
    assert measures.vendi_score(np.ones((5, 2))) == pytest.approx(1, rel=1e-5)
    assert np.isnan(measures.vendi_score(np.full((2, 2), np.nan)))


@pytest.mark.parametrize(
    "measure",
    [
        measures.effective_solutions,
        measures.vendi_score,
        lambda reps, where=None: measures.vendi_score(measures.centered(reps, where), where),
    ],
)
def test_what_does_not_count_might_as_well_not_be_there(measure):
    reps = random_reps(7) + 0.5
    counted = np.array([True, False, True, True, False, True, False])
    assert measure(reps, counted) == pytest.approx(float(measure(reps[counted])), rel=1e-4)
    assert np.isnan(measure(reps, np.zeros(7, bool)))
    with pytest.raises(ValueError, match=r"where has shape \(6,\): expected \(7,\)"):
        measure(reps, counted[:6])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(arrays)
def test_order_one_counts_at_least_what_order_two_does(reps):
    two = float(measures.effective_solutions(reps))
    assert two <= measures.vendi_score(reps) * (1 + 1e-4) <= len(reps) * (1 + 1e-3)


def test_centred_opposites_are_one_direction_and_a_simplex_is_n_minus_one():
    assert measures.effective_solutions(measures.centered([[5.0, 1], [5, 3]])) == pytest.approx(1)
    simplex = measures.centered(np.eye(4))  # cosines of -1/3: the spectrum is 3 times 1/3
    assert measures.effective_solutions(simplex) == pytest.approx(3, rel=1e-5)


def test_alignment_of_orthogonal_features_has_a_closed_form():
    u = np.float32([1, -1, 0, 0]) / np.sqrt(2)
    v = np.float32([0, 0, 1, -1]) / np.sqrt(2)
    both = np.stack([u, v], axis=1)
    assert measures.linear_cka(both, u[:, None]) == pytest.approx(np.sqrt(0.5), rel=1e-5)
    assert measures.linear_cka(v[:, None], u[:, None]) == pytest.approx(0, abs=1e-6)
    # Shares of 3 and 1 along the same two features: (9 + 1) / (sqrt(81 + 1) sqrt(1 + 1)).
    assert measures.linear_cka(both * [3, 1], both) == pytest.approx(10 / np.sqrt(164), rel=1e-5)


@pytest.mark.parametrize("count", [3, 7, 10])
def test_nothing_can_be_said_of_representations_that_do_not_differ(count):
    same = np.tile(np.random.default_rng(0).normal(size=(1, 50)), (count, 1))
    other = np.random.default_rng(1).normal(size=(count, 50))
    assert np.isnan(measures.linear_cka(same, other))
    ones = np.ones((count, 4))
    assert np.isnan(measures.explained_variance(ones + 1, ones))


def test_alignment_is_blind_to_rotation_scale_and_offset():
    reps = random_reps(20, (2, 2, 3))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0]
    turned = 1e3 * (reps.reshape(20, 12) @ rotation) + 7
    assert measures.linear_cka(reps, turned) == pytest.approx(1, abs=1e-4)
    assert measures.linear_cka(reps, random_reps(20, (8,), seed=3)) < 0.8
    assert np.isnan(measures.linear_cka(reps, np.ones((20, 3))))


# --------------------------------------------------------------------------------------------
# jit, and errors
# --------------------------------------------------------------------------------------------


def test_all_measures_can_be_jitted_and_compile_once():
    reps = random_reps(8)
    within, between = measures.within_class_entropy, measures.between_class_entropy
    calls = [
        (measures.cosine_gram, (reps,)),
        (measures.collision_entropy, (reps,)),
        (measures.effective_solutions, (reps,)),
        (measures.cosine_distance, (reps, reps + 1)),
        (measures.vendi_score, (reps,)),
        (measures.centered, (reps,)),
        (measures.linear_cka, (reps, reps[..., :2])),
        (lambda reps, labels: within(reps, labels, num_classes=4), (reps, LABELS)),
        (lambda reps, labels: between(reps, labels, num_classes=4), (reps, LABELS)),
    ]
    for measure, arguments in calls:
        jitted = jax.jit(chex.assert_max_traces(measure, n=1))
        jitted(*arguments)
        np.testing.assert_allclose(jitted(*arguments), measure(*arguments), rtol=1e-5, atol=1e-6)


def test_traced_labels_need_the_number_of_classes():
    with pytest.raises(ValueError, match="give num_classes"):
        jax.jit(measures.within_class_entropy)(random_reps(8), LABELS)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"reps has shape \(3,\).*x\[None\]"):
        measures.collision_entropy(np.ones(3))
    with pytest.raises(ValueError, match=r"reps has shape \(0, 3\)"):
        measures.cosine_gram(np.ones((0, 3)))
    with pytest.raises(ValueError, match=r"a has shape \(2, 3\), b \(3, 2\)"):
        measures.cosine_distance(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="a has 2 rows, b 3"):
        measures.linear_cka(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"labels have shape \(3,\): expected \(2,\)"):
        measures.between_class_entropy(np.ones((2, 3)), np.zeros(3, int))
    with pytest.raises(ValueError, match="float32: expected integers"):
        measures.within_class_entropy(np.ones((2, 3)), np.zeros(2, np.float32))
    for no_mask in (np.arange(2), np.ones(2)):  # rows, or weights, which would be counted
        with pytest.raises(ValueError, match=r"where is (int|float)32: give a mask, bool \[2\]"):
            measures.effective_solutions(np.ones((2, 3)), no_mask)


def test_explained_variance_is_a_regressions_r_squared():
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(0)
    theirs = rng.normal(size=(30, 2, 4)) * np.arange(1, 5)
    ours = 0.6 * theirs + 0.3 * rng.normal(size=theirs.shape)
    expected = r2_score(
        theirs.reshape(30, -1), ours.reshape(30, -1), multioutput="variance_weighted"
    )
    assert float(measures.explained_variance(ours, theirs)) == pytest.approx(expected, abs=1e-5)
    assert float(measures.explained_variance(theirs, theirs)) == 1
    mean = np.broadcast_to(theirs.mean(axis=0), theirs.shape)
    assert float(measures.explained_variance(mean, theirs)) == pytest.approx(0, abs=1e-5)
    same = np.full((10, 5), 0.3, np.float32)  # their mean is rounded
    assert np.isnan(measures.explained_variance(same + 0.01, same))
    with pytest.raises(ValueError, match="expected one shape"):
        measures.explained_variance(ours[:10], theirs)
