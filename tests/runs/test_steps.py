"""What a run does, in order: cycles and their controls."""

import dataclasses

import pytest
from common.overrides import override

from dsl_jax.config import CONTROLS, TARGET_CONTROLS, CycleConfig
from dsl_jax.presets import get_preset
from dsl_jax.runs.steps import Search, needed, needs_of, searches, steps, trainings, without_search

SMOKE = get_preset("smoke", "mnist")


def with_cycles(cycles, **changes):
    return dataclasses.replace(SMOKE, cycles=cycles, **changes)


def test_one_cycle_is_the_papers_method():
    assert [step.name for step in steps(SMOKE)] == [
        "targets",
        "all_layers",
        "skip_block_0",
        "sgd_g1",
    ]
    assert with_cycles(3).controls == CONTROLS
    without = with_cycles(3, controls=(), variants=("all_layers",))
    assert [step.name for step in steps(without)][:2] == ["targets", "all_layers"]


@pytest.mark.parametrize("cycles", [1, 2, 4])
@pytest.mark.parametrize("target_controls", [(), TARGET_CONTROLS])
def test_each_step_needs_only_what_comes_before_it(cycles, target_controls):
    done = set()
    for step in steps(with_cycles(cycles, target_controls=target_controls)):
        assert needs_of(step) <= done
        assert step.name not in done
        done.add(step.name)


def test_a_cycle_searches_the_network_before_and_trains_it_further():
    config = with_cycles(3, variants=("skip_block_0",), controls=())
    first, learner, search_2, cycle_2, search_3, cycle_3 = steps(config)
    assert (first.network, learner.start) == (None, None)
    assert (search_2.network, cycle_2.start) == ("skip_block_0", "skip_block_0")
    assert (search_3.network, cycle_3.start) == (cycle_2.name, cycle_2.name)
    assert cycle_3.targets == ("targets", search_2.name, search_3.name)
    assert cycle_3.config == learner.config and learner.config.variant == "skip_block_0"
    assert needed(config, cycle_2) == [first, learner, search_2, cycle_2]


def test_a_control_leaves_out_one_thing():
    by_name = {step.name: step for step in steps(with_cycles(3, variants=("all_layers", "sgd")))}
    last = by_name["all_layers_cycle_3"]
    again = by_name["all_layers_first_targets_3"]
    assert again.targets == ("targets",) and again.config == last.config
    assert again.start == "all_layers_first_targets_2"
    natural = by_name["targets_all_layers_natural_targets_2"]
    assert natural.network == "all_layers" and natural.config.initial_noise == 0
    generations = [layer.generations for layer in natural.config.layers]
    assert generations == [0, 0, 0, SMOKE.search.layers[-1].generations]
    assert by_name["all_layers_natural_targets_2"].targets == ("targets", natural.name)
    fresh = by_name["all_layers_fresh_network"]
    assert fresh.start is None and fresh.targets == last.targets
    config = with_cycles(3, variants=("all_layers", "sgd"))
    names = [step.name for step in needed(config, fresh)]
    assert "all_layers_cycle_2" in names and "all_layers_first_targets_2" not in names
    assert fresh.config.epochs == by_name["sgd_g1_long"].config.epochs == 3 * SMOKE.learn.epochs
    roles = {name: step.role for name, step in by_name.items() if not isinstance(step, Search)}
    assert roles["all_layers_cycle_2"] == "method" and roles["sgd_g1_long"] == "baseline"
    assert roles[fresh.name] == roles[again.name] == "control"


def test_a_schedule_may_change_from_cycle_to_cycle():
    changes = {
        "cycles": "4",
        "later_cycles[0].search.layers[0].generations": "7",
        "later_cycles[1].search.layers[0].mutation_strength": "0.05",
        "later_cycles[1].images": "wrong",
    }
    _, second, third, fourth = searches(
        override(SMOKE, changes | {"controls": "()", "variants": "('all_layers',)"})
    )
    assert [s.config.layers[0].generations for s in (second, third, fourth)] == [7, 7, 7]
    strengths = [s.config.layers[0].mutation_strength for s in (second, third, fourth)]
    assert strengths == [0.1, 0.05, 0.05]
    assert [s.chosen.images for s in (second, third, fourth)] == ["all", "wrong", "wrong"]
    assert without_search(second.config).num_parents == SMOKE.search.num_parents


def test_wrong_cycles_are_refused():
    with pytest.raises(ValueError, match=r"there is no element \[2\]"):
        override(SMOKE, {"later_cycles[2].images": "all"})
    with pytest.raises(ValueError, match="images 'some' is unknown: choose one of all, wrong"):
        CycleConfig(images="some")
    with pytest.raises(ValueError, match=r"share is 0\.0: it must be above 0"):
        CycleConfig(share=0)
    with pytest.raises(ValueError, match="cycles is 0"):
        with_cycles(0)
    with pytest.raises(ValueError, match="control 'none' is unknown"):
        with_cycles(2, controls=("none",))
    with pytest.raises(ValueError, match=r"later_cycles\[0\].search.layers has 4 schedules: 2"):
        layers = SMOKE.search.layers[1:]
        search = dataclasses.replace(SMOKE.search, layers=layers)
        with_cycles(2, widths=(8, 8), search=search)
    assert len(trainings(SMOKE)) == 3


def test_controls_of_targets_train_as_the_method_does_in_each_cycle():
    config = with_cycles(2, variants=("all_layers",), controls=(), target_controls=TARGET_CONTROLS)
    by_name = {step.name: step for step in steps(config)}
    for method in ("all_layers", "all_layers_cycle_2"):
        for kind in TARGET_CONTROLS:
            control = by_name[f"{method}_{kind}"]
            assert control.role == "control" and control.kind == kind
            assert control._replace(name=method, kind="cycle", shuffled=None) == by_name[method]
    # The next cycle goes on from the method, not from a control.
    assert by_name["targets_all_layers_cycle_2"].network == "all_layers"
    shuffled = by_name["all_layers_cycle_2_shuffled_labels"].shuffled
    assert by_name[shuffled].shuffled and by_name[shuffled].network == "all_layers"
    needs = [step.name for step in needed(config, by_name["all_layers_shuffled_labels"])]
    assert needs == ["targets", "targets_shuffled_labels", "all_layers_shuffled_labels"]
    without = dataclasses.replace(config, target_controls=("permuted",))
    assert [search.name for search in searches(without)] == [
        "targets",
        "targets_all_layers_cycle_2",
    ]
