"""Flags of the sweeps that have no effect, or one on another."""

import pytest


@pytest.mark.parametrize(
    ("name", "flag", "message"),
    [
        ("accuracy_scaling", "--config.target_controls=permuted", "target_controls has no effect"),
        ("learnable", "--config.searched=per_class", "config.searched has no effect here"),
        ("what_targets_carry", "--config.searched=per_class", "config.searched has no effect here"),
        ("starts", "--config.learn.epochs=3", "config.learn.epochs has no effect here"),
        ("fitness_scaling", "--config.learn.epochs=3", "config.learn.epochs has no effect here"),
        ("diversity_scaling", "--config.sgd_groups=1", "config.sgd_groups has no effect here"),
        ("tables", "--sweep.datasets=mnist_5k", "--dataset has no effect beside --sweep.datasets"),
        ("full_data", "--sweep.folds=3", "sweep.folds has no effect without"),
        ("full_data", "--num_train=90", "--num_train has no effect here: set --sweep.sizes"),
        ("full_data", "--sweep.num_train=90", "sweep.num_train has no effect here"),
        ("full_data", "--config.search.num_searches=2", "a search per_class has only one"),
        ("full_data", "--config.sampler.images=9", "config.sampler.images has no effect here"),
        ("starts", "--config.sampler.images=9", "config.sampler.images has no effect here"),
        ("refresh", "--config.learn.crop_padding=4", "it needs --config.learn.augment=True"),
        ("cycles", "--config.search.noisy_evaluations=8", "it needs --config.search.fitness_noise"),
        ("full_data", "--config.search.noisy_evaluations=8", "needs --config.search.fitness_noise"),
        ("choices", "--sweep.more=a:sgd.epochs=8", "sweep.more: a: sgd.epochs has no effect here"),
        ("what_targets_carry", "--sweep.best_sgd=seed=5", "sweep.best_sgd: seed has no effect"),
        ("what_targets_carry", "--sweep.best_sgd=sgd_groups=1", "sgd_groups has no effect"),
        ("full_data", "--config.variants=('sgd',)", "sweep.methods has class_part, but config.v"),
        ("tables", "--sweep.augment=()", "there is nothing to compute"),
        ("choices", "--sweep.num_train=5000", "num_train is 5000: digits has"),
        ("choices", "--sweep.more=a:learn.rate=1", "sweep.more: a.learn.rate: no field"),
        (
            "choices",
            "--sweep.more=a:learn.variant=skip_block_0",
            "learn.variant of a has no effect",
        ),
        ("choices", "--sweep.more=a:search.strategy=SNESS", "strategy 'SNESS' is unknown"),
        (
            "what_targets_carry",
            "--sweep.more=deep:learner_groups=3",
            "learner_groups of deep has no effect here",
        ),
        ("representations", "--config.searched=per_class", "config.searched has no effect here"),
        ("learnable", "--config.search.smoothing=child", "smoothing"),
        ("ladders", "--seed=3", "--seed has no effect: kept sweeps are read"),
    ],
)
def test_a_flag_without_effect_is_refused(name, flag, message, experiment, tmp_path, capsys):
    flags = [] if name == "ladders" else ["--dataset=digits", "--preset=smoke", "--dry_run"]
    assert experiment(name)(*flags, flag, f"--output_dir={tmp_path / 'new'}") == 2
    assert message in capsys.readouterr().err


def test_a_dataset_set_as_a_field_has_its_own_number_of_images(experiment, tmp_path, capsys):
    flags = ["--config.dataset=digits", "--dry_run", f"--output_dir={tmp_path / 'new'}"]
    assert experiment("choices")(*flags) == 0
    assert "digits" in capsys.readouterr().out
