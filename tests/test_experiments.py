"""Every experiment on small data and a few steps, and what each counts, chooses and writes."""

import json
import math
import re
from dataclasses import asdict

import numpy as np
import pytest
from helpers import mnist, small_dataset, write_folder

from minicaps import CapsuleLayer, DynamicRouting
from minicaps.capsules import Stopped
from minicaps.cli import main
from minicaps.datasets import Warps, augment
from minicaps.experiments import (
    EXPERIMENTS,
    affine,
    compare,
    few,
    overlap,
    rotate,
    routing,
    routing_training,
    settings_of,
    study,
    training,
)
from minicaps.experiments.ablation import BASE, GROUPS, OverChildren, Variant
from minicaps.experiments.routing_arms import ARMS, couplings, describe_couplings
from minicaps.networks import MLP, CapsNet, MLPConfig, load_pretrained
from minicaps.proof import gradcheck
from minicaps.training import DataParallel, Result

FIGURES = {
    "compare": {"validation_curves", "validation_curves_batch_100"},
    "few": {"accuracy_against_images"},
    "folds": {"folds"},
    "ablation": {"variants", "iterations"},
    "affine": {"images", "sweeps", "validation_curves"},
    "overlap": {"reconstructions", "validation_curves"},
    "routing": {"tests", "turned"},
    "rotate": {"turning", "one_digit"},
}
TRAINED = [name for name, each in EXPERIMENTS.items() if each.defaults]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_folder(tmp_path_factory.mktemp("data"), small_dataset(300, 60)))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module, sizes in {
        overlap: {"BATCH": 10, "VALIDATION_PAIRS": 20, "TEST_PAIRS": 40},
        affine: {"BATCH": 10, "SWEEP_IMAGES": 10},
        rotate: {"IMAGES": 30},
        few: {"COUNTS": (20, 100, 1_000), "BATCH": 10},
        routing: {"LEARNING_RATES": (1e-3,)},
        routing_training: {"BATCH": 10, "VALIDATION_IMAGES": 20, "TURNED_IMAGES": 20, "COUPLED_IMAGES": 20},
    }.items():
        for name, size in sizes.items():
            monkeypatch.setattr(module, name, size)


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """Return a function that runs an experiment once and returns its folder."""
    folders = {}

    def run(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            assert main(arguments(name, data, folders[name])) == 0
        return folders[name]

    return run


def arguments(name, data, folder, *more):
    seeds = "1" if name in ("ablation", "affine", "routing") else "2"
    options = ["--steps", "3", "--seeds", seeds, "--preset", "tiny"] if name in TRAINED else []
    return ["experiment", name, *options, "--data", data, "--out", str(folder), "--debug", *more]


def read(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_writes_its_result_its_table_and_its_figures(results, name):
    folder = results(name)
    assert read(folder)["experiment"] == name
    lines = (folder / "table.md").read_text().splitlines()
    assert lines[1].startswith("| --- |") and len({line.count("|") for line in lines[: lines.index("")]}) == 1
    assert not re.search(r"\bnan\b|None", (folder / "table.md").read_text())
    assert {path.stem for path in folder.glob("*.png")} == FIGURES[name]


@pytest.mark.parametrize("name", TRAINED)
def test_a_finished_experiment_trains_nothing_again(results, data, name, monkeypatch, capsys):
    folder = results(name)
    before = read(folder)
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained again"))
    assert main(arguments(name, data, folder)) == 0
    assert read(folder) == before
    assert f"{len(before['rows'])} finished trainings are taken over" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["few", "overlap"])
def test_the_same_settings_give_the_same_result(results, data, name, tmp_path):
    assert main(arguments(name, data, tmp_path)) == 0
    assert without_times(read(tmp_path)) == without_times(read(results(name)))


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if not key.startswith("seconds")}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def test_an_interrupted_experiment_keeps_what_is_finished(data, tmp_path, monkeypatch, capsys):
    save, saved = study.Study.save, []

    def interrupted(self):
        save(self)
        saved.append(1)
        if len(self.result["rows"]) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(study.Study, "save", interrupted)
    assert main(arguments("few", data, tmp_path)) == 130
    assert "2 finished trainings are kept" in capsys.readouterr().err
    assert len(read(tmp_path)["rows"]) == 2


# -- the command line --------------------------------------------------------------------------


def test_help_lists_the_experiments_and_their_options(capsys):
    assert main(["experiment", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in EXPERIMENTS)
    for name in TRAINED:
        assert main(["experiment", name, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        for flag in ("--seeds", "--minutes", "--preset", "--seed", "--out", "--steps"):
            assert flag in text
        assert f"(default: {settings_of(name).seeds})" in text


@pytest.mark.parametrize("line, reason", [
    ("", "required: NAME"), ("fly", "invalid choice: 'fly'"), ("few --seeds 0", "seeds"),
    ("few --minutes -1", "minutes is -1.0"), ("few --steps 0", "steps"), ("rotate --seeds 2", "unrecognized"),
    ("affine --networks cnn", "unrecognized"), ("rotate --run nowhere", "nowhere"),
    ("few --data nowhere", "nowhere"), ("routing --arms fly", "invalid choice: 'fly'"),
    ("affine --arms em", "unrecognized"), ("routing --networks cnn", "unrecognized"),
])  # fmt: skip
def test_wrong_use_ends_with_2(line, reason, capsys, tmp_path):
    assert main(["experiment", *line.split(), *(["--out", str(tmp_path)] if line else [])]) == 2
    assert reason in capsys.readouterr().err


def test_a_folder_of_other_settings_ends_with_2(results, data, capsys):
    folder = results("few")
    assert main([*arguments("few", data, folder)[:-1], "--seed", "7"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_networks_can_be_chosen(data, tmp_path):
    assert main(arguments("overlap", data, tmp_path, "--networks", "capsnet")) == 0
    result = read(tmp_path)
    assert {row["network"] for row in result["rows"]} == {"capsnet"}
    rows = result["rows"]
    assert result["exact_match"] == pytest.approx(np.mean([row["exact_match"] for row in rows]))
    assert 0 <= result["exact_match"] <= result["per_digit"] <= 1


# -- compare and few ---------------------------------------------------------------------------


def test_compare_trains_as_many_epochs_whatever_the_batch(data, tmp_path):
    assert main([*arguments("compare", data, tmp_path), "--steps", "6", "--seeds", "1"]) == 0
    rows = {row["label"]: row for row in read(tmp_path)["rows"]}  # 210 of 300 images: 3 batches of 100
    assert {label: row["epochs"] for label, row in rows.items()} == {label: 2 for label in rows}
    assert [point["epoch"] for point in rows["CapsNet, batch 100"]["curve"]] == [1, 2]
    assert rows["MLP, batch 128"]["curve"][-1]["step"] == 2 * math.ceil(210 / 128)
    assert rows["CNN, batch 1000"]["curve"][-1]["step"] == 2
    assert rows.keys() == compare.PLANS.keys()
    figures = {path.stem for path in tmp_path.glob("*.png")}
    assert figures == {"validation_curves", "validation_curves_batch_100"}


def test_the_cosine_of_a_plan_ends_with_its_training(data, tmp_path, monkeypatch):
    told, adam = {}, compare.Plan.adam

    def note(plan, network, steps):
        told[plan.label] = steps
        return adam(plan, network, steps)

    monkeypatch.setattr(compare.Plan, "adam", note)
    assert main([*arguments("compare", data, tmp_path), "--steps", "6", "--seeds", "1"]) == 0
    assert told == {row["label"]: row["curve"][-1]["step"] for row in read(tmp_path)["rows"]}


@pytest.mark.parametrize("label", compare.PLANS)
def test_the_learning_rate_of_a_plan_stays_unless_it_has_a_cosine(label):
    plan = compare.PLANS[label]
    schedule = plan.adam(MLP(MLPConfig((2, 2, 1), 2, hidden=2), rng=0), steps=10).schedule
    first, last = schedule(0), schedule(9)
    assert first == plan.learning_rate
    assert (last < 0.05 * first) if label.endswith("cosine") else (last == first)


def test_few_leaves_out_what_the_data_does_not_have(results):
    rows = read(results("few"))["rows"]
    assert {(row["network"], row["images"]) for row in rows} == {
        (name, count) for name in ("mlp", "cnn", "capsnet") for count in (20, 100)
    }
    assert {row["step"] for row in rows} == {3}


# -- ablation ----------------------------------------------------------------------------------


def test_the_ablation_trains_each_variant_once_on_as_many_images(results):
    rows = read(results("ablation"))["rows"]
    variants = {variant for members in GROUPS.values() for variant in members.values()}
    assert len(variants) == len(rows) == 20
    assert {Variant(**row["variant"]) for row in rows} == variants
    steps = {(row["variant"]["batch_size"], row["step"]) for row in rows}
    assert steps == {(32, 12), (128, 3)}


@pytest.mark.parametrize("group", GROUPS)
def test_the_variants_of_a_group_differ_in_one_thing(group):
    members = list(GROUPS[group].values())
    differing = [name for name in vars(BASE) if len({getattr(each, name) for each in members}) > 1]
    assert len(differing) == (2 if group == "learning rate" else 1)


def network_of(**options):
    return Variant(**options).build("tiny", small_dataset(20, 10), seed=3)


def test_a_variant_is_what_it_says():
    config = network_of().config
    assert (config.iterations, config.stopped_gradient, config.class_dimension) == (3, False, 16)
    assert config.reconstruction_scale == 0.0005
    assert network_of(reconstruction="mean").config.reconstruction_scale == 0.0005 / 784
    assert network_of(reconstruction="none").decoder is None
    assert isinstance(network_of(gradient="stopped").capsules.routing.coupling, Stopped)
    W, wide = (network_of(std=std).params["capsules.votes.W"] for std in (0.05, 1.0))
    assert np.isclose(W.std(), 0.05, rtol=0.02) and np.isclose(wide.std(), 1.0, rtol=0.02)
    np.testing.assert_allclose(wide, 20 * W, rtol=1e-5)
    assert isinstance(network_of(softmax_over="children").capsules.routing.coupling, OverChildren)


def test_couplings_over_children_sum_to_1_over_the_children_and_not_the_parents():
    u_hat = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    _, cache = DynamicRouting(3, coupling=OverChildren()).forward(u_hat)
    for c in cache.c:
        np.testing.assert_allclose(c.sum(axis=1), 1)
    assert np.allclose(cache.c[0], 1 / 5) and not np.allclose(cache.c[2].sum(axis=2), 1)


def test_the_capsule_layer_of_the_wrong_variant_has_the_gradient_of_what_it_computes():
    rng = np.random.default_rng(1)
    layer = CapsuleLayer(5, 3, 4, 6, coupling=OverChildren(), std=0.7, rng=rng, dtype=np.float64)
    gradcheck(layer, [rng.normal(size=(2, 5, 3))]).raise_if_failed()


def test_a_variant_that_diverges_is_a_result(results, data, tmp_path, monkeypatch, capsys):
    result = read(results("ablation"))
    lost = next(row for row in result["rows"] if row["variant"] == asdict(Variant(std=1.0)))
    result["rows"].remove(lost)
    (tmp_path / "result.json").write_text(json.dumps(result))
    nothing = Result(np.float32("nan"), np.int64(0))
    monkeypatch.setattr(DataParallel, "backpropagate", lambda *_: nothing)
    assert main(arguments("ablation", data, tmp_path)) == 0
    assert re.search(r"^\d+/20  .*nan.*step 1", capsys.readouterr().out, re.MULTILINE)
    assert "| 1 (1 of 1 diverged) |" in (tmp_path / "table.md").read_text()
    row = read(tmp_path)["rows"][-1]
    assert row["step"] == 0 and row["variant"] == lost["variant"] and 0 <= row["accuracy"] <= 1


# -- affine ------------------------------------------------------------------------------------


def a_training(*accuracies, between=()):
    curve = [{"step": 10 * k, "accuracy": accuracy} for k, accuracy in enumerate(accuracies, 1)]
    return {"curve": curve, "kept": sorted([*between, *(each["step"] for each in curve)])}


def never(step):
    pytest.fail("a moment was validated without need")


def test_the_moment_nearest_to_the_goal_is_chosen():
    assert affine.search(a_training(0.5, 0.9, 0.95), 0.93, never) == {"step": 30, "accuracy": 0.95}
    assert affine.search(a_training(0.5, 0.93, 0.95, between=[15, 25]), 0.9302, never)["step"] == 20


def test_moments_between_are_validated_until_one_is_near():
    found = {16: 0.7, 18: 0.8, 24: 0.9202, 26: 0.93, 28: 0.94}
    asked = []

    def validate(step):
        asked.append(step)
        return {"accuracy": found[step]}

    row = a_training(0.5, 0.91, 0.95, between=found)
    assert affine.search(row, 0.92, validate) == {"step": 24, "accuracy": 0.9202}
    assert asked == [24]  # 0.91 + 0.4 * 0.04 = 0.926 is the nearest by interpolation
    found[24] = 0.9203  # more than CLOSE / 2 away
    asked.clear()
    assert affine.search(row, 0.92, validate) == {"step": 24, "accuracy": 0.9203}
    assert sorted(asked) == sorted(found) and asked[0] == 24


def test_no_more_moments_are_validated_than_allowed(monkeypatch):
    monkeypatch.setattr(affine, "MAX_TRIES", 1)
    asked = []
    row = a_training(0.5, 0.95, between=[14, 16, 18])
    affine.search(row, 0.8, lambda step: asked.append(step) or {"accuracy": 0.1})
    assert asked == [16]


def test_the_chosen_weights_are_kept_and_tested(results, data):
    folder = results("affine")
    tests = [row for row in read(folder)["rows"] if row["kind"] == "test"]
    assert len(tests) == len(affine.NETWORKS) == len(list((folder / "weights").glob("*.npz")))
    for row in tests:
        (trained,) = (
            each
            for each in read(folder)["rows"]
            if (each["kind"], each["network"], each["seed"]) == ("training", row["network"], row["seed"])
        )
        (point,) = (point for point in trained["curve"] if point["step"] == row["step"])
        assert row["validation"] == point["accuracy"]


def test_warped_test_images_stand_where_the_placed_ones_do():
    images = mnist().test_images[:300]
    placed, warped = affine.warped_test(images)
    assert placed.shape == warped.shape == (300, 40, 40, 1)
    np.testing.assert_array_equal(placed.sum(axis=(1, 2, 3)), images.sum(axis=(1, 2, 3)))  # whole digits
    rows = np.arange(40)[:, None, None]
    middles = [(x * rows).sum(axis=(1, 2, 3)) / x.sum(axis=(1, 2, 3)) for x in (placed, warped)]
    assert np.abs(middles[0] - middles[1]).max() < 5 and np.ptp(middles[0]) > 10
    np.testing.assert_array_equal(affine.warped_test(images)[1], warped)


def test_the_sweeps_pass_through_the_images_that_are_not_warped(results):
    for row in read(results("affine"))["rows"]:
        if row["kind"] == "test":
            assert len({each[len(each) // 2] for each in row["sweeps"].values()}) == 1
            assert all(len(each) == len(affine.SWEEPS[kind]) for kind, each in row["sweeps"].items())
    assert {kind: float(x[len(x) // 2]) for kind, x in affine.SWEEPS.items()} == pytest.approx(
        {"angle": 0, "shear": 0, "scale": 1}
    )


# -- routing -----------------------------------------------------------------------------------

JOBS = [(arm, loss) for arm in ARMS for loss in ARMS[arm].losses]


def test_all_arms_start_from_one_trunk_and_see_the_same_batches(data, tmp_path, monkeypatch):
    begun, step = [], training.train_step

    def note(source, optimizer, x, y):
        if optimizer.steps == 0:
            begun.append((source.network, [param.copy() for param in source.network.params.values()], []))
        begun[-1][2].append(hash((x.tobytes(), y.tobytes())))
        return step(source, optimizer, x, y)

    monkeypatch.setattr(training, "train_step", note)
    assert main([*arguments("routing", data, tmp_path), "--seeds", "2"]) == 0
    assert len(begun) == 3 * len(JOBS)  # a trial each, then two seeds
    by_seed = [begun[k : k + len(JOBS)] for k in range(0, len(begun), len(JOBS))]
    for one, *others in by_seed:
        for network, start, batches in others:
            assert batches == one[2] and len(batches) == 3
            of_trunk = 5 if isinstance(network, CapsNet) else 4  # two convolutions; and the votes of capsules
            for mine, theirs in zip(start[:of_trunk], one[1], strict=False):
                np.testing.assert_array_equal(mine, theirs)
    for k in range(2):
        assert by_seed[k][0][2] != by_seed[k + 1][0][2]  # another seed, other batches
        assert (by_seed[k][0][1][0] != by_seed[k + 1][0][1][0]).any()  # and another trunk


@pytest.mark.parametrize("arm, loss", JOBS)
def test_an_arm_is_what_it_says(arm, loss):
    network = ARMS[arm].build("small", small_dataset(20, 10), loss, seed=3)
    assert 216_000 < network.count_params() < 219_000
    assert getattr(network, "decoder", None) is None
    scores = {"margin": "activation" if arm == "em" else "length"}.get(loss, "probability")
    assert network.score_name == scores
    kinds = {"cnn": None, "em": "EMRouting", "self-attention": "SelfAttentionRouting"}
    kinds["inverted-attention"] = "InvertedAttentionRouting"
    if kind := kinds.get(arm, "DynamicRouting"):
        assert type(network.capsules.routing).__name__ == kind


def test_one_arm_for_every_way_to_route_and_a_network_for_each_of_its_losses(results):
    rows = read(results("routing"))["rows"]
    assert len(rows) == 2 * len(JOBS) == 36
    assert {(row["arm"], row["loss"]) for row in rows if row["kind"] == "training"} == set(JOBS)
    assert {row["learning_rate"] for row in rows} == {1e-3}


def test_arms_can_be_chosen(data, tmp_path):
    assert main(arguments("routing", data, tmp_path, "--arms", "em", "cnn", "em")) == 0
    assert {row["arm"] for row in read(tmp_path)["rows"]} == {"em", "cnn"}


def comparison_of(data, folder, **options):
    settings = settings_of("routing", **{"preset": "tiny", "steps": 3, "data": data, **options})
    return routing_training.Comparison(study.Study("routing", settings, folder, say=lambda line: None))


def test_the_best_learning_rate_on_validation_is_taken(data, tmp_path):
    comparison = comparison_of(data, tmp_path)
    for rate, accuracy in ((1e-3, 0.5), (2e-3, 0.7), (5e-3, 0.6)):
        key = {"arm": "em", "loss": "margin", "learning_rate": rate}
        comparison.study.row(lambda accuracy=accuracy, **_: {"accuracy": accuracy}, "trial", **key)
    assert comparison.learning_rate("em", "margin") == 2e-3


def test_arms_are_turned_at_the_moment_nearest_to_the_goal(data, tmp_path, monkeypatch):
    monkeypatch.setattr(routing_training, "BETWEEN", 2)
    monkeypatch.setattr(routing_training, "CLOSE", 1.0)
    comparison = comparison_of(data, tmp_path, steps=6)
    comparison.study.row(lambda **_: {"accuracy": 0.5}, "trial", arm="em", loss="margin", learning_rate=1e-3)
    row = comparison.train("em", "margin", 0)
    assert [point["step"] for point in row["curve"]] == [2, 4, 6]
    assert len(row["turned"]) == len(routing_training.ANGLES)
    nearest = min(row["curve"], key=lambda point: abs(point["accuracy"] - routing_training.GOAL))
    assert row["at_goal"] == nearest


def test_what_never_reaches_the_goal_is_said(results):
    assert "| not reached |" in (results("routing") / "table.md").read_text()


def test_the_test_images_are_moved_warped_and_turned_as_they_say(data, tmp_path):
    comparison = comparison_of(data, tmp_path)
    (plain, labels), (shifted, _) = comparison.tests["plain"], comparison.tests["shifted"]
    assert comparison.tests.keys() == {"plain", "shifted", "warped", "20", "30", "40", "50", "60"}
    np.testing.assert_array_equal(labels, comparison.dataset.test_labels)
    moves = np.array([the_move(*pair) for pair in zip(plain, shifted, strict=True)])  # (N, 2)
    assert set(np.abs(moves).ravel()) == {1, 2, 3, 4} and (moves < 0).any() and (moves > 0).any()
    turned, twice = comparison.tests["60"]
    np.testing.assert_array_equal(twice, np.r_[labels[:20], labels[:20]])
    for half, angle in ((turned[:20], -60.0), (turned[20:], 60.0)):
        expected = routing_training.turned_by(plain[:20], np.full(20, angle))
        np.testing.assert_array_equal(half, expected)


def the_move(image, moved):
    """How far an image was moved down and to the right."""
    further = np.array([(down, right) for down in range(-5, 6) for right in range(-5, 6)])  # (121, 2)
    copies = augment.shift_by(np.repeat(image[None], len(further), axis=0), *further.T)
    (found,) = (move for move, copy in zip(further, copies, strict=True) if np.array_equal(copy, moved))
    return found


def test_training_turns_by_20_degrees_at_most():
    images = mnist().train_images[:300]
    expected = routing_training.turned_by(images, np.random.default_rng(5).uniform(-20, 20, size=300))
    np.testing.assert_array_equal(routing_training.turned(images, np.random.default_rng(5)), expected)


def test_even_couplings_have_an_entropy_of_1_and_decided_ones_of_0():
    images, dataset = mnist().test_images[:30], small_dataset(20, 10)
    even = ARMS["uniform"].build("tiny", dataset, "margin", seed=0)
    assert describe_couplings(even, images) == {"entropy": pytest.approx(1, abs=1e-6), "changed": None}
    prior = ARMS["prior"].build("tiny", dataset, "margin", seed=0)
    prior.params["capsules.routing.coupling.prior"][:, 3] = 50
    assert describe_couplings(prior, images)["entropy"] == pytest.approx(0, abs=1e-6)
    assert describe_couplings(ARMS["cnn"].build("tiny", dataset, "cross-entropy", 0), images) == {
        "entropy": None, "changed": None,
    }  # fmt: skip


def test_children_that_change_their_parent_are_counted():
    images = mnist().test_images[:150]  # more than one batch
    network = ARMS["dynamic"].build("tiny", small_dataset(20, 10), "margin", seed=0)
    network.params["capsules.votes.W"] *= 20
    c = couplings(network, images)
    assert [each.shape for each in c] == [(150, network.config.primary_capsules, 10)] * 3
    changed = np.mean(c[1].argmax(axis=2) != c[2].argmax(axis=2))
    assert describe_couplings(network, images)["changed"] == pytest.approx(changed) and 0 < changed < 1


def test_the_bias_of_self_attention_is_no_share():
    network = ARMS["self-attention"].build("tiny", small_dataset(20, 10), "margin", seed=0)
    network.params["capsules.routing.bias"][...] = 0.3
    (c,) = couplings(network, mnist().test_images[:5])
    np.testing.assert_allclose(c.sum(axis=2), 1, rtol=1e-5)


def test_an_arm_that_diverges_is_a_result(data, tmp_path, monkeypatch):
    nothing = Result(np.float32("nan"), np.int64(0))
    monkeypatch.setattr(DataParallel, "backpropagate", lambda *_: nothing)
    assert main(arguments("routing", data, tmp_path, "--arms", "dynamic")) == 0
    rows = read(tmp_path)["rows"]
    assert [row.get("diverged") for row in rows] == [True] * 4
    table = (tmp_path / "table.md").read_text()
    assert "| dynamic (1 of 1 diverged) | margin |" in table and "| - |" in table


# -- rotate ------------------------------------------------------------------------------------


def test_upright_is_where_the_capsule_starts_and_turning_moves_it_away(results):
    rows = {row["angle"]: row for row in read(results("rotate"))["rows"]}
    assert min(rows) == -60 and max(rows) == 60
    assert rows[0]["direction"] == pytest.approx(0, abs=0.1) and rows[0]["same_class"] == 1
    assert rows[60]["direction"] > rows[20]["direction"] > 5
    assert rows[60]["length"] < rows[20]["length"] < rows[0]["length"]


def test_class_capsules_are_those_of_the_network_whatever_the_batch(monkeypatch):
    monkeypatch.setattr(rotate, "BATCH", 7)
    network, images = load_pretrained(), mnist().test_images[:20]
    expected = network(images.astype(np.float32) / np.float32(255))[0]
    np.testing.assert_allclose(rotate.class_capsules(network, images), expected, rtol=1e-4, atol=1e-6)


def test_angles_between_vectors():
    e = np.array([[1.0, 0], [0, 1], [-1, 0], [1, 0]])
    f = np.array([[1.0, 0], [1, 0], [1, 0], [np.sqrt(0.5), np.sqrt(0.5)]])
    np.testing.assert_allclose(rotate.angles_between(e, f), [0, 90, 180, 45])


def test_turned_turns_counter_clockwise():
    images = mnist().test_images[:2]
    np.testing.assert_array_equal(rotate.turned(images, 90), np.rot90(images, axes=(1, 2)))
    assert Warps.none(2).angle.tolist() == [0, 0]
