"""The main job as a user runs it: a tiny run, again, interrupted, and with wrong input."""

import json
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from tiny_search import TINY_MAIN as TINY

import dsl_jax
from dsl_jax import config, files, pipeline
from dsl_jax.data import load
from dsl_jax.files import read_json
from dsl_jax.learning import train
from dsl_jax.runs import saved
from dsl_jax.runs.folder import RunFolder
from dsl_jax.targets import fill, store


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Each device compiles the search for itself; `test_mesh` has all eight."""
    mesh = Mesh(np.array(jax.devices()[:2]), ("images",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "device_mesh", lambda *_: mesh)
        yield


@pytest.fixture(scope="module")
def main(experiment):
    return experiment("main")


@pytest.fixture(scope="module")
def finished(main, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(*TINY, f"--output_dir={folder}") == 0
    return folder


def test_a_run_leaves_everything_in_its_folder(finished, capsys):
    names = {path.name for path in finished.iterdir()}
    assert {"config.json", "metrics.jsonl", "results.json", "report.md", "report.html"} <= names
    assert {f"{n}.png" for n in ("accuracy", "fitness", "learning", "representations")} <= names
    results = read_json(finished / "results.json")
    assert {"all_layers", "skip_block_0", "sgd_g1", "linear_on_pixels"} <= set(results)
    assert all(0 <= row["test_accuracy"][0] <= 1 for row in results.values())
    page = (finished / "report.md").read_text()
    assert f"{results['all_layers']['test_accuracy'][0]:.2%}".replace("%", " %") in page
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    epochs = [(r["training"], r["epoch"]) for r in records if "epoch" in r]
    assert len(epochs) == len(set(epochs)) == 4 * 3


def test_the_baseline_is_chosen_by_validation_not_by_test(finished):
    results = read_json(finished / "results.json")
    trained = {}
    for groups in (1, 2):
        path = finished / "seed_0" / f"sgd_g{groups}" / "result.json"
        trained[groups] = json.loads(path.read_text())["validation_accuracy"]
    (best,) = (name for name, result in results.items() if result["best_by_validation"])
    assert trained[results[best]["groups"]] == max(trained.values())
    assert {name for name in results if name.startswith("sgd")} == {"sgd_g1", best}


def test_a_finished_run_prints_its_report_at_once(main, finished, capsys, monkeypatch):
    def never(*_, **__):
        raise AssertionError("nothing is left to compute")

    monkeypatch.setattr(load, "load_dataset", never)
    monkeypatch.setattr(fill, "search", never)
    monkeypatch.setattr(train, "_train", never)
    assert main(*TINY, f"--output_dir={finished}") == 0
    page = capsys.readouterr().out
    assert "## Results" in page and "was finished before: nothing was computed" in page


def test_a_run_of_sgd_alone_searches_nothing(main, tmp_path):
    folder = tmp_path / "sgd"
    assert main(*TINY, "--variants=sgd", f"--output_dir={folder}") == 0
    assert not (folder / "seed_0" / "targets").exists()
    results = read_json(folder / "results.json")
    assert "all_layers" not in results and "sgd_g1" in results


def test_load_run_gives_networks_targets_and_history_back(finished):
    loaded = dsl_jax.load_run(finished)
    results = read_json(finished / "results.json")
    dataset = dsl_jax.load_dataset("digits", num_train=90, validation_size=30)
    jax.tree.map(np.testing.assert_array_equal, loaded.dataset().test, dataset.test)
    assert (loaded.dataset().mean, loaded.dataset().std) == (dataset.mean, dataset.std)
    score = dsl_jax.evaluate(loaded.networks["seed_0/all_layers"], dataset)
    assert score.accuracy == pytest.approx(results["all_layers"]["test_accuracy"][0])
    assert loaded.targets["seed_0"].is_complete
    assert len(loaded.history["seed_0/sgd_g1"]) == 3
    assert loaded.config.widths == (4, 4, 4)
    for part, name in ((loaded.networks, "seed_0/all_layers"), (loaded.targets, "seed_0")):
        with pytest.raises(KeyError, match=f"'wrong' is not in this run; there are: '{name}'"):
            part["wrong"]
    with pytest.raises(ValueError, match="holds no run"):
        dsl_jax.load_run(finished / "seed_0")


def test_an_interrupted_run_goes_on_and_ends_the_same(main, finished, tmp_path, monkeypatch):
    folder = tmp_path / "again"
    arguments = [*TINY, f"--output_dir={folder}"]
    write, count = store.TargetStore.write, []

    def stop_at_third(self, chunk, result):
        count.append(chunk)
        if len(count) == 3:
            raise KeyboardInterrupt
        return write(self, chunk, result)

    with monkeypatch.context() as patch:
        patch.setattr(store.TargetStore, "write", stop_at_third)
        assert main(*arguments) == 130
    save = saved.Checkpoints.save

    def stop_after_second(self, epoch, *rest):
        save(self, epoch, *rest)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saved, "CHECKPOINT_SECONDS", 0)
        patch.setattr(saved.Checkpoints, "save", stop_after_second)
        assert main(*arguments) == 130
    assert main(*arguments) == 0
    ours = read_json(folder / "results.json")
    theirs = read_json(finished / "results.json")
    for name in ours:
        for field in ("test_accuracy", "test_loss", "validation_accuracy"):
            assert ours[name][field] == theirs[name][field], (name, field)
    one, other = dsl_jax.load_run(folder), dsl_jax.load_run(finished)
    for a, b in zip(
        one.targets["seed_0"].read().representations,
        other.targets["seed_0"].read().representations,
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_the_test_images_change_nothing_but_the_test_results(main, finished, tmp_path, monkeypatch):
    load_dataset = load.load_dataset

    def other_test_images(*arguments, **options):
        import dataclasses

        dataset = load_dataset(*arguments, **options)
        test = dataset.test._replace(images=255 - dataset.test.images)
        return dataclasses.replace(dataset, test=test)

    monkeypatch.setattr(load, "load_dataset", other_test_images)
    folder = tmp_path / "other"
    assert main(*TINY, f"--output_dir={folder}", "--variants=all_layers") == 0
    ours = read_json(folder / "results.json")["all_layers"]
    theirs = read_json(finished / "results.json")["all_layers"]
    assert ours["validation_accuracy"] == theirs["validation_accuracy"]
    assert ours["test_loss"] != theirs["test_loss"]
    ours, theirs = (
        nnx.state(dsl_jax.load_run(run).networks["seed_0/all_layers"]) for run in (folder, finished)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_run_on_other_data_than_asked_for_has_a_folder_of_its_own(main, tmp_path, monkeypatch):
    """So that the command as it stands can be run again when the data are there."""
    load_dataset = load.load_dataset

    def digits_instead(name, **options):
        return load_dataset("digits", num_train=90, validation_size=30), "NOT MNIST"

    monkeypatch.setattr(sys.modules["main"], "load_or_substitute", digits_instead)
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: {})
    monkeypatch.chdir(tmp_path)
    assert main("--preset=smoke") == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mnist-smoke-seed0-digits"]


def test_a_dry_run_prints_the_plan_and_makes_nothing(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dsl_jax.data.prepare.has_tensorflow", lambda: True)
    folder = tmp_path / "dry"
    assert main("--preset=paper", "--dataset=cifar10", "--dry_run", f"--output_dir={folder}") == 0
    out = capsys.readouterr().out
    assert f"{3 * 46_000 * 113_160:,} candidates" in out and "MB of targets" in out
    assert "\ndata        " in out


def test_a_dry_run_plans_what_would_happen_and_tells_what_would_stop_it(
    main, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # where nobody has run the README's command
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("dsl_jax.data.prepare.has_tensorflow", lambda: False)
    assert main("--dry_run") == 0
    told = capsys.readouterr()
    assert "mnist_5k takes its place" in told.err
    assert "mnist_5k: 3,680 training images" in told.out
    assert "runs/mnist-laptop-seed0-mnist_5k" in told.out
    assert main("--dry_run", "--preset=paper") == 2
    told = capsys.readouterr()
    assert "not prepared" in told.err and "mnist: 55,200 training images" in told.out
    assert main(*TINY, "--dry_run", "--config.learn.momentum=0.5", f"--output_dir={finished}") == 2
    assert "holds another run: config.learn.momentum" in capsys.readouterr().err


def test_a_dry_run_refuses_what_the_run_refuses_in_the_same_words(main, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for flags in (
        ["--data_dir=/nowhere", f"--output_dir={tmp_path / 'new' / 'run'}"],
        ["--dataset=digits", f"--output_dir={tmp_path / 'file'}"],
        ["--dataset=digits", f"--output_dir={tmp_path / 'file' / 'run'}"],
        ["--dataset=digits", f"--output_dir={tmp_path}"],
        ["--dataset=digits", "--phase=report", f"--output_dir={tmp_path / 'new'}"],
        ["--dataset=digits", "--num_train=20", "--config.validation_size=40"],
        ["--dataset=digits", "--output_dir=gs://bucket/run"],
        ["--dataset=digits", f"--seed={2**32}"],
        ["--dataset=digits", f"--seed={2**32 - 1}", "--num_seeds=2"],
        ["--dataset=digits", f"--seed={2**63}"],
    ):
        errors = []
        for dry in ([], ["--dry_run"]):
            assert main("--preset=smoke", *flags, *dry) == 2, flags
            lines = capsys.readouterr().err.splitlines()
            errors += [line for line in lines if line.startswith("error:")]
        assert len(errors) == 2 and errors[0] == errors[1], flags
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_output_dir_may_begin_with_the_home_folder(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main("--dataset=digits", "--preset=smoke", "--dry_run", "--output_dir=~/a") == 0
    assert f"folder      {tmp_path}/a" in capsys.readouterr().out


def test_other_settings_have_a_default_folder_of_their_own(main, monkeypatch, capsys):
    def folder(*flags):
        assert main("--dataset=digits", "--preset=smoke", "--dry_run", *flags) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("folder")]
        return line.split()[1]

    plain = folder()
    assert plain == "runs/digits-smoke-seed0"
    others = [(), ("--cycles=2",), ("--variants=sgd",), ("--config.learn.momentum=0.5",)]
    names = [folder(*flags) for flags in others]
    assert len(set(names)) == 4 and all(name.startswith(plain) for name in names)
    assert folder("--config.learn.momentum=0.5") == names[3]
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert folder() == plain  # the default there
    assert folder("--compute_dtype=float32") != plain


def test_what_is_more_specific_wins(main, monkeypatch):
    """Whatever the order: --config.FIELD over flags, flags over the preset."""
    monkeypatch.setattr("dsl_jax.data.prepare.has_tensorflow", lambda: True)

    def configured(*arguments):
        assert main(*arguments, "--dry_run", "--output_dir=unused") == 0
        return sys.modules["main"].configure()

    plain = configured("--dataset=cifar10", "--augment")
    assert plain.learn.augment and plain.learn.flip and plain.sgd.flip
    flags = ["--augment", "--variants=sgd", "--cycles=2", "--seed=3", "--num_seeds=4"]
    settings = ["learn.flip=False", "sgd.augment=False", "variants=all_layers", "cycles=3"]
    settings += ["seed=5", "num_seeds=6", "num_train=300"]
    config = configured(
        *(f"--config.{setting}" for setting in settings),
        *("--dataset=cifar10", "--num_train=200", *flags),
    )
    assert (config.learn.augment, config.learn.flip) == (True, False)
    assert (config.sgd.augment, config.sgd.flip) == (False, True)
    assert (config.variants, config.cycles) == (("all_layers",), 3)
    assert (config.seed, config.num_seeds, config.num_train) == (5, 6, 300)
    in_bfloat16 = configured("--compute_dtype=bfloat16", "--config.learn.compute_dtype=float32")
    assert in_bfloat16.search.compute_dtype == "bfloat16"
    assert in_bfloat16.learn.compute_dtype == "float32"
    other = configured("--dataset=cifar10", "--augment", "--config.dataset=mnist")
    assert not other.learn.flip  # no digit is mirrored
    assert other.num_train == configured("--dataset=mnist").num_train


def test_what_is_refused_leaves_nothing_behind(main, tmp_path, capsys):
    folder = tmp_path / "nothing"
    assert main(*TINY, "--phase=report", f"--output_dir={folder}") == 2
    assert "begin with --phase=search" in capsys.readouterr().err
    assert not folder.exists()
    assert main("--data_dir=/nowhere", f"--output_dir={folder}") == 2
    assert not folder.exists()
    folder.mkdir()
    assert main("--data_dir=/nowhere", f"--output_dir={folder}") == 2
    assert folder.exists()  # it was the user's


def test_sgd_alone_needs_no_search_before_it_learns(main, tmp_path):
    flags = ("--variants=sgd", "--phase=learn", "--config.sgd_groups=(1,)")
    assert main(*TINY, *flags, f"--output_dir={tmp_path / 'sgd'}") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=nonsense"], "mnist, fashion_mnist, cifar10, cifar100, mnist_5k, digits"),
        (["--preset=huge"], "'huge' is unknown: choose one of smoke, laptop, paper"),
        (["--variants=all"], "variant 'all' is unknown"),
        (["--phase=cook"], "phase 'cook' is unknown"),
        (["--num_train=999999", "--dry_run"], "num_train is 999999: mnist has 60000"),
        (["laptop"], "'laptop' is no flag"),
        (["--datset=digits"], "Did you mean: dataset"),
        (["--config.dataset=foo"], "dataset 'foo' is unknown"),
        (["--config.learn.variant=skip_block_0"], "set --variants"),
        (["--config.seed"], "write --config.seed=VALUE"),
        (["--config.name=paper"], "set --preset"),
        (["--config.sgd.variant=skip_block_0"], "SGD learns from no targets"),
        (
            ["--config.sgd.relational_weight=1"],
            "config.sgd.relational_weight has no effect: SGD learns",
        ),
        (
            ["--config.learn.relations=labels"],
            "has no effect here: it needs --config.learn.relational_weight",
        ),
        (["--config.learn.flip=True"], "no effect here: it needs --config.learn.augment=True"),
        (["--config.sgd.crop_padding=4"], "here: it needs --config.sgd.augment=True"),
        (["--config.search.noisy_evaluations=8"], "it needs --config.search.fitness_noise"),
        (["--sweep.num_train=100"], "--sweep.num_train has no effect"),
        (
            ["--config.shared.clusters=2"],
            "clusters has no effect here: it needs --config.searched=per_class",
        ),
        (["--config.sampler.epochs=2"], "it needs --config.searched=sampler"),
        (["--config.later_cycles[0].share=0.5"], "it needs --config.cycles=2 or more"),
        (
            ["--cycles=2", "--config.later_cycles[1].share=0.5"],
            "it needs --config.cycles=3 or more",
        ),
        (["--config.search.strategy=cma"], "strategy 'cma' is unknown"),
        (["--config.search.layers[7].generations=1"], "no element"),
        (["--num_train=-5"], "num_train is -5"),
        (["--num_train=0"], "num_train is 0"),
        (["--dataset=digits", "--num_train=5000"], "5000"),
        (["--seed=-1"], "seed is -1"),
        (["--num_seeds=0"], "num_seeds is 0"),
        (["--cycles=0"], "cycles is 0"),
        (["--config.later_cycles[0].search.strategy=cma"], "strategy 'cma' is unknown"),
        (["--data_dir=/nowhere"], "/nowhere"),
        (["--loggers=tensorbord"], "logger 'tensorbord' is unknown"),
        (["--dataset=digits", "--output_dir=/proc/run"], "/proc/run"),
        (
            ["--coordinator=localhost:1", "--num_processes=2", "--process_id=0"],
            "with --distributed",
        ),
        (["--distributed", "--coordinator=a:1"], "--process_id go together"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(main, arguments, message, capsys):
    assert main("--preset=smoke", *arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert message in line


def test_a_logger_that_is_not_installed_is_told_before_data_are_loaded(main, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main("--loggers=wandb", "--data_dir=/nowhere") == 2
    assert "pip install wandb" in capsys.readouterr().err


def test_a_folder_with_another_run_is_refused_with_the_fields(main, finished, capsys):
    assert main(*TINY, "--config.learn.momentum=0.5", f"--output_dir={finished}") == 2
    assert "learn.momentum: 0.85 there, 0.5 here" in capsys.readouterr().err
    assert (finished / "report.md").exists()


def test_a_phase_without_what_it_needs_says_so(main, finished, tmp_path, capsys):
    folder = tmp_path / "begun"
    RunFolder(folder, config.from_dict(files.read_json(finished / "config.json")["config"]))
    assert main(*TINY, f"--output_dir={folder}", "--phase=report") == 2
    assert "run phase 'learn' first" in capsys.readouterr().err
    assert main(*TINY, f"--output_dir={folder}", "--phase=learn") == 2
    assert "run phase 'search' first" in capsys.readouterr().err
