"""The page of explore --html: what it holds, and what it does in a real browser."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find_browser
from figure_helpers import DIGITS
from helpers import PRETRAINED, mnist, small_dataset
from PIL import Image

from minicaps.capsules import DynamicRouting, Frozen, Leaky, Prior, Softmax, Sparsemax, Squash, Stopped
from minicaps.datasets import Dataset, has_form, like_mnist
from minicaps.figures import page_data, write_page
from minicaps.figures.page import SCRIPTS, SOURCES, fill_template
from minicaps.networks import (
    CapsNet,
    CapsNetConfig,
    MatrixCapsNet,
    MatrixCapsNetConfig,
    OverlapCapsNet,
    build,
    load_pretrained,
    save_network,
)

ROOT = Path(__file__).parents[1]
BROWSER = find_browser()
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no browser (apt-get install chromium)")
TINY = CapsNetConfig(
    (12, 12, 1), classes=4, conv_channels=5, conv_kernel=3, primary_types=3, primary_dimension=4,
    primary_kernel=4, class_dimension=6, decoder_hidden=(7, 9),
)  # fmt: skip


def network_of(seed=3, own=None, **options):
    """Return a small CapsNet that was not trained, with votes that are long enough to disagree."""
    network = CapsNet(replace(TINY, **options), coupling=own, rng=seed)
    network.params["capsules.votes.W"][...] *= 30
    for name, param in network.params.items():
        if name.endswith("prior"):
            param[...] = np.random.default_rng(seed).normal(size=param.shape)
    return network


def dataset_of(network, count=30, seed=0):
    """Return a data set of random images for a network."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, size=(count, *network.image_shape), dtype=np.uint8)
    labels = np.arange(count) % network.classes
    return Dataset(images, labels, images, labels, names_of(network), "random images")


def names_of(network):
    return tuple(str(k) for k in range(network.classes))


def data_of(page):
    """Return what a page holds, read as a browser does."""
    text = page.read_text(encoding="utf-8")
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    )


# -- what the page holds -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_page(tmp_path_factory):
    network = network_of()
    path = tmp_path_factory.mktemp("page") / "new" / "tiny.html"
    write_page(path, network, dataset_of(network), names_of(network), 5)
    return path


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_page_loads_nothing_and_its_policy_allows_nothing_but_itself(tiny_page):
    text = tiny_page.read_text(encoding="utf-8")
    tags = Tags(text).found
    assert not [
        attributes for _, attributes in tags if attributes.keys() & {"src", "href", "style", "action"}
    ]
    assert not [attributes for _, attributes in tags if any(name.startswith("on") for name in attributes)]
    (policy,) = (a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules.pop(rule) == f"'sha256-{digest}'"
    assert len(rules) == 3
    assert not re.search(r"https?://|@import|url\(|import\(|fetch\(|XMLHttp|innerHTML|eval\(", text)


def test_the_page_holds_the_weights_in_half_precision(tiny_page):
    network, packed = network_of(), data_of(tiny_page)["params"]
    assert packed.keys() == network.params.keys()
    for name, param in network.params.items():
        halves = np.frombuffer(base64.b64decode(packed[name]), dtype="<f2").reshape(param.shape)
        np.testing.assert_array_equal(halves, param.astype(np.float16))


def test_the_page_begins_with_the_image_that_was_asked_for(tiny_page):
    network = network_of()
    dataset, images = dataset_of(network), data_of(tiny_page)["images"]
    assert images["numbers"][0] == 5
    pixels = np.frombuffer(base64.b64decode(images["pixels"]), dtype=np.uint8)
    np.testing.assert_array_equal(pixels, dataset.test_images[images["numbers"]].ravel())
    np.testing.assert_array_equal(images["labels"], dataset.test_labels[images["numbers"]])
    predictions = network.predict(dataset.test_images)
    np.testing.assert_array_equal(images["predictions"], predictions[images["numbers"]])


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)</script>", "<!--", "<b>", "\udc80", "犬 \u2028", ""]
)
def test_no_class_name_ends_the_data_or_is_changed(tmp_path, name):
    network = network_of(classes=2)
    names = ("x", name)
    write_page(tmp_path / "a.html", network, dataset_of(network), names)
    assert tuple(data_of(tmp_path / "a.html")["class_names"]) == names
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script") == 2 and text.count("<!--") == 0


def test_first_the_image_then_mistakes_then_every_class_in_turn():
    labels = np.array([2, 0, 0, 0, 1, 1, 2, 2, 1, 0])
    predictions = np.where(np.isin(np.arange(10), (3, 8)), 2, labels)
    chosen = page_data.choose_images(labels, predictions, 8).tolist()
    assert chosen == [0, 3, 8, 1, 4, 2, 5, 6]
    assert page_data.choose_images(labels, predictions, 1).tolist() == [0]
    assert sorted(page_data.choose_images(labels, predictions, 99)) == list(range(10))
    everything_wrong = page_data.choose_images(labels, labels + 1, 99)
    assert sorted(everything_wrong.tolist()) == list(range(8))


def test_sliders_range_over_the_quantiles_of_the_class_itself():
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3  # class 3 has no image
    v = rng.normal(size=(600, 4, 2)) + np.arange(4)[:, None]
    v[:, 1, 1] = 0.25  # never changes
    ranges = page_data.ranges_of(v, labels)
    np.testing.assert_allclose(ranges[0], np.quantile(v[labels == 0, 0], (0.01, 0.99), axis=0).T)
    np.testing.assert_allclose(ranges[3], np.quantile(v[:, 3], (0.01, 0.99), axis=0).T)
    np.testing.assert_allclose(ranges[1, 1], [0.2, 0.3])


def test_the_images_of_a_large_data_set_are_few(tmp_path):
    network = network_of(image_shape=(300, 300, 3), conv_stride=20, conv_channels=2, primary_types=2)
    dataset = dataset_of(network, 12)
    dataset = replace(dataset, test_labels=network.predict(dataset.test_images))
    write_page(tmp_path / "a.html", network, dataset, names_of(network))
    assert len(data_of(tmp_path / "a.html")["images"]["labels"]) == 7  # of 270,000 numbers each


REFUSED = {
    "self-attention": (
        lambda: network_of(routing="self-attention"),
        "self-attention routing .*expected dynamic",
    ),
    "inverted": (
        lambda: network_of(routing="inverted-attention"),
        "inverted-attention routing .*expected dynamic",
    ),
    "em": (lambda: network_of(routing="em"), "em routing .*expected dynamic"),
    "hidden layers": (lambda: network_of(layers=((6, 4),)), "hidden capsule layers, expected none"),
    "line": (lambda: network_of(presence="line"), "a Line tells the classes, expected the lengths"),
    "coupling": (
        lambda: network_of(own=Frozen(np.ones((48, 4), np.float32))),
        "coupling is Frozen, expected",
    ),
    "nested": (lambda: network_of(own=Leaky(Leaky())), "coupling is Leaky, expected"),
    "pairs": (lambda: OverlapCapsNet(TINY, rng=0), "OverlapCapsNet is not shown, expected a CapsNet"),
    "matrix": (lambda: MatrixCapsNet(MatrixCapsNetConfig(), rng=0), "MatrixCapsNet is not shown"),
    "mlp": (lambda: build("mlp", rng=0), "MLP is not shown"),
    "squash": (lambda: with_squash(network_of()), "expected dynamic routing with the paper's squash"),
    "large": (lambda: with_weight(1e5), "decoder.fc1.W has weights up to 100000, expected at most 65504"),
    "infinite": (lambda: with_weight(np.inf), "decoder.fc1.W has weights up to inf"),
}


def with_squash(network):
    network.capsules.routing.squash = Squash(offset=0.5)
    return network


def with_weight(value):
    network = network_of()
    network.params["decoder.fc1.W"][0, 0] = value
    return network


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_page_cannot_run_is_refused_in_one_line_and_nothing_is_written(case, tmp_path):
    make, message = REFUSED[case]
    network = make()
    with pytest.raises(ValueError, match=message) as caught:
        write_page(tmp_path / "a.html", network, dataset_of(network), names_of(network))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_every_source_is_in_the_page_and_in_the_wheel():
    files = {path.name for path in SOURCES.iterdir()}
    assert files == {"page.html", "page.css", *(f"{name}.js" for name in SCRIPTS)}
    if (ROOT / "pyproject.toml").exists():  # else the wheel is what is tested
        settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        patterns = json.loads(re.search(r"^minicaps = (\[.*\])", settings, re.MULTILINE)[1])
        assert all(any(fnmatch(f"figures/page/{name}", each) for each in patterns) for name in files)
    text = fill_template({})
    for name in files:
        source = (SOURCES / name).read_text(encoding="utf-8")
        assert name == "page.html" or source in text
        assert max(map(len, source.splitlines())) <= 110, name
        if name.endswith(".js"):
            assert source.startswith("// ") and '\n"use strict";\n' in source, name


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def run(finished_run, tmp_path, elsewhere):
    """A copy of a run, so that nothing is left beside it."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "model.npz", "summary.json"):
        (folder / name).write_bytes((finished_run / name).read_bytes())
    return folder


def test_explore_writes_the_page_beside_the_figures_and_nothing_else(call, run, small_folder):
    code, output, errors = call("explore", run, "--html", "--image", 3)
    page = run / "figures" / "explore.html"
    assert (code, errors) == (0, "")
    size = f"{page.stat().st_size / 1e6:.1f} MB"
    assert output.splitlines() == [f"data: {small_folder}", f"written: {page} (open it in a browser; {size})"]
    assert list((run / "figures").iterdir()) == [page]
    assert data_of(page)["images"]["numbers"][0] == 3
    assert data_of(page)["class_names"] == list(DIGITS)


def test_explore_writes_the_page_where_it_is_told(call, run, tmp_path):
    assert call("explore", run, "--html", tmp_path / "a" / "b.html")[0] == 0
    assert (tmp_path / "a" / "b.html").is_file() and not (run / "figures").exists()
    assert call("explore", run, "--html", "--out", tmp_path / "c")[0] == 0
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["explore.html"]
    assert call("explore", run / "model.npz", "--data", run.parent / "none", "--html")[0] == 2


def test_wrong_arguments_are_told(complaint, run, tmp_path):
    assert "--out names a folder" in complaint("explore", run, "--html", "a.html", "--out", "b", code=2)
    assert f"{tmp_path} is a folder, expected a file" in complaint("explore", run, "--html", tmp_path, code=2)
    assert "--image is 100" in complaint("explore", run, "--html", "--image", 100, code=2)


def test_a_window_and_a_page_exclude_each_other(call, run):
    code, _, errors = call("explore", run, "--html", "--interactive")
    assert code == 2 and "not allowed with argument" in errors


def test_a_network_that_the_page_cannot_run_is_told(complaint, tmp_path, small_folder, elsewhere):
    save_network(tmp_path / "a.npz", build("capsnet", "tiny", routing="self-attention", rng=0), DIGITS)
    told = complaint("explore", tmp_path / "a.npz", "--data", small_folder, "--html", "a.html", code=1)
    assert "self-attention routing" in told


# -- in a browser: its numbers -----------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(BROWSER, tmp_path_factory.mktemp("profile")) as browser:
        browser.size(1000)
        yield browser


@pytest.fixture(scope="module")
def small_page(tmp_path_factory):
    """The page of the trained network that comes along."""
    path = tmp_path_factory.mktemp("page") / "small.html"
    write_page(path, load_pretrained(), small_dataset(60, 1000), DIGITS)
    return path


@pytest.fixture
def small(browser, small_page):
    """A browser that shows this page; in the end, nothing has gone wrong and nothing was loaded."""
    browser.open(small_page)
    yield browser
    assert browser.errors == [] and browser.requests == [small_page.resolve().as_uri()]


def in_half_precision(network):
    for param in network.params.values():
        param[...] = param.astype(np.float16)
    return network


def in_double_precision(network):
    """Return a network with the same weights whose own rounding is no matter."""
    double = CapsNet(network.config, dtype=np.float64)
    for name, param in double.params.items():
        param[...] = network.params[name]
    return double


def numbers_of_page(browser, images, coupling="makeCoupling(n.coupling, n.J, n.params.prior)"):
    """Return what the page makes of images: u, c and b of all iterations, v, its lengths, reconstructions."""
    text = base64.b64encode(np.ascontiguousarray(images).tobytes()).decode()
    found = browser.run(
        f"""(() => {{
          const n = page.network;
          return readImages("{text}", n.image_shape).map((image) => {{
            const {{ u, u_hat }} = perceive(image, n);
            const course = route(u_hat, n.R, {coupling}, n);
            const {{ v }} = course[n.R - 1];
            const lengths = lengthsOf(v, n.E);
            const j = lengths.indexOf(Math.max(...lengths));
            const made = n.decoder ? [...decode(v.slice(j * n.E, (j + 1) * n.E), j, n)] : [];
            return {{ u: [...u], c: course.map(({{ c }}) => [...c]), b: course.map(({{ b }}) => [...b]),
                      v: [...v], lengths, made }};
          }});
        }})()"""
    )
    return {name: np.array([each[name] for each in found]) for name in found[0]}


def numbers_of_numpy(network, images):
    x = images.astype(network.first_param.dtype) / 255
    outputs, cache = network.forward(x)
    made = outputs[1] if network.decoder else np.zeros((len(x), 0))
    flat = {"u": lower_capsules(network, x), "v": cache.v, "made": made}
    lists = {"c": np.stack(cache.capsules.c, axis=1), "b": np.stack(cache.capsules.b, axis=1)}  # (B, R, I, J)
    return {
        **{name: array.reshape(len(x), -1) for name, array in flat.items()},
        **{name: array.reshape(*array.shape[:2], -1) for name, array in lists.items()},
        "lengths": network.scores(outputs),
    }


def lower_capsules(network, x):
    return network.primary(network.relu(network.conv(x)))  # (B, I, D)


def assert_same_numbers(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(found[name], expected[name], atol=tolerance, rtol=tolerance, err_msg=name)


@in_a_browser
def test_the_page_gives_numpys_numbers_for_50_images(small):
    images = mnist().test_images[100:150]
    found = numbers_of_page(small, images)
    exact = in_double_precision(in_half_precision(load_pretrained()))
    assert_same_numbers(found, numbers_of_numpy(exact, images), 2e-6)
    full = numbers_of_numpy(load_pretrained(), images)
    for name, tolerance in {"lengths": 2e-4, "c": 5e-4, "made": 1e-3}.items():  # half precision costs little
        np.testing.assert_allclose(found[name], full[name], atol=tolerance, err_msg=name)
    assert (found["lengths"].argmax(axis=1) == full["lengths"].argmax(axis=1)).all()


OPTIONS = {
    "leaky": {"coupling": "leaky"},
    "hard": {"coupling": "hard"},
    "leaky hard": {"coupling": "leaky hard"},
    "top-2": {"coupling": "top-2"},
    "top-3": {"coupling": "top-3", "classes": 5},
    "sparsemax": {"coupling": "sparsemax"},
    "entmax": {"coupling": "entmax"},
    "prior": {"prior": True, "coupling": "leaky"},
    "prior of entmax": {"prior": True, "coupling": "entmax"},
    "bias": {"bias": True},
    "stopped": {"stopped_gradient": True},
    "one iteration": {"iterations": 1, "prior": True},
    "nine iterations": {"iterations": 9},
    "in colour": {"image_shape": (14, 11, 3)},
    "two channels": {"image_shape": (11, 15, 2)},
    "pairs": {"image_shape": (19, 24, 1), "conv_kernel": (3, 5), "conv_stride": (1, 2),
              "primary_kernel": (5, 4), "primary_stride": (3, 2)},
    "no decoder": {"decoder": False},
    "one number": {"class_dimension": 1, "primary_dimension": 1},
    "one class": {"classes": 1},
    "many classes": {"classes": 45},
}  # fmt: skip


@in_a_browser
@pytest.mark.parametrize("case", OPTIONS)
def test_the_page_gives_numpys_numbers_with_every_option(browser, tmp_path, case):
    network = in_half_precision(network_of(**OPTIONS[case]))
    dataset = dataset_of(network, 6)
    write_page(tmp_path / "a.html", network, dataset, names_of(network))
    browser.open(tmp_path / "a.html")
    found = numbers_of_page(browser, dataset.test_images)
    assert_same_numbers(found, numbers_of_numpy(network, dataset.test_images), 2e-5)
    assert browser.errors == []
    shown = browser.run(
        "[...document.querySelectorAll('#lengths tr')].map((row) => row.lastChild.textContent)"
    )
    assert len(shown) == min(network.classes, 30)
    assert browser.run("document.getElementById('decoder').hidden") is not bool(network.decoder)


@in_a_browser
@pytest.mark.parametrize("coupling", [Stopped(Prior(48, 4, Leaky(Sparsemax()))), Prior(48, 4, Softmax())])
def test_couplings_of_ones_own_are_unwrapped(browser, tmp_path, coupling):
    network = in_half_precision(network_of(own=coupling))
    dataset = dataset_of(network, 4)
    write_page(tmp_path / "a.html", network, dataset, names_of(network))
    browser.open(tmp_path / "a.html")
    expected = numbers_of_numpy(network, dataset.test_images)
    assert np.ptp(expected["c"][:, 0]) > 0.1  # the prior tells
    assert_same_numbers(numbers_of_page(browser, dataset.test_images), expected, 2e-5)
    wrong = numbers_of_page(browser, dataset.test_images, "makeWrongCoupling(n.J, n.params.prior)")
    prior = np.exp(network.params[next(name for name in network.params if name.endswith("prior"))])  # (I, J)
    np.testing.assert_allclose(wrong["c"][0, 0], (prior / prior.sum(axis=0)).ravel(), rtol=1e-5)


@in_a_browser
def test_the_wrong_softmax_runs_over_the_lower_capsules(small):
    images = mnist().test_images[:3]
    found = numbers_of_page(small, images, "makeWrongCoupling(n.J, n.params.prior)")
    b = found["b"].reshape(3, 3, -1, 10)  # (B, R, I, J)
    expected = np.exp(b) / np.exp(b).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(found["c"].reshape(b.shape), expected, rtol=1e-5)
    assert np.ptp(expected[:, 2]) > 1e-4


@in_a_browser
def test_half_precision_is_read_as_numpy_reads_it(small):
    bits = np.arange(1 << 16, dtype="<u2")
    bits = bits[np.isfinite(bits.view("<f2"))]
    text = base64.b64encode(bits.tobytes()).decode()
    np.testing.assert_array_equal(small.run(f"[...readHalves('{text}')]"), bits.view("<f2").astype(float))


@in_a_browser
@pytest.mark.parametrize(("count", "E"), [(50, 6), (3, 2), (4, 1)])
def test_the_plane_is_that_of_the_two_largest_singular_values(small, count, E):
    vectors = np.random.default_rng(1).normal(size=(count, E)) * np.geomspace(4, 0.5, E)
    found = small.run(f"principalPlane(Float32Array.from({vectors.ravel().tolist()}), {E})")
    directions = np.array([[each[str(e)] for e in range(E)] for each in found["directions"]])  # (2, E)
    _, values, axes = np.linalg.svd(vectors, full_matrices=False)
    assert found["share"] == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), rel=1e-5)
    for direction, axis in zip(directions, axes[:2], strict=False):
        assert abs(direction @ axis) == pytest.approx(1, abs=1e-4)


@in_a_browser
def test_no_votes_at_all_have_a_plane(small):
    found = small.run("principalPlane(new Float32Array(12), 3)")
    assert found["share"] == 1 and found["directions"] == [{"0": 0, "1": 0, "2": 0}] * 2


# -- in a browser: what the controls do --------------------------------------------------------


def text_of(browser, selector):
    return browser.run(f"document.querySelector({json.dumps(selector)}).textContent")


def lengths_shown(browser):
    rows = browser.run(
        "[...document.querySelectorAll('#lengths tr')].map((row) => row.lastChild.textContent)"
    )
    return np.array([float(each) for each in rows])


def pixels_of(browser, name):
    """Return what a canvas shows (height, width, 4)."""
    wide, high, text = browser.run(
        f"(() => {{ const c = document.getElementById('{name}'); "
        "const copy = make('canvas', {width: c.width, height: c.height}).getContext('2d'); "
        "copy.drawImage(c, 0, 0); const p = copy.getImageData(0, 0, c.width, c.height).data; "
        "return [c.width, c.height, encodeBase64(p)]; })()"
    )
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(high, wide, 4)


def box_of(browser, name):
    """Bring an element onto the screen; return its left, top and width there."""
    return browser.run(
        f"(() => {{ const e = document.getElementById('{name}'); e.scrollIntoView({{block: 'center'}}); "
        "const b = e.getBoundingClientRect(); return [b.x, b.y, b.width]; })()"
    )


def choose(browser, name, value):
    """Give a control a value, as a user does."""
    browser.run(
        f"(() => {{ const e = document.getElementById('{name}'); e.value = {json.dumps(value)}; "
        "e.dispatchEvent(new Event('input', {bubbles: true})); "
        "e.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    browser.settle()


def address(browser):
    """Return what stands behind # in the address, once it is up to date."""
    browser.run("new Promise((done) => setTimeout(done, 2 * PATIENCE))")
    return browser.run("location.hash")


@in_a_browser
def test_the_page_shows_the_numbers_of_its_first_image(small):
    network = in_half_precision(load_pretrained())
    expected = numbers_of_numpy(network, mnist().test_images[:1])
    np.testing.assert_allclose(lengths_shown(small), expected["lengths"][0], atol=6e-4)
    made = expected["made"].reshape(28, 28)
    np.testing.assert_allclose(pixels_of(small, "reconstruction")[..., 0], 255 * made, atol=1)
    assert text_of(small, "#answer") == "The longest capsule is that of 7, with 0.96. This is the label."


@in_a_browser
def test_an_iteration_changes_lengths_couplings_and_what_is_said(small):
    before, drawn = lengths_shown(small), pixels_of(small, "map")
    choose(small, "iteration", 1)
    expected = numbers_of_numpy(in_half_precision(build_with_one_iteration()), mnist().test_images[:1])
    np.testing.assert_allclose(lengths_shown(small), expected["lengths"][0], atol=6e-4)
    assert before.max() > lengths_shown(small).max() + 0.2
    assert not np.array_equal(drawn, pixels_of(small, "map"))
    assert text_of(small, "#change").startswith(
        "After iteration 1 the largest coupling of a lower capsule is 0.10"
    )
    choose(small, "iteration", 3)
    np.testing.assert_array_equal(lengths_shown(small), before)
    told = text_of(small, "#change")
    assert told.startswith("From iteration 1 to 3 the capsule of 7 went from 0.49 to 0.96, the capsule of ")
    assert small.run("document.getElementById('iteration').max") == "7"


def build_with_one_iteration():
    trained = load_pretrained()
    network = CapsNet(replace(trained.config, iterations=1), rng=0)
    network.load_state(trained.state())
    return network


@in_a_browser
def test_the_switches_show_what_a_network_without_routing_or_with_the_wrong_softmax_does(small):
    usual = lengths_shown(small)
    small.click("#even")
    even = lengths_shown(small)
    assert small.run("document.getElementById('iteration').disabled") and "R = 1" in text_of(
        small, "#switches"
    )
    small.click("#even")
    small.click("#wrong")
    wrong = lengths_shown(small)
    assert usual.max() > 0.9 > even.max() > wrong.max() and "no class competes" in text_of(small, "#switches")
    assert "a softmax over the lower capsules" not in text_of(small, "#numbers")
    choose(small, "equation", "c")
    assert "wrong: a softmax over the lower capsules" in text_of(small, "#numbers")
    small.click("#wrong")
    np.testing.assert_array_equal(lengths_shown(small), usual)


@in_a_browser
def test_a_slider_changes_the_drawing_and_reset_brings_it_back(small):
    before = pixels_of(small, "moved")
    np.testing.assert_array_equal(before, pixels_of(small, "reconstruction"))
    assert small.run("document.querySelectorAll('#sliders input').length") == 16
    small.run("document.querySelectorAll('#sliders input')[5].focus()")
    small.press("Home")
    value = small.run("Number(document.querySelectorAll('#sliders input')[5].value)")
    assert value == pytest.approx(small.run("page.ranges[7][5][0]"), abs=1e-6)
    v = small.run("[...lookAt(page).shown.v]")[7 * 16 : 8 * 16]
    v[5] = value
    network = in_half_precision(load_pretrained())
    capsules = np.zeros((1, 10, 16), np.float32)
    capsules[0, 7] = v
    expected = network.decode(capsules, np.array([7]))[0].reshape(28, 28)
    np.testing.assert_allclose(pixels_of(small, "moved")[..., 0], 255 * expected, atol=1)
    assert np.abs(before.astype(int) - pixels_of(small, "moved")).max() > 20
    small.click("#reset")
    np.testing.assert_array_equal(before, pixels_of(small, "moved"))


@in_a_browser
@pytest.mark.parametrize("control", ["even", "wrong", "iteration", "chosen"])
def test_sliders_begin_anew_with_another_capsule(small, control):
    small.run("document.querySelectorAll('#sliders input')[5].focus()")
    small.press("Home")
    assert not np.array_equal(pixels_of(small, "moved"), pixels_of(small, "reconstruction"))
    if control in ("even", "wrong"):
        small.click(f"#{control}")
    else:
        choose(small, control, "1")
    np.testing.assert_array_equal(pixels_of(small, "moved"), pixels_of(small, "reconstruction"))


@in_a_browser
def test_another_class_is_reconstructed_with_its_own_ranges(small):
    choose(small, "chosen", "3")
    assert "The capsule of 3 reconstructs" in text_of(small, "#decoder-text")
    low = small.run("Number(document.querySelectorAll('#sliders input')[2].min)")
    assert low <= small.run("page.ranges[3][2][0]") + 1e-6
    assert text_of(small, "#lengths tr.chosen th") == "3"


@in_a_browser
def test_a_click_on_the_map_or_an_arrow_key_chooses_a_capsule_and_shows_its_numbers(small):
    left, top, side = box_of(small, "map")
    # the cells of a position are 4 pixels wide, in 4 columns and 2 rows; the first begins at pixel 5.5
    x, y = left + side * (5.5 + 4 * 2 + 2.5) / 28, top + side * (5.5 + 4 * 1 + 3) / 28
    small.mouse("mousePressed", x, y)
    small.mouse("mouseReleased", x, y)
    small.settle()
    capsule = (1 * 4 + 2) * 8 + 6
    assert text_of(small, "#capsule-text").startswith(f"Capsule {capsule} stands at row 1, column 2, type 6.")
    small.run("document.getElementById('map').focus()")
    small.press("ArrowLeft", "ArrowUp")
    assert small.run("page.state.capsule") == capsule - 1 - 4
    b, c = (small.run(f"[...lookAt(page).shown.{name}]") for name in "bc")
    row = small.run(
        "[...document.querySelector('#shares tr.chosen').children].map((cell) => cell.textContent)"
    )
    numbers = [float(each.replace("−", "-")) for each in row[1:]]
    i = capsule - 5
    assert numbers[:2] == pytest.approx([b[10 * i + 7], c[10 * i + 7]], abs=6e-4)


@in_a_browser
@pytest.mark.parametrize("equation", ["u_hat", "c", "s", "v", "b"])
def test_the_arithmetic_adds_up(small, equation):
    choose(small, "capsule", "37")
    choose(small, "equation", equation)
    text = text_of(small, "#numbers")
    network = in_half_precision(load_pretrained())
    x = mnist().test_images[:1].astype(np.float32) / 255
    u_hat = np.einsum("bid,idje->bije", lower_capsules(network, x), network.params["capsules.votes.W"])[0]
    cache = DynamicRouting(3).forward(u_hat[None])[1]
    b, c, s, v = (each[2][0] for each in (cache.b, cache.c, cache.s, cache.v))
    results = {
        "u_hat": (u_hat[37, 7, 0], u_hat[37, 7]),
        "c": (c[37, 7], c[37]),
        "s": (s[7, 0], s[7]),
        "v": (v[7, 0], v[7]),
        "b": (b[37, 7] + u_hat[37, 7] @ v[7], None),
    }
    number, vector = results[equation]
    assert any(line.endswith(f"= {written(number)}") for line in text.splitlines()), text
    if vector is not None:
        assert f"[{', '.join(map(written, vector))}]" in text
    sums = [line.split(" = ")[-2:] for line in text.splitlines() if line.count(" = ") > 1 and "…" not in line]
    assert sums or equation == "s"  # of 128 terms, which are not written out
    for expression, result in sums:
        computed = eval(expression.translate({0x2212: "-", 0xB7: "*", 0xB2: "**2"}))
        assert computed == pytest.approx(float(result.replace("−", "-")), abs=0.01), text


def written(x):
    return (f"{x:.3f}" if abs(x) >= 0.0005 else f"{x:.1e}".replace("e-0", "e-")).replace("-", "−")


@in_a_browser
def test_a_test_image_is_chosen_with_the_keyboard(small):
    wrong = small.run("page.labels.findIndex((label, n) => label !== page.predictions[n])")
    assert wrong > 0
    small.run(f"document.querySelectorAll('#images button')[{wrong}].focus()")
    small.press(" ")
    label, prediction, number = small.run(
        f"[page.labels[{wrong}], page.predictions[{wrong}], page.numbers[{wrong}]]"
    )
    assert f"that of {prediction}," in text_of(small, "#answer")
    assert text_of(small, "#answer").endswith(f"The label is {label}.")
    name = small.run(f"document.querySelectorAll('#images button')[{wrong}].getAttribute('aria-label')")
    assert name == f"Test image {number}, of class {label}, which the network takes for {prediction}"
    np.testing.assert_array_equal(pixels_of(small, "seen")[..., 0], mnist().test_images[number, ..., 0])


# -- in a browser: drawings and pictures -------------------------------------------------------


def stroke(browser, *corners):
    """Return points on the screen along a line over the pen's canvas, with corners from 0 to 1."""
    x, y, side = box_of(browser, "pen")
    steps = np.linspace(0, len(corners) - 1, 15 * (len(corners) - 1) + 1)
    return [
        (x + side * np.interp(t, range(len(corners)), [c[0] for c in corners]),
         y + side * np.interp(t, range(len(corners)), [c[1] for c in corners])) for t in steps
    ]  # fmt: skip


@in_a_browser
@pytest.mark.parametrize("how", ["drag", "touch"])
def test_a_stroke_is_read_and_lies_as_mnists_digits_do(small, how):
    getattr(small, how)(stroke(small, (0.5, 0.2), (0.45, 0.5), (0.4, 0.75)))
    assert text_of(small, "#answer").startswith("The longest capsule is that of 1")
    assert has_form(pixels_of(small, "seen")[..., :1])
    small.click("#clear")
    getattr(small, how)(stroke(small, (0.1, 0.1), (0.3, 0.1), (0.15, 0.4)))  # small, in a corner
    assert text_of(small, "#answer").startswith("The longest capsule is that of 7")
    assert has_form(pixels_of(small, "seen")[..., :1])
    small.click("#form")  # as it was drawn
    seen = pixels_of(small, "seen")[..., 0]
    assert seen[:14, :14].max() > 100 and seen[14:].max() == 0
    small.click("#clear")
    assert text_of(small, "#answer").endswith("This is the label.")


@in_a_browser
def test_a_second_finger_draws_nothing(small):
    (x, y), *_ = stroke(small, (0.5, 0.5), (0.5, 0.6))
    first, second = {"x": x, "y": y, "id": 0}, {"x": x + 40, "y": y, "id": 1}
    for kind, points in [
        ("touchStart", [first]),
        ("touchStart", [first, second]),
        ("touchMove", [first, {**second, "y": y + 40}]),
    ]:
        small.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    small.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    small.settle()
    lit = pixels_of(small, "pen")[..., 0] > 0
    assert 0 < lit.sum() < 800  # a dot


@in_a_browser
def test_a_drawing_with_the_keyboard(small):
    small.run("document.getElementById('pen').focus()")
    small.press(*["ArrowUp"] * 8, " ", *["ArrowDown"] * 16, " ", *["ArrowRight"] * 5)
    assert text_of(small, "#answer").startswith("The longest capsule is that of 1")
    small.run("document.activeElement.blur()")
    assert (pixels_of(small, "pen")[..., 0] == pixels_of(small, "pen")[..., 2]).all()  # no cursor is left


@in_a_browser
@pytest.mark.parametrize("name", ["pen", "map"])
def test_keys_that_a_canvas_takes_do_not_scroll_the_page_and_others_are_left_alone(small, name):
    def goes_on(key):
        event = f"new KeyboardEvent('keydown', {{key: '{key}', cancelable: true}})"
        return small.run(f"document.getElementById('{name}').dispatchEvent({event})")

    assert not any(map(goes_on, ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]))
    assert goes_on("Tab") and goes_on("a")


@in_a_browser
def test_numbers_are_short_however_large(small):
    texts = small.run("[0, 1, -0.25, 99999, 1e5, -1e30, 1e-7, 0.0005].map(numberText)")
    assert texts == ["0.000", "1.000", "−0.250", "99999.000", "1.0e+5", "−1.0e+30", "1.0e−7", "0.001"]


@in_a_browser
def test_digits_of_mnist_drawn_large_anywhere_become_themselves(small):
    images = mnist().test_images[:20, ..., 0]
    images = images[[has_form(image[..., None]) for image in images]]
    assert len(images) > 10
    for k, image in enumerate(images):
        large = np.kron(image, np.ones((7, 7))) / 255  # (196, 196)
        ink = np.pad(large, ((3 * k, 60), (60, 2 * k)))
        text = base64.b64encode((255 * ink).astype(np.uint8).tobytes()).decode()
        size = list(ink.shape)
        found = small.run(f"[...likeMnist(toFloat(decodeBase64('{text}')), {size}, [28, 28])]")
        expected = image / image.max()
        difference = np.abs(np.reshape(found, (28, 28)) - expected)
        assert difference.mean() < 0.01, k


@in_a_browser
@pytest.mark.parametrize("paper", [230, 20])
def test_a_picture_from_a_file_is_read(small, tmp_path, paper):
    digit = mnist().test_images[3, ..., 0].astype(int)  # a 0
    large = np.kron(digit, np.ones((9, 9), int))
    picture = np.full((420, 400), paper)
    picture[90 : 90 + 252, 70 : 70 + 252] += (-1 if paper > 127 else 1) * (large * 200) // 255
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "a.png")
    small.choose_file("#file", tmp_path / "a.png")
    small.wait("page.state.own")
    assert text_of(small, "#answer").startswith("The longest capsule is that of 0")
    seen = pixels_of(small, "seen")[..., :1]
    expected = like_mnist(picture.astype(np.uint8)[..., None], (28, 28, 1))
    assert has_form(seen) and np.abs(seen.astype(float) - expected).mean() < 12
    (tmp_path / "b.png").write_text("no picture")
    small.choose_file("#file", tmp_path / "b.png")
    small.wait("at('file-error').textContent")
    assert "no picture" in text_of(small, "#file-error")


@in_a_browser
@pytest.mark.parametrize("light", [False, True])
def test_transparent_pixels_are_paper(small, tmp_path, light):
    ink = np.pad(np.kron(mnist().test_images[3, ..., 0], np.ones((9, 9), np.uint8)), 40)
    picture = np.full((*ink.shape, 4), 255 if light else 0, np.uint8)
    picture[..., 3] = ink
    Image.fromarray(picture).save(tmp_path / "a.png")
    small.choose_file("#file", tmp_path / "a.png")
    small.wait("page.state.own")
    assert text_of(small, "#answer").startswith("The longest capsule is that of 0")


@in_a_browser
def test_a_picture_in_colour_is_seen_in_colour(browser, tmp_path):
    network = network_of(image_shape=(14, 20, 3))
    write_page(tmp_path / "a.html", network, dataset_of(network), names_of(network))
    browser.open(tmp_path / "a.html")
    assert browser.run("document.getElementById('form').checked") is False  # no handwriting
    colour = np.zeros((28, 40, 3), np.uint8)
    colour[:, :20] = (250, 100, 10)
    Image.fromarray(colour).save(tmp_path / "a.png")
    browser.choose_file("#file", tmp_path / "a.png")
    browser.wait("page.state.own")
    seen = pixels_of(browser, "seen")
    assert seen.shape == (14, 20, 4) and np.abs(seen[5, 4, :3].astype(int) - (250, 100, 10)).max() < 4
    assert browser.errors == []


# -- in a browser: addresses, names, looks -----------------------------------------------------


@in_a_browser
def test_the_address_holds_what_is_shown(small, small_page):
    small.drag(stroke(small, (0.3, 0.2), (0.7, 0.2), (0.5, 0.8)))
    for name, value in {
        "iteration": 2,
        "chosen": "9",
        "map-of": "b",
        "equation": "v",
        "capsule": "17",
    }.items():
        choose(small, name, value)
    small.click("#wrong")
    small.run("document.querySelectorAll('#sliders input')[3].focus()")
    small.press("ArrowRight")
    shown = [text_of(small, name) for name in ("#answer", "#numbers", "#decoder-text", "#map-text")]
    fragment = address(small)
    small.open(small_page, fragment)
    assert [text_of(small, name) for name in ("#answer", "#numbers", "#decoder-text", "#map-text")] == shown
    assert small.run("document.getElementById('iteration').value") == "2"
    assert small.run("[at('even').checked, at('wrong').checked]") == [False, True]
    assert address(small) == fragment


@in_a_browser
def test_an_address_that_is_changed_by_hand_is_followed(small):
    small.run("location.hash = '#number=2&r=1'")
    small.wait("page.state.number === 2 && page.state.r === 1")
    assert small.run("document.querySelectorAll('#images [aria-pressed=true]').length") == 1


@in_a_browser
@pytest.mark.parametrize("fragment", [
    "#number=999&r=0&chosen=-1&capsule=1e3&map=x&equation=constructor&moved=99:1%203:x&own=AAAA",
    "#number=0x1&r=NaN&chosen=10&capsule=128&moved=__proto__:1&own=%F0%9F%90%88",
    "#own=A&own=B&=&&%",
    "#" + "r=8&" * 500,
    "#equation=<img src=x onerror=alert(1)>&map=<b>",
])  # fmt: skip
def test_an_address_that_says_nonsense_shows_the_page_as_it_begins(small, small_page, fragment):
    first = text_of(small, "#answer"), text_of(small, "#numbers")
    small.open(small_page, fragment)
    small.requests[:] = [small_page.resolve().as_uri()]
    assert (text_of(small, "#answer"), text_of(small, "#numbers")) == first
    assert small.run("writeState(page.state, page.network)") == ""


@in_a_browser
def test_a_picture_that_is_too_large_for_an_address_is_said_to_be_missing(browser, tmp_path):
    network = network_of(image_shape=(70, 70, 1), conv_stride=4)
    write_page(tmp_path / "a.html", network, dataset_of(network), names_of(network))
    browser.open(tmp_path / "a.html")
    browser.drag(stroke(browser, (0.3, 0.2), (0.7, 0.2)))
    assert "does not hold your picture" in text_of(browser, "#not-shared")
    assert address(browser) == ""


@in_a_browser
def test_names_of_classes_are_text(browser, tmp_path):
    network = network_of()
    names = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", " ", "a" * 200)
    write_page(tmp_path / "a.html", network, dataset_of(network), names)
    browser.size(360)
    browser.open(tmp_path / "a.html")
    shown = browser.run("[...document.querySelectorAll('#lengths th')].map((cell) => cell.textContent)")
    assert shown == [names[0], names[1], "(empty)", names[3]]
    assert browser.run("document.querySelectorAll('img').length") == 0 and browser.errors == []
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    browser.size(1000)


@in_a_browser
def test_the_policy_lets_nothing_out(browser, small_page):
    browser.open(small_page)
    for attempt in (
        "fetch('https://example.org').then(() => 'sent', () => 'refused')",
        "new Promise((done) => { const i = new Image(); i.onload = () => done('sent'); "
        "i.onerror = () => done('refused'); i.src = 'https://example.org/a.png'; })",
        "(() => { document.body.append(make('script', {textContent: 'window.ran = true'})); "
        "return window.ran ? 'ran' : 'refused'; })()",
    ):
        assert browser.run(attempt) == "refused"
    assert sum("Content Security Policy" in error for error in browser.errors) >= 3  # one each, at least


@in_a_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_and_is_readable(small, small_page, width, dark):
    small.size(width, dark=dark)
    small.open(small_page)
    assert small.run("document.documentElement.scrollWidth") <= width
    for name, scope in {"body": "--paper", "figcaption": "--soft", ".hint": "--soft"}.items():
        ink, paper = (luminance(small, name, colour) for colour in ("color", scope))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 4.5, name
    small.size(1000)


def luminance(browser, selector, colour):
    """Return the relative luminance of an element's colour, as the WCAG define it."""
    code = f"getComputedStyle(document.querySelector('{selector}')).getPropertyValue('{colour}').trim()"
    text = browser.run(code)
    if text.startswith("#"):
        channels = [int(text[k : k + 2], 16) for k in (1, 3, 5)]
    else:
        channels = [int(each) for each in re.findall(r"\d+", text)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(channels) / 255]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@in_a_browser
def test_every_control_and_picture_has_a_name_for_a_screen_reader(small):
    small.send("Accessibility.enable")
    nodes = small.send("Accessibility.getFullAXTree")["nodes"]
    small.send("Accessibility.disable")
    roles = {"button", "checkbox", "slider", "combobox", "spinbutton", "image", "img", "application"}
    named = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(named) > 50
    assert [node["role"] for node in named if not node.get("name", {}).get("value")] == []


@in_a_browser
def test_every_control_is_reached_with_the_tab_key(small):
    expected = small.run("document.querySelectorAll('button, input, select, summary, [tabindex]').length")
    seen = set()
    for k in range(expected):
        small.press("Tab")
        small.run(f"document.activeElement.dataset.seen ??= {k}")
        seen.add(small.run("document.activeElement.dataset.seen"))
    assert len(seen) == expected


def test_the_page_of_the_trained_network_is_small(small_page):
    assert PRETRAINED.exists() and small_page.stat().st_size < 1_600_000
