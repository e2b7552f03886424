"""Training runs: they learn, repeat and resume bit for bit, and look at the test set once."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from helpers import interrupt_at, quiet, read_metrics, small_dataset, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from minicaps import datasets, figures, training
from minicaps.datasets import augment
from minicaps.networks import PRESETS, OverlapCapsNet, files, load_network
from minicaps.training import (
    Adam,
    Diverged,
    OneProcess,
    Run,
    TrainConfig,
    evaluate,
    processes,
    read_config,
    train_step,
)
from minicaps.training import run as runs
from minicaps.training.progress import epoch_batches

THREE_EPOCHS = tiny_config(epochs=3)


@pytest.fixture(scope="module", autouse=True)
def small_mnist():
    """Every run here trains on 270 images, validates on 30 and is tested on 100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load", lambda *given: small_dataset())
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run of three epochs that nothing stopped, figures and all."""
    folder = tmp_path_factory.mktemp("straight")
    Run(THREE_EPOCHS, folder, say=quiet).train(draw)
    return folder


def draw(run, test):
    figures.draw_run(run.folder, epochs=run.epochs, network=run.network, dataset=run.dataset, test=test)


def run_to_the_end(folder, config=THREE_EPOCHS):
    Run(config, folder, say=quiet).train()
    return folder


def weights(folder):
    return {name: array.tobytes() for name, array in files.read(folder / "model.npz")[0].items()}


def without_clock(metrics):
    return [{k: x for k, x in row.items() if k not in ("seconds", "images_per_second")} for row in metrics]


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model, steps", [("capsnet", 100), ("cnn", 40), ("efficient", 60), ("mlp", 40)])
def test_a_network_overfits_twenty_images(model, steps):
    images, labels = small_dataset().train_images[:20], small_dataset().train_labels[:20]
    config = tiny_config(model=model)
    network = config.network(small_dataset())
    source, optimizer = OneProcess(network), Adam(network, config.largest_learning_rate)
    x, y = training.to_batch(images, labels, np)
    for _ in range(steps):
        train_step(source, optimizer, x, y)
    assert evaluate(network, images, labels).accuracy == 1


def test_a_step_reports_loss_and_correct_predictions_from_before_its_update():
    network = tiny_config(model="mlp").network(small_dataset())
    images, labels = small_dataset().train_images[:50], small_dataset().train_labels[:50]
    before = evaluate(network, images, labels)
    x, y = training.to_batch(images, labels, np)
    loss, correct = train_step(OneProcess(network), Adam(network, 0.01), x, y)
    assert type(loss) is float and type(correct) is int
    assert loss == pytest.approx(before.loss, rel=1e-5)
    after = evaluate(network, images, labels)
    assert correct == round(50 * before.accuracy) != round(50 * after.accuracy)


def test_steps_do_not_accumulate_gradients():
    network = tiny_config().network(small_dataset())
    x, y = training.to_batch(small_dataset().train_images[:10], small_dataset().train_labels[:10], np)
    source, optimizer = OneProcess(network), Adam(network, 1e-30)
    grads = []
    for _ in range(2):
        train_step(source, optimizer, x, y)
        grads.append({name: grad.copy() for name, grad in network.grads.items()})
    for name, grad in grads[0].items():
        np.testing.assert_allclose(grads[1][name], grad, rtol=1e-5, atol=1e-7)


# -- one seed, one result ----------------------------------------------------------------------


def test_one_seed_gives_the_same_bits_twice(straight, tmp_path):
    again = run_to_the_end(tmp_path / "again")
    assert weights(again) == weights(straight)
    assert without_clock(read_metrics(again)) == without_clock(read_metrics(straight))


def test_another_seed_gives_other_weights(straight, tmp_path):
    other = run_to_the_end(tmp_path / "other", tiny_config(epochs=3, seed=1))
    assert all(weights(other)[name] != array for name, array in weights(straight).items())


def test_the_seed_decides_the_first_weights_the_order_and_the_shifts(tmp_path):
    draws = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = Run(tiny_config(seed=seed), tmp_path / name, say=quiet)
        order, shifts = zip(*epoch_batches(seed, 1, 100, 10), strict=True)
        shifts = [rng.integers(100, size=3) for rng in shifts]
        draws.append([run.network.state()["conv.W"], np.concatenate(order), np.array(shifts)])
    for first, same, other in zip(*draws, strict=True):
        assert (first == same).all() and (first != other).any()


def test_order_and_shifts_follow_from_seed_epoch_and_batch_alone(tmp_path, monkeypatch):
    shifted = spy(monkeypatch, augment, "shift")
    Run(tiny_config(epochs=2, seed=3), tmp_path, say=quiet).train()
    images, *_ = small_dataset().split()
    calls = iter(shifted)
    for epoch in (1, 2):
        order = np.random.default_rng([3, 1, epoch]).permutation(270)
        for k in range(6):
            found, largest, rng = next(calls)
            np.testing.assert_array_equal(found, images[order[50 * k : 50 * k + 50]])
            fresh = np.random.default_rng([3, 1, epoch, k + 1])
            fresh.integers(-1, 1, size=(2, len(found)), endpoint=True)  # what the shift drew
            assert largest == 1 and rng.bit_generator.state == fresh.bit_generator.state


# -- stopping and resuming ---------------------------------------------------------------------


STOPS = {
    "in the first epoch": ("progress", 2),
    "after the first epoch": ("say", 1),
    "in the second epoch": ("progress", 9),
    "after the last epoch": ("say", 3),
}


@pytest.mark.parametrize("callback, count", STOPS.values(), ids=STOPS)
def test_a_run_that_was_stopped_resumes_bit_for_bit(straight, tmp_path, callback, count):
    with pytest.raises(KeyboardInterrupt):
        Run(THREE_EPOCHS, tmp_path, **{"say": quiet, callback: interrupt_at(count)}).train()
    summary = Run.resume(tmp_path, say=quiet).train()
    assert weights(tmp_path) == weights(straight)
    assert without_clock(read_metrics(tmp_path)) == without_clock(read_metrics(straight))
    assert summary["test_accuracy"] == json.loads((straight / "summary.json").read_text())["test_accuracy"]


def test_the_margin_of_the_spread_loss_grows_evenly_over_the_whole_run(tmp_path, monkeypatch):
    margins = []

    def noted(source, *given):
        margins.append(source.objective.margin)
        return train_step(source, *given)

    monkeypatch.setattr(runs, "train_step", noted)
    config = tiny_config(model="matrix", epochs=2, limit=90, batch_size=30, data=None)
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path, say=interrupt_at(1)).train()
    Run.resume(tmp_path, say=quiet).train()
    np.testing.assert_allclose(margins, 0.2 + 0.7 * np.arange(6) / 6)


@pytest.mark.parametrize("model", ["cnn", "efficient", "matrix", "mlp"])
def test_the_other_networks_resume_bit_for_bit_too(tmp_path, model):
    config = tiny_config(model=model, epochs=2, schedule="exponential", warmup=3)
    run_to_the_end(tmp_path / "straight", config)
    with pytest.raises(KeyboardInterrupt):
        Run(config, tmp_path / "stopped", say=interrupt_at(1)).train()
    Run.resume(tmp_path / "stopped", say=quiet).train()
    assert weights(tmp_path / "stopped") == weights(tmp_path / "straight")


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_stop_between_checkpoint_and_metrics_loses_no_epoch(straight, tmp_path, monkeypatch, epoch):
    calls = iter(range(epoch + 1))
    write_text = files.write_text

    def stop_at_the_metrics(path, text):
        if path.name == "metrics.jsonl" and next(calls) == epoch - 1:
            raise KeyboardInterrupt
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_text", stop_at_the_metrics)
        with pytest.raises(KeyboardInterrupt):
            Run(THREE_EPOCHS, tmp_path, say=quiet).train()
    Run.resume(tmp_path, say=quiet).train()
    assert without_clock(read_metrics(tmp_path)) == without_clock(read_metrics(straight))


def test_resuming_knows_what_is_done(straight):
    run = Run.resume(straight, say=quiet)
    assert run.finished and run.config == THREE_EPOCHS
    assert run.epochs == read_metrics(straight) and run.optimizer.steps == 3 * 6


def test_resuming_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Run.resume(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"epochs": 0}', '{"layers": 3}', '{"epochs": "4"}', '{"preset": "huge"}']
)
def test_a_damaged_configuration_is_refused_with_the_file_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: damaged"):
        Run.resume(tmp_path)


DAMAGES = {
    "a weight is missing": lambda arrays, _: arrays.pop("network/conv.W"),
    "an average is missing": lambda arrays, _: arrays.pop("optimizer/m/conv.W"),
    "a weight has another shape": lambda arrays, _: arrays.update({"network/conv.W": np.zeros(3)}),
    "an unknown part": lambda arrays, _: arrays.update({"other/x": np.zeros(3)}),
    "no epochs": lambda _, description: description.pop("epochs"),
    "no progress": lambda _, description: description.pop("progress"),
    "progress of nothing": lambda _, description: description.update(progress=None),
    "unknown progress": lambda _, description: description["progress"].update(pages=3),
    "another option": lambda _, description: description["config"].update(batch_size=49),
    "an unknown option": lambda _, description: description["config"].update(layers=3),
    "no configuration": lambda _, description: description.pop("config"),
    "another data set": lambda _, description: description.update(data="0" * 64),
    "no data set": lambda _, description: description.pop("data"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_of_another_run_is_refused(straight, tmp_path, damage):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    arrays, description = files.read(tmp_path / "checkpoint.npz")
    damage(arrays, description)
    files.write(tmp_path / "checkpoint.npz", arrays, description)
    with pytest.raises(ValueError, match=r"checkpoint\.npz: does not belong to this run"):
        Run.resume(tmp_path)


def test_a_truncated_checkpoint_is_refused(straight, tmp_path):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    content = (tmp_path / "checkpoint.npz").read_bytes()
    (tmp_path / "checkpoint.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.npz: truncated, after"):
        Run.resume(tmp_path)


# -- the folder --------------------------------------------------------------------------------


def test_the_folder_has_every_file(straight):
    assert {path.name for path in straight.iterdir()} == {
        *("config.json", "metrics.jsonl", "model.npz", "checkpoint.npz", "summary.json", ".lock"),
        *("best.npz", "learning_curves.png", "mistakes.png", "reconstructions.png", "confusion_matrix.png"),
        "scores.png",
    }


def test_config_json_holds_the_configuration(straight):
    assert read_config(straight) == THREE_EPOCHS


def test_metrics_has_one_object_for_every_epoch(straight):
    metrics = read_metrics(straight)
    assert [row["epoch"] for row in metrics] == [1, 2, 3]
    for row in metrics:
        assert row.keys() == {
            *("epoch", "epochs", "train_loss", "train_accuracy", "learning_rate", "images_per_second"),
            *("validation_loss", "validation_accuracy", "seconds"),
        }


def test_summary_has_every_number(straight):
    summary = json.loads((straight / "summary.json").read_text())
    assert summary.keys() >= {
        *("test_accuracy", "test_error_percent", "unshifted_test_accuracy", "parameters", "epochs"),
        *("seconds", "images_per_second", "seed", "preset"),
    }
    assert summary["epochs"] == 3 and summary["seed"] == 0 and summary["preset"] == "tiny"
    assert summary["train_images"] == 270 and summary["test_images"] == 100
    assert summary["parameters"] == THREE_EPOCHS.network(small_dataset()).count_params()
    assert summary["test_error_percent"] == pytest.approx(100 - 100 * summary["test_accuracy"])
    assert summary["unshifted_test_accuracy"] == summary["test_accuracy"]
    assert summary["seconds"] > 0 and summary["images_per_second"] > 0


def test_the_accuracy_in_the_summary_is_that_of_the_saved_model(straight):
    network, class_names = load_network(straight / "model.npz")
    images, labels = small_dataset().test_images, small_dataset().test_labels
    scores = network.scores(network(datasets.to_float(images)))
    correct = sum(class_names[row.argmax()] == str(k) for row, k in zip(scores, labels, strict=True))
    assert json.loads((straight / "summary.json").read_text())["test_accuracy"] == correct / 100


def test_the_validation_numbers_are_those_of_the_checkpoint(straight):
    run = Run.resume(straight, say=quiet)
    images, labels = small_dataset().train_images[270:], small_dataset().train_labels[270:]
    last = evaluate(run.network, images, labels)
    assert run.epochs[-1]["validation_loss"] == pytest.approx(last.loss, rel=1e-5)
    assert run.epochs[-1]["validation_accuracy"] == last.accuracy


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(straight):
    before = {path.name: path.read_bytes() for path in straight.iterdir()}
    with pytest.raises(FileExistsError, match="holds a run already; continue it with --resume"):
        Run(tiny_config(seed=5), straight)
    assert {path.name: path.read_bytes() for path in straight.iterdir()} == before


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path, monkeypatch):
    def load(*given):
        raise FileNotFoundError("no data")

    monkeypatch.setattr(runs, "load", load)
    with pytest.raises(FileNotFoundError, match="no data"):
        Run(tiny_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- what trains on what -----------------------------------------------------------------------

TRAINING, VALIDATION, TEST = 100, 150, 250  # the brightest pixel of the images of each part


@pytest.fixture
def marked(monkeypatch):
    """A set whose images show by their brightness which part they belong to."""
    rng = np.random.default_rng(0)
    parts = []
    for count, brightest in ((270, TRAINING), (30, VALIDATION), (60, TEST)):
        images = rng.integers(1, 50, (count, 28, 28, 1), dtype=np.uint8)
        images[:, 10:18, 10:18] = brightest
        parts.append(images)
    train_images, labels = np.concatenate(parts[:2]), np.arange(300) % 10
    marked = datasets.Dataset(train_images, labels, parts[2], labels[:60], tuple("0123456789"), "marked")
    monkeypatch.setattr(runs, "load", lambda *given: marked)
    return marked


def spy(monkeypatch, owner, name):
    """Record the arguments of every call of owner.name, and let it do its work."""
    original, calls = getattr(owner, name), []

    def recorded(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, recorded)
    return calls


def test_only_training_images_are_shifted_and_trained_on(marked, tmp_path, monkeypatch):
    shifted = spy(monkeypatch, augment, "shift")
    steps = spy(monkeypatch, processes, "backpropagate")
    run_to_the_end(tmp_path, tiny_config(epochs=2))
    assert len(shifted) == len(steps) == 12
    assert all((images.max(axis=(1, 2, 3)) == TRAINING).all() for images, *_ in shifted)
    assert max(float(images.max()) for *_, images, _ in steps) == pytest.approx(TRAINING / 255)


def test_every_training_image_is_seen_once_per_epoch_with_its_label(tmp_path, monkeypatch):
    steps = spy(monkeypatch, processes, "backpropagate")
    run_to_the_end(tmp_path, tiny_config(shift=0))
    seen = [
        (x.tobytes(), int(label))
        for *_, images, labels in steps
        for x, label in zip(images, labels, strict=True)
    ]
    images, labels, *_ = small_dataset().split()
    expected = [(x.tobytes(), int(k)) for x, k in zip(datasets.to_float(images), labels, strict=True)]
    assert sorted(seen) == sorted(expected) and seen != expected


def test_limit_keeps_the_first_training_images_and_all_validation_images(marked, tmp_path, monkeypatch):
    shifted = spy(monkeypatch, augment, "shift")
    evaluated = spy(monkeypatch, runs, "evaluate")
    run_to_the_end(tmp_path, tiny_config(limit=20))
    seen = np.concatenate([images for images, *_ in shifted])
    assert sorted(map(bytes, seen)) == sorted(map(bytes, marked.train_images[:20]))
    assert [len(images) for _, images, *_ in evaluated] == [30, 60]


def test_validation_and_test_images_are_evaluated_as_they_are(marked, tmp_path, monkeypatch):
    evaluated = spy(monkeypatch, runs, "evaluate")
    run_to_the_end(tmp_path)
    parts = [(marked.train_images[270:], marked.train_labels[270:])] * 3
    for (_, *found), expected in zip(
        evaluated, [*parts, (marked.test_images, marked.test_labels)], strict=True
    ):
        for array, original in zip(found[:2], expected, strict=True):
            np.testing.assert_array_equal(array, original)


def test_the_test_set_is_read_once_at_the_end_after_the_last_update(marked, tmp_path, monkeypatch):
    run, happened = Run(THREE_EPOCHS, tmp_path, say=quiet), []
    evaluate, backpropagate = training.evaluate, training.backpropagate

    def watched_evaluate(network, images, *rest):
        happened.append({VALIDATION: "validate", TEST: "test"}[int(images.max())])
        return evaluate(network, images, *rest)

    def watched_step(*arguments):
        happened.append("step")
        return backpropagate(*arguments)

    monkeypatch.setattr(runs, "evaluate", watched_evaluate)
    monkeypatch.setattr(processes, "backpropagate", watched_step)
    run.train()
    assert happened == (["step"] * 6 + ["validate"]) * 3 + ["test"]


def test_the_test_set_is_judged_with_the_last_weights(marked, tmp_path, monkeypatch):
    evaluated = spy(monkeypatch, runs, "evaluate")
    run_to_the_end(tmp_path)
    tested = evaluated[-1][0].state()
    assert {name: array.tobytes() for name, array in tested.items()} == weights(tmp_path)


# -- figures -----------------------------------------------------------------------------------


def test_figures_are_drawn_last_of_what_the_test_set_gave(tmp_path):
    seen = []

    def look(run, test):
        written = {path.name for path in tmp_path.iterdir()}
        assert written >= {"model.npz", "summary.json", "metrics.jsonl"} and run.finished
        seen.append(test)

    run = Run(tiny_config(), tmp_path, say=quiet)
    summary = run.train(look)
    assert len(seen) == 1 and seen[0].accuracy == summary["test_accuracy"]
    np.testing.assert_array_equal(seen[0].predictions, run.network.predict(small_dataset().test_images))


def test_a_figure_that_fails_is_a_warning_and_the_run_is_complete(straight, tmp_path):
    def fail(run, test):
        raise ValueError("no colour left")

    lines = []
    Run(THREE_EPOCHS, tmp_path, say=lines.append).train(fail)
    assert lines[-1] == "warning: the figures could not all be drawn (ValueError: no colour left)"
    assert Run.resume(tmp_path).finished and weights(tmp_path) == weights(straight)


# -- batches -----------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 9))
def test_batches_are_a_permutation_cut_into_equal_groups(count, size, seed):
    groups = list(training.batches(count, size, np.random.default_rng(seed)))
    assert sorted(np.concatenate(groups).tolist()) == list(range(count))
    assert all(len(group) == size for group in groups[:-1]) and 1 <= len(groups[-1]) <= size


# -- evaluation --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["capsnet", "cnn", "efficient", "matrix", "mlp"])
def test_evaluation_does_not_depend_on_the_batch_size(model):
    network = tiny_config(model=model).network(small_dataset())
    images, labels = small_dataset().test_images, small_dataset().test_labels
    one, seven, hundred = (evaluate(network, images, labels, size) for size in (1, 7, 100))
    for other in (one, seven):
        assert other.loss == pytest.approx(hundred.loss, rel=1e-5)
        assert other.accuracy == hundred.accuracy
        np.testing.assert_allclose(other.scores, hundred.scores, atol=1e-5)
        np.testing.assert_array_equal(other.predictions, hundred.predictions)


def test_evaluation_counts_its_own_predictions():
    network = tiny_config().network(small_dataset())
    images, labels = small_dataset().test_images, small_dataset().test_labels
    result = evaluate(network, images, labels)
    assert result.accuracy == sum(p == k for p, k in zip(result.predictions, labels, strict=True)) / 100
    np.testing.assert_array_equal(result.predictions, result.scores.argmax(axis=1))


def test_predictions_do_not_depend_on_the_labels():
    network = tiny_config().network(small_dataset())
    images, labels = small_dataset().test_images, small_dataset().test_labels
    right, wrong = evaluate(network, images, labels), evaluate(network, images, (labels + 1) % 10)
    np.testing.assert_array_equal(right.scores, wrong.scores)


def test_evaluation_changes_nothing():
    network = tiny_config().network(small_dataset())
    before = network.state()
    evaluate(network, small_dataset().test_images, small_dataset().test_labels)
    for name, array in network.state().items():
        np.testing.assert_array_equal(array, before[name])
    assert all((grad == 0).all() for grad in network.grads.values())


def test_evaluation_of_no_images_is_refused():
    network = tiny_config(model="mlp").network(small_dataset())
    with pytest.raises(ValueError, match="there are no images"):
        evaluate(network, small_dataset().test_images[:0], small_dataset().test_labels[:0])


@pytest.mark.parametrize("test_shift", [1, 2])
def test_scores_are_the_means_of_all_shifted_copies(test_shift):
    images, labels = small_dataset().test_images[:30], small_dataset().test_labels[:30]
    network = tiny_config(seed=2).network(small_dataset())
    result = evaluate(network, images, labels, batch_size=7, test_shift=test_shift)
    wide = np.pad(images, ((0, 0), (test_shift, test_shift), (test_shift, test_shift), (0, 0)))
    steps = range(2 * test_shift + 1)
    copies = [wide[:, r : r + 28, c : c + 28] for r in steps for c in steps]  # each shift once
    found = [evaluate(network, copy, labels) for copy in copies]
    scores = sum(each.scores for each in found) / len(copies)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-5)
    np.testing.assert_array_equal(result.predictions, scores.argmax(axis=1))
    assert result.accuracy == (result.predictions == labels).mean()
    assert result.loss == pytest.approx(sum(each.loss for each in found) / len(copies), rel=1e-6)
    assert result.unshifted_accuracy == evaluate(network, images, labels).accuracy


def test_without_shifted_copies_images_are_taken_as_they_are():
    images, labels = small_dataset().test_images[:30], small_dataset().test_labels[:30]
    network = tiny_config(seed=2).network(small_dataset())
    plain, zero = evaluate(network, images, labels), evaluate(network, images, labels, test_shift=0)
    assert plain.accuracy == plain.unshifted_accuracy == zero.accuracy and plain.loss == zero.loss
    np.testing.assert_array_equal(plain.scores, zero.scores)


@pytest.mark.parametrize(
    "test_shift, message",
    [
        (-1, "test_shift is -1, expected a whole number, 0 or more"),
        (1.5, "test_shift is 1.5, expected a whole number"),
        (28, "test_shift is 28, which moves images of 28×28 out of sight; expected less than 28"),
    ],
)
def test_copies_that_cannot_be_are_refused(test_shift, message):
    images, labels = small_dataset().test_images, small_dataset().test_labels
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_config().network(small_dataset()), images, labels, test_shift=test_shift)


def test_images_with_two_labels_have_no_shifted_copies():
    network = OverlapCapsNet(PRESETS["tiny"], rng=0)
    images = small_dataset().test_images[:8].reshape(4, 2, 28, 28, 1)  # the two parts of each
    labels = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    assert 0 <= evaluate(network, images, labels).accuracy <= 1
    with pytest.raises(ValueError, match=r"labels have shape \(4, 2\), expected \(N,\)"):
        evaluate(network, images, labels, test_shift=1)


def test_the_test_of_a_run_is_made_of_copies_and_its_validation_is_not(tmp_path, monkeypatch):
    evaluated = spy(monkeypatch, runs, "evaluate")
    summary = Run(tiny_config(test_shift=3), tmp_path, say=quiet).train()
    *validations, (network, images, labels, size, test_shift) = evaluated
    assert test_shift == 3 and {len(given) for given in validations} == {4}
    again = evaluate(network, images, labels, size, test_shift)
    plain = evaluate(network, images, labels)
    assert summary["test_accuracy"] == again.accuracy != plain.accuracy
    assert summary["unshifted_test_accuracy"] == plain.accuracy == again.unshifted_accuracy


# -- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, rate",
    [
        ({}, 4e-3),
        ({"preset": "paper"}, 1e-3),
        ({"model": "mlp"}, 4e-3),
        ({"preset": "paper", "learning_rate": 0.5}, 0.5),
    ],
)
def test_the_learning_rate_follows_the_size_unless_it_is_given(options, rate):
    config = TrainConfig(**options)
    assert config.largest_learning_rate == rate and f"learning_rate={rate}" in str(config).split("  ")
    again = TrainConfig(**asdict(config))  # what config.json holds
    assert again == config and again.learning_rate == options.get("learning_rate")
    for schedule in ("constant", "cosine", "exponential"):
        assert replace(config, schedule=schedule).learning_rates(10)(0) == rate


def test_a_config_json_that_holds_the_learning_rate_that_is_used_means_the_same(tmp_path):
    Run(tiny_config(), tmp_path, say=quiet)
    old = json.loads((tmp_path / "config.json").read_text())
    assert old["learning_rate"] is None
    (tmp_path / "config.json").write_text(json.dumps(old | {"learning_rate": 0.004}))
    assert read_config(tmp_path).largest_learning_rate == tiny_config().largest_learning_rate


@pytest.mark.parametrize("batch_size", [50, 300])
def test_a_far_too_large_learning_rate_ends_in_one_clear_error(tmp_path, batch_size):
    with pytest.raises(Diverged, match=r"loss is nan .* \(it is 1e\+30\)"):
        Run(tiny_config(learning_rate=1e30, batch_size=batch_size), tmp_path, say=quiet).train()
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    "name, value",
    [
        *(
            (name, value)
            for name in ("epochs", "batch_size", "limit", "routing_iterations")
            for value in (0, -1, 1.5, True)
        ),
        *((name, value) for name in ("warmup", "shift", "seed") for value in (-1, 1.5)),
        *(("learning_rate", value) for value in (0.0, -1e-3, np.nan, np.inf, True, "0.1", 10**400)),
        ("epochs", 1 << 63),
        ("seed", True),
        ("decoder", "no"),
        ("data", 3),
        ("model", "transformer"),
        ("preset", "huge"),
        ("schedule", "linear"),
        ("backend", "torch"),
    ],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"train: {name} is {value!r}, expected"):
        TrainConfig(**{name: value})


def test_routing_iterations_and_decoder_reach_the_network():
    network = tiny_config(routing_iterations=1, decoder=False).network(small_dataset())
    assert network.config.iterations == 1 and network.decoder is None


@pytest.mark.parametrize(
    "schedule, last", [("constant", 1.0), ("exponential", 0.96 ** (99 / 2000)), ("cosine", 0.0)]
)
def test_the_schedule_reaches_the_optimizer(schedule, last):
    rates = TrainConfig(schedule=schedule, learning_rate=0.01, warmup=10).learning_rates(100)
    assert rates(0) == pytest.approx(0.001) and rates(9) == pytest.approx(0.01, abs=2e-5)
    assert rates(99) == pytest.approx(0.01 * last, abs=2e-5)
