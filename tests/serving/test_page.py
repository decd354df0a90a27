"""The page, as somebody sees it who opens it: in Chromium, over the server that shows it."""

import dataclasses
import io
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

pytest.importorskip("selenium", reason="the dev extra is not installed")
pytest.importorskip("starlette", reason="the serving extra is not installed")

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import browser
import families
import keras_vae
import own_posteriors
from keras_vae_serving import Pipeline

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing())),
]


@pytest.fixture(scope="module")
def bundles(conditional, exported, tmp_path_factory):
    """Digits that can be told apart, with a dead latent; twelve numbers, two latents; others with random weights."""
    import keras_vae_export

    folder = tmp_path_factory.mktemp("bundles")
    keras.utils.set_random_seed(3)
    x = keras_vae.datasets.load("digits", binarize="threshold").train
    encoder, decoder = keras_vae.networks.mlp((8, 8, 1), 4, hidden=(32,), data_mean=x.mean(0))
    vae = keras_vae.VAE(encoder, decoder, seed=0)
    vae.compile(keras.optimizers.Adam(1e-2))
    vae.fit(x, epochs=4, verbose=0)
    decoder.weights[0].assign(decoder.weights[0] * np.array([[1], [0], [1], [1]], "float32"))
    keras_vae_export.export(vae, folder / "digits")
    # The same with a threshold, which is all in the manifest.
    threshold = keras_vae.evaluation.fit_threshold(vae, x[:300], 0.9, num_samples=3, seed=8)
    fields = json.loads((shutil.copytree(folder / "digits", folder / "judged") / "manifest.json").read_text())
    fields["anomaly"] = dataclasses.asdict(threshold) | {"usual": threshold.usual.tolist()}
    (folder / "judged" / "manifest.json").write_text(json.dumps(fields))
    vectors = keras_vae.networks.mlp((12,), 2, hidden=(8,), activation="tanh", likelihood="mse")
    keras_vae_export.export(vectors, folder / "vectors")
    numbers = keras_vae.networks.mlp((5,), 2, hidden=(3,), likelihood="mse", condition=(2,))
    prior = keras_vae.DiagonalNormal(np.array([1, -2], "float32"), np.log(np.array([4, 0.25], "float32")))
    keras_vae_export.export(keras_vae.VAE(*numbers, likelihood="mse", prior=prior), folder / "numbers")
    series = keras_vae.networks.conv((12, 2), 2, filters=(4,), hidden=(), likelihood="mse")
    keras_vae_export.export(keras_vae.VAE(*series, likelihood="mse"), folder / "series")
    for name, places, posterior in (
        ("places", (3, 4), own_posteriors.Rounded(5)),
        ("steps", (4,), "normal"),
        ("free", (None, None), "normal"),
    ):
        keras_vae_export.export(families.at_places(places, posterior), folder / name)
    for made, name in (
        (exported("table_with_missing_values"), "table"),
        (conditional, "conditional"),
        (exported("conditional_vae"), "labels"),
        (exported("mixture_prior"), "mixture"),
    ):
        shutil.copytree(made, folder / name)
    return folder


@pytest.fixture(scope="module")
def chromium():
    with browser.browsing() as page:
        yield page


@pytest.fixture(scope="module")
def address(bundles):
    with browser.serving(bundles / "digits") as address:
        yield address


@pytest.fixture
def page(chromium, address):
    """The page of the digits, loaded and at rest; in the end it must not have complained, or asked anybody else."""
    chromium.errors()
    yield chromium.open(address).settled()
    chromium.settled()
    assert chromium.errors() == []
    asked = chromium.script('return performance.getEntriesByType("resource").map((entry) => entry.name)')
    assert asked
    assert [url for url in asked if not url.startswith(address)] == []
    assert chromium.text("#status") == ""


@pytest.fixture
def pipeline(bundles):
    return Pipeline.load(bundles / "digits", providers="cpu")


@pytest.fixture
def examples(digits, tmp_path):
    """Two digits, and image files of them."""
    for i, example in enumerate(digits[:2]):
        Image.fromarray((example[..., 0] * 255).astype("uint8")).save(tmp_path / f"{i}.png")
    return digits[:2], [str(tmp_path / "0.png"), str(tmp_path / "1.png")]


OPACITY = """
    const canvas = document.querySelector("[data-ref=where] canvas"), { width, height } = canvas;
    return Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3));
"""


def excess(pipeline, x):
    """How many nats each dimension costs more than in 32 draws of the model."""
    own = pipeline.score(pipeline.sample(32, seed=0, draw=True), num_samples=1, seed=0, per_dimension=True)[1]
    return pipeline.score(x, num_samples=16, seed=0, per_dimension=True)[1] - own.mean(axis=0)


def drawn(x_mean):
    """The grey values that a decoded example in [0, 1] is drawn in."""
    return np.round(255 * x_mean[..., 0])


def encoded(page, choose):
    """What the page shows of an input after `choose` chose one."""
    before = page.script('return document.querySelector("[data-ref=negativeElbo]").title')
    choose()
    page.wait(
        lambda: page.script('return document.querySelector("[data-ref=negativeElbo]").title') not in ("", before),
        "a score",
    )
    page.settled()
    return float(page.ref("negativeElbo").get_attribute("title"))


def press(page, ref):
    """Clicks a button that the status line may cover, after scrolling to it as a reader would."""
    page.script("arguments[0].scrollIntoView({ block: 'center' })", page.ref(ref))
    page.ref(ref).click()


def z(page):
    """The latents that the page shows, in their order."""
    values = 'return Array.from(document.querySelectorAll("[data-latent]"), (s) => [Number(s.dataset.latent), s.value])'
    return [float(value) for _, value in sorted(page.script(values))]


def test_it_shows_the_mean_of_the_prior_decoded(page, pipeline):
    decoded = page.pixels('[data-ref="decoded"]')
    assert len(np.unique(decoded)) > 10
    np.testing.assert_allclose(decoded, drawn(pipeline.decode(np.zeros((1, 4), "float32"))), atol=1)
    assert "Bernoulli" in page.text("#facts")
    assert "8 × 8 × 1" in page.text("#facts")


def test_the_most_active_latent_comes_first(page, pipeline):
    order = 'return Array.from(document.querySelectorAll("[data-latent]"), (slider) => Number(slider.dataset.latent))'
    activity = pipeline.latent_activity()
    assert page.script(order) == np.argsort(-activity).tolist()
    assert activity[1] == 0
    assert page.text(".rows summary") == "1 inactive latent"
    visible = [slider.is_displayed() for slider in page.driver.find_elements(By.CSS_SELECTOR, "[data-latent]")]
    assert visible == [True, True, True, False]


def test_a_slider_moves_with_the_keyboard_and_the_picture_with_it(page, pipeline):
    before = page.pixels('[data-ref="decoded"]')
    slider = page.find("[data-latent]")
    latent = int(slider.get_attribute("data-latent"))
    slider.send_keys(Keys.SHIFT)
    assert np.array_equal(page.settled().pixels('[data-ref="decoded"]'), before)
    assert page.script("return document.activeElement === arguments[0]", slider)
    slider.send_keys(Keys.ARROW_RIGHT * 40)
    expected = np.zeros((1, 4), "float32")
    expected[0, latent] = 40 / 50
    page.wait(lambda: not np.array_equal(page.pixels('[data-ref="decoded"]'), before), "another picture")
    assert z(page.settled()) == pytest.approx(expected[0])
    np.testing.assert_allclose(page.pixels('[data-ref="decoded"]'), drawn(pipeline.decode(expected)), atol=1)
    page.ref("reset").click()
    assert np.array_equal(page.settled().pixels('[data-ref="decoded"]'), before)


def test_a_drag_has_one_request_under_way_and_ends_at_the_newest_value(page, pipeline):
    page.script("""
        const real = window.fetch;
        window.counts = { all: 0, now: 0, most: 0 };
        window.fetch = async (...options) => {
            counts.all += 1;
            counts.most = Math.max(counts.most, counts.now += 1);
            try { return await real(...options); } finally { counts.now -= 1; }
        };
        const slider = document.querySelector('[data-latent="0"]');
        for (let i = 0; i <= 100; i++) {
            slider.value = i / 50;
            slider.dispatchEvent(new Event("input"));
        }
    """)
    expected = drawn(pipeline.decode(np.array([[2.0, 0.0, 0.0, 0.0]], "float32")))
    page.wait(lambda: np.allclose(page.pixels('[data-ref="decoded"]'), expected, atol=1), "the newest value's picture")
    counts = page.script("return counts")
    assert counts["most"] == 1
    assert counts["all"] < 50


def test_an_image_is_scored_as_the_pipeline_scores_it(page, pipeline, examples):
    x, files = examples
    score = encoded(page, lambda: page.ref("file").send_keys(files[0]))
    assert score == pytest.approx(pipeline.score(x[:1], num_samples=16, seed=0)[0], rel=1e-3)
    assert not page.ref("verdict").is_displayed()  # there is no threshold
    terms = [float(page.ref(name).text) for name in ("reconstructionTerm", "klTerm", "negativeElbo")]
    assert terms[0] + terms[1] == pytest.approx(terms[2], abs=0.02)
    posterior = pipeline.encode(x[:1])
    assert z(page) == pytest.approx(posterior.mean[0], abs=0.011)  # the step of a slider is 0.02
    shown = page.text(f'.row:has([data-latent="{np.argmax(pipeline.latent_activity())}"]) .q')
    std = np.exp(0.5 * posterior.log_var[0, np.argmax(pipeline.latent_activity())])
    assert float(shown.split("±")[1]) == pytest.approx(std, rel=0.05)
    np.testing.assert_array_equal(page.pixels('[data-ref="given"]'), drawn(x[:1]))
    # Over it what surprises more than in draws of the model, which this bundle has in place of what is usual.
    opacity = np.round(220 * np.clip(excess(pipeline, x[:1])[0, ..., 0] / 6.0, 0.0, 1.0))
    assert len(np.unique(opacity)) > 5
    np.testing.assert_allclose(np.reshape(page.script(OPACITY), (8, 8)), opacity, atol=1)
    assert page.ref("where").is_displayed()
    page.ref("mark").click()
    assert not page.ref("where").is_displayed()
    for part in ("reconstruction", "decoded"):
        np.testing.assert_allclose(page.pixels(f'[data-ref="{part}"]'), drawn(pipeline.reconstruct(x[:1])), atol=1)


def test_where_there_is_a_threshold_a_score_comes_with_a_verdict(chromium, bundles, examples):
    page, pipeline = chromium, Pipeline.load(bundles / "judged", providers="cpu")
    x, files = examples
    normal, inverted = pipeline.score(x[:1]), pipeline.score(1.0 - x[:1])
    nats = pipeline.threshold.nats
    assert normal < nats < inverted
    with browser.serving(bundles / "judged") as address:
        page.errors()
        page.open(address).settled()
        assert encoded(page, lambda: page.ref("file").send_keys(files[0])) == pytest.approx(normal[0], rel=1e-3)
        assert page.ref("verdict").text == f"✓ Not anomalous: up to {nats:.2f} nats, as 90% of normal data"
        assert "3 draws of z with seed 8" in page.ref("scoreNote").text
        colour = page.ref("verdict").find_element(By.TAG_NAME, "b").value_of_css_property("color")
        assert encoded(page, page.ref("invert").click) == pytest.approx(inverted[0], rel=1e-3)
        assert page.ref("verdict").text == f"⚠ Anomalous: above {nats:.2f} nats, as 10% of normal data"
        assert page.ref("verdict").find_element(By.TAG_NAME, "b").value_of_css_property("color") != colour
        # A screen reader says it with the score.
        assert page.find('[data-ref="score"][aria-live="polite"] [data-ref="verdict"]').is_displayed()
        assert page.errors() == []


def test_dark_ink_on_paper_is_inverted_padded_and_not_stretched(page, examples, tmp_path):
    _, files = examples
    ink = 255 - np.asarray(Image.open(files[0])).repeat(8, 0).repeat(8, 1)
    paper = np.full((64, 128), 255, "uint8")  # twice as wide as high: scaled to 8 x 4
    paper[:, 32:96] = ink
    Image.fromarray(paper).save(tmp_path / "paper.png")
    score = encoded(page, lambda: page.ref("file").send_keys(str(tmp_path / "paper.png")))
    assert page.ref("invert").is_selected()
    (given,) = page.pixels('[data-ref="given"]')
    assert given[:2].max() == given[6:].max() == given[:, :2].max() == 0
    assert given[2:6, 2:6].max() > 50
    assert encoded(page, lambda: page.ref("invert").click()) > score
    (inverted,) = page.pixels('[data-ref="given"]')
    assert np.array_equal(inverted, 255 - given)


GIVE = """
    const [selector, type, name, bytes] = arguments, data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
    const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
    const event = type === "paste" ? new ClipboardEvent(type, options) : new DragEvent(type, options);
    document.querySelector(selector).dispatchEvent(event);
"""


def give(page, selector, event, file):
    """Drops or pastes a file on an element."""
    page.script(GIVE, selector, event, "a.png", list(pathlib.Path(file).read_bytes()))


def test_an_image_can_be_dropped_anywhere_and_pasted(page, pipeline, examples):
    x, files = examples
    expected = pipeline.score(x, num_samples=16, seed=0)
    assert encoded(page, lambda: give(page, "footer", "drop", files[0])) == pytest.approx(expected[0], rel=1e-3)
    np.testing.assert_array_equal(page.pixels('[data-ref="given"]'), drawn(x[:1]))
    encoded(page, lambda: give(page, "h1", "paste", files[1]))
    np.testing.assert_array_equal(page.pixels('[data-ref="given"]'), drawn(x[1:]))


def test_the_same_seed_gives_the_same_samples(page, pipeline):
    tiles = '[data-ref="sampleTiles"]'
    first = page.pixels(tiles)
    np.testing.assert_allclose(first, drawn(pipeline.sample(40, seed=0)), atol=1)
    for seed, same in ((7, False), (0, True)):
        page.ref("seed").clear()
        page.ref("seed").send_keys(f"{seed}\t")
        page.wait(lambda same=same: np.array_equal(page.settled().pixels(tiles), first) is same, f"seed {seed}")
    page.ref("newSeed").click()
    assert page.ref("seed").get_attribute("value") != "0"
    page.wait(lambda: not np.array_equal(page.settled().pixels(tiles), first), "new samples")


def test_a_sample_can_be_encoded_with_the_keyboard(page, pipeline):
    sample = pipeline.sample(40, seed=0)[4:5]
    score = encoded(page, lambda: page.find('[aria-label="Sample 5"]').send_keys(Keys.ENTER))
    assert score == pytest.approx(pipeline.score(sample, num_samples=16, seed=0)[0], rel=1e-3)
    assert "sample 5" in page.text('[data-ref="givenCaption"]')


def test_the_interpolation_goes_from_one_reconstruction_to_the_other(page, pipeline, examples):
    x, files = examples
    strip = '[data-ref="strip"]'
    walk = page.pixels(strip)
    assert len(walk) == 10
    assert len(np.unique(walk, axis=0)) == 10
    page.find('[aria-label="File for A"]').send_keys(files[0])
    give(page, '[data-ref="slotB"]', "drop", files[1])
    expected = drawn(pipeline.interpolate(*x, steps=10))
    page.wait(lambda: np.allclose(page.settled().pixels(strip), expected, atol=1), "the interpolation of the files")
    np.testing.assert_allclose(page.pixels(strip)[[0, -1]], drawn(pipeline.reconstruct(x)), atol=1)
    np.testing.assert_array_equal(page.pixels('[data-ref="slotA"]'), drawn(x[:1]))
    # From where the sliders are, and from a sample.
    page.find('[aria-label="Current latents for A"]').click()
    page.find('[name="use"][value="B"]').find_element(By.XPATH, "..").click()
    page.find('[aria-label="Sample 3"]').click()
    ends = np.concatenate([np.zeros((1, 4)), pipeline.encode(pipeline.sample(3, seed=0)[2:]).mean]).astype("float32")
    expected = drawn(pipeline.decode(ends))
    page.wait(lambda: np.allclose(page.settled().pixels(strip)[[0, -1]], expected, atol=1), "the other interpolation")
    # A step takes the sliders there.
    page.find('[aria-label="Step 10 of 10 from A to B"]').click()
    page.wait(lambda: np.allclose(page.settled().pixels('[data-ref="decoded"]'), expected[1:], atol=1), "the last step")


def test_it_fits_a_narrow_phone(page, address):
    for width in (320, 360):
        page.open(address, width, 740).settled()
        assert page.script("return document.documentElement.scrollWidth") <= width


def test_it_is_dark_where_the_rest_is(page):
    background = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(page.script(background)) > 200
    page.colour_scheme("dark")
    page.wait(lambda: max(page.script(background)) < 60, "a dark background")


def test_everything_has_a_name_for_a_screen_reader(page):
    nameless = """
        const named = (e) => e.ariaLabel || e.labels?.length || e.textContent.trim();
        return Array.from(document.querySelectorAll("main :is(input, button, select, textarea, canvas, [tabindex])"))
            .filter((e) => !named(e) && !e.closest("[aria-hidden=true]") && e.ariaHidden !== "true")
            .map((e) => e.outerHTML);
    """
    assert page.script(nameless) == []


def test_several_bundles_and_data_that_are_no_pictures(chromium, bundles, tmp_path):
    page, pipeline = chromium, Pipeline.load(bundles / "vectors", providers="cpu")
    with browser.serving([bundles / name for name in ("digits", "vectors", "conditional")]) as address:
        page.errors()
        page.open(address).settled()
        assert page.driver.title.startswith("digits")

        def choose(name):
            Select(page.find("#bundles")).select_by_visible_text(name)
            page.wait(lambda: page.settled().driver.title.startswith(name), name)

        # Of one that takes a label beside z, the label is chosen.
        choose("conditional")
        line = "return document.querySelector('[data-ref=decoded] tbody').textContent"
        before = page.script(line)
        Select(page.find("[data-ref=labels] select")).select_by_visible_text("3")
        page.wait(lambda: page.script(line) != before, "another line under another label")
        call = page.script("return document.querySelector('#call').textContent")
        label = json.loads(call[call.index("-d '") + 4 : -1])["inputs"][1]
        assert label == {"name": "label", "datatype": "INT32", "shape": [1, 1], "data": [3]}
        choose("vectors")
        # Exported from two networks: no prior to draw from, and no bound.
        assert not page.ref("samples").is_displayed()
        before = page.script(line)
        assert len(page.driver.find_elements(By.CSS_SELECTOR, "[data-ref=decoded] tbody tr")) == 12
        # Both latents at once.
        pad = page.ref("pad")
        pad.send_keys(Keys.ARROW_RIGHT * 3 + Keys.ARROW_UP)
        page.wait(lambda: page.script(line) != before, "another line")
        assert z(page.settled()) == pytest.approx([0.3, 0.1])
        webdriver.ActionChains(page.driver).move_to_element(pad).click_and_hold().move_by_offset(
            20, 30
        ).release().perform()
        across, down = 20 / pad.size["width"], 30 / pad.size["height"]
        assert z(page.settled()) == pytest.approx([6 * across, -6 * down], abs=0.05)
        # Numbers from a file, then from the field; wrong ones are refused in a sentence that goes away.
        x = np.random.default_rng(0).normal(size=(2, 12)).astype("float32")
        means = pipeline.encode(x).mean
        np.savetxt(tmp_path / "two.csv", x, delimiter=",")
        page.ref("file").send_keys(str(tmp_path / "two.csv"))
        page.wait(lambda: page.text("[data-ref=rowCount]") == "2", "the input")
        assert z(page.settled()) == pytest.approx(means[0], abs=0.011)
        assert not page.ref("score").is_displayed()
        page.ref("numbers").send_keys("1, 2, three")
        press(page, "useNumbers")
        page.wait(lambda: "nothing but numbers" in page.text("#status"), "a refusal")
        page.ref("numbers").clear()
        page.ref("numbers").send_keys(json.dumps(x[1].tolist()))
        press(page, "useNumbers")
        page.wait(lambda: page.text("#status") == "" and not page.ref("rowLabel").is_displayed(), "the other")
        assert z(page.settled()) == pytest.approx(means[1], abs=0.011)
        choose("digits")
        assert len(np.unique(page.pixels('[data-ref="decoded"]'))) > 10
        assert page.errors() == []


def test_a_conditional_model_and_a_mixture_prior_are_drawn(chromium, bundles):
    """The label is that of all: what is decoded, sampled and scored."""
    page, pipeline = chromium, Pipeline.load(bundles / "labels", providers="cpu")
    with browser.serving([bundles / name for name in ("labels", "mixture")]) as address:
        page.errors()
        page.open(address).settled()
        samples = (
            "return Array.from(document.querySelectorAll('[data-ref=sampleTiles] canvas')).map((c) => c.toDataURL())"
        )
        before = page.script(samples)
        assert len(before) == 40
        Select(page.find("[data-ref=labels] select")).select_by_visible_text("4")
        page.wait(lambda: page.script(samples) != before, "samples of another label")
        page.settled()
        page.find("[data-ref=sampleTiles] button").click()
        page.wait(lambda: page.ref("negativeElbo").is_displayed(), "a score")
        x = pipeline.sample(40, seed=0, condition=4)[:1]
        expected = pipeline.score({"x": x, "condition": np.array([4])}, num_samples=16, seed=0)[0]
        assert float(page.ref("negativeElbo").get_attribute("title")) == pytest.approx(expected, rel=1e-4)
        Select(page.find("#bundles")).select_by_visible_text("mixture")
        page.wait(lambda: page.settled().driver.title.startswith("mixture"), "the other bundle")
        assert not page.driver.find_elements("css selector", "[data-ref=labels] select")
        # A draw is noise that has gone through the prior's graph; all of this noise is the same number.
        page.script("Math.random = () => 0.1")
        noise = np.full((1, 4), np.sqrt(-2 * np.log(0.9)) * np.cos(0.2 * np.pi), "float32")
        mixture = Pipeline.load(bundles / "mixture", providers="cpu")
        expected = mixture.sessions["prior"].run({"noise": noise})["z"][0]
        page.ref("draw").click()
        page.wait(lambda: z(page.settled()) == pytest.approx(expected, abs=0.03), "a draw of the mixture")
        assert page.errors() == []


def test_numbers_are_a_condition_and_sliders_have_the_range_of_the_prior(chromium, bundles):
    page, pipeline = chromium, Pipeline.load(bundles / "numbers", providers="cpu")
    with browser.serving(bundles / "numbers") as address:
        page.errors()
        page.open(address).settled()
        ends = 'return Array.from(document.querySelectorAll("[data-latent]"), (s) => [s.dataset.latent, s.min, s.max])'
        found = [[float(value) for value in row] for row in sorted(page.script(ends))]
        np.testing.assert_allclose(found, [[0, -5, 7], [1, -3.5, -0.5]], rtol=1e-6)  # mean and 3 standard deviations
        cells = "document.querySelectorAll('[data-ref=decoded] tbody td:last-child')"
        decoded = f"return Array.from({cells}, (td) => td.textContent)"
        before, field = page.script(decoded), page.find("[data-ref=labels] input")
        for text in ("0.5", "0.5, 2"):
            field.clear()
            field.send_keys(f"{text}\t")
            if text == "0.5":
                page.wait(lambda: "condition of this model is 2 numbers" in page.text("#status"), "a refusal")
        page.wait(lambda: page.script(decoded) != before and page.text("#status") == "", "under the other condition")
        given = {"z": np.array([[1, -2]], "float32"), "condition": np.array([[0.5, 2]], "float32")}
        drawn = [float(text.replace("\u2212", "-").split("±")[0]) for text in page.settled().script(decoded)]
        assert drawn == pytest.approx(pipeline.decode(given)[0], rel=1e-4)
        assert page.errors() == []


def test_latents_at_places_have_a_slider_and_a_map_for_each_channel(chromium, bundles):
    """A picture z with codes, a series z, and one of free sizes, which is not drawn."""
    page = chromium
    with browser.serving([bundles / name for name in ("places", "steps", "free")]) as address:
        page.errors()
        page.open(address).settled()
        pipeline = Pipeline.load(bundles / "places", providers="cpu")
        assert "3 \u00d7 4 \u00d7 2" in page.text("#facts")
        page.find("[data-ref=sampleTiles] button").click()
        page.wait(lambda: page.ref("codes").is_displayed(), "the codes of a sample")
        x = pipeline.sample(40, seed=0)[:1]
        codes = pipeline.encode(x).codes[0]
        cells = "return Array.from(document.querySelectorAll('[data-ref=codes] table'), (table) => "
        cells += "Array.from(table.rows, (row) => Array.from(row.cells, (cell) => Number(cell.textContent))))"
        np.testing.assert_array_equal(page.settled().script(cells), np.moveaxis(codes, -1, 0))
        values = "return Object.fromEntries(Array.from(document.querySelectorAll('[data-latent]'), "
        values += "(slider) => [slider.dataset.latent, Number(slider.value)]))"
        location = pipeline.encode(x).location
        found = page.script(values)
        expected = location.mean(axis=(0, 1, 2))
        assert [found["0"], found["1"]] == pytest.approx(expected, abs=0.011)  # a slider has steps
        maps = page.pixels("[data-ref=rows] .map")
        assert maps.shape == (2, 3, 4)
        # Half a standard deviation of the prior more, at all places.
        field = page.find("[aria-label='Value of channel 0']")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(f"{expected[0] + 0.5:.6f}", Keys.ENTER)
        moved = location.copy()
        moved[..., 0] += 0.5
        page.wait(lambda: page.script(values)["0"] == pytest.approx(expected[0] + 0.5, abs=0.011), "the moved channel")
        call = json.loads(page.settled().text("#call").split("-d '")[1].removesuffix("'"))
        np.testing.assert_allclose(call["inputs"][0]["data"], moved.ravel(), atol=2e-4)
        assert call["inputs"][0]["shape"] == [1, 3, 4, 2]
        assert np.abs(page.pixels("[data-ref=rows] .map") - maps).max(axis=(1, 2)).min() == 0
        assert np.abs(page.pixels("[data-ref=rows] .map") - maps).max() > 15
        Select(page.find("#bundles")).select_by_visible_text("steps")
        page.wait(lambda: page.settled().driver.title.startswith("steps"), "the series")
        assert len(page.driver.find_elements("css selector", "[data-ref=rows] .map path")) == 2
        assert not page.ref("codes").is_displayed()
        page.ref("draw").click()
        assert page.settled().text("#status") == ""
        Select(page.find("#bundles")).select_by_visible_text("free")
        page.wait(lambda: page.settled().driver.title.startswith("free"), "the bundle of free sizes")
        assert "leaves sizes free (z: any \u00d7 any \u00d7 2); this page knows only fixed ones" in page.text("#main")
        assert page.errors() == []


READ = """
    const [bytes, shape, missing] = arguments;
    try {
        const array = parseArray(new Uint8Array(bytes).buffer, "f");
        const model = { shape, missing, size: shape.reduce((a, b) => a * b, 1) };
        const { count, values, names } = examplesOf(array, model, "f");
        const cells = (i) => Array.from(values(i), (value) => (Number.isNaN(value) ? "missing" : value));
        const rows = Array.from({ length: count }, (_, i) => cells(i));
        return { shape: array.shape, rows, names };
    } catch (error) {
        if (!(error instanceof Failure)) throw error;
        return error.message;
    }
"""


def npy(array, version=(1, 0)):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def read(page, content, shape=(3,), missing=False):
    """What the page reads from a file for a model of that shape: a dict, or its refusal in words."""
    return page.script(READ, list(content.encode() if isinstance(content, str) else content), list(shape), missing)


def test_files_of_numbers_are_read_as_they_are_written(page):
    x = np.arange(6).reshape(2, 3)
    for dtype in ("<f4", ">f4", "<f8", ">f8", "u1", "i1", "<u2", ">i2", ">i4", "<u4", "<i8", ">u8", "?"):
        for version in ((1, 0), (2, 0), (3, 0)):
            found = read(page, npy(x.astype(dtype), version))
            assert found == {"shape": [2, 3], "rows": x.astype(dtype).astype(int).tolist(), "names": None}, dtype
    images = np.arange(12.0).reshape(2, 2, 3)
    for array in (images, np.asfortranarray(images)):
        assert read(page, npy(array), (2, 3, 1))["rows"] == np.arange(12).reshape(2, 6).tolist()
    rows = [[1, "missing", 3], [4, 5, 6]]
    for text in (
        "1,,3\n4,5,6",
        "1,-,3\n4,5,6",
        "1,#N/A,3\n4,5,6",
        "a,b,c\r\n1,NaN,3\r\n4,5,6\r\n",
        '"a";b;c\n1;null;3\n4;5;6',
        "[[1, NaN, 3], [4, 5, 6]]",
    ):
        found = read(page, text, missing=True)
        assert (found["rows"], found["names"]) == (rows, ["a", "b", "c"] if "b" in text else None)
    assert read(page, ",a,b,c\n0,1,2,3\n")["rows"] == [[1, 2, 3]]  # pandas with its index
    # A count is a line of names, as pandas writes it, unless it is all of the file or a list of numbers.
    assert read(page, "0,1,2\n1,2,3") == {"shape": [1, 3], "rows": [[1, 2, 3]], "names": ["0", "1", "2"]}
    for text in ("0,1,2", "0\n1\n2\n", "0,1\n2"):
        assert read(page, text)["rows"] == [[0, 1, 2]]
    for text in ("1, 2, 3,\n4, 5, 6", "1 2 3 4\n5 6", "1\n2\n3\n4\n5\n6\n", "1 2\n3 4\n5 6", "[1, 2, 3, 4, 5, 6]"):
        assert read(page, text, (3, 2))["rows"] == [[1, 2, 3, 4, 5, 6]]


def test_files_that_cannot_be_read_are_refused_with_a_sentence(page):
    whole = npy(np.zeros((2, 3)))
    for content, words in (
        (npy(np.zeros(3, "complex64")), "it holds <c8; save float32"),
        (npy(np.zeros(3, [("a", "f4")])), "it holds records"),
        (whole[:-1], "ends before all of its 2 × 3 numbers"),
        (whole[:40], "ends within its header"),
        (whole[:6] + b"\x09" + whole[7:], "its version is 9"),
        (b"PK\x03\x04" + whole, r"an archive (.npz, .xlsx)"),
        (b"\xff\x00\x01", "neither .npy nor text in UTF-8"),
        ("", "holds no numbers"),
        ('{"x": [1]}', "a JSON list of nothing but numbers"),
        ("[[1, 2], [3]]", "lists of one length"),
        ("[1, 2", "starts like JSON, but is none"),
        ("a,b,c\n1,2,3\n1,2", "has 3 names, but line 3 has 2 cells"),
        ("1,2,3\n1,2,<b>", 'below a line of names if it has one (no name is a number); line 2, cell 3 is "<b>"'),
        ("label,0,1\n4,5,6", 'line 1, cell 1 is "label"'),
        ('1,"1,000",3\n4,5,6', 'line 1, cell 2 is "1,000"'),
        *((f"1,{cell},3\n4,5,6", f'line 1, cell 2 is "{cell}"') for cell in ("1.5e", "1%", "\u22123")),
        ("1,2\n3,4", "f has the shape 2 × 2; an example of this model has 3, and a file of several rows × 3"),
        ("a,b,c\n1,,3", "f lacks number 2 of row 1 (b), and this model takes no missing values"),
        ("1,2,1e39", "an infinite value: number 3 of row 1"),
    ):
        assert words in read(page, content), content


def test_tables_and_series_are_drawn_as_such_with_the_score_in_view(chromium, bundles, tmp_path):
    page, table = chromium, Pipeline.load(bundles / "table", providers="cpu")
    x = np.array([[5000, -0.01, 1, 0, 0, 2, 1, 3, 1, 2, 4, 1], [4000, 0, 0, 1, 0, 2, 1, 3, 0, 0, 2, 3]], "float32")
    x[1, 1] = np.nan
    names = ["<img src=x onerror=alert(1)>", *"bcdefghijkl"]
    lines = [names, *([str(v).replace("nan", "") for v in row] for row in x)]
    (tmp_path / "t.csv").write_text("\n".join(map(",".join, lines)))
    series = np.random.default_rng(0).normal(size=(3, 12, 2)).astype(">f4")
    series[0, [5, 7], 1] = 4.0, -5.0
    np.save(tmp_path / "s.npy", series)
    box = "const { top, bottom } = arguments[0].getBoundingClientRect(); return [top, bottom]"
    with browser.serving([bundles / "table", bundles / "series"]) as address:
        page.errors()
        page.open(address, height=800).settled()
        assert encoded(page, lambda: page.ref("file").send_keys(str(tmp_path / "t.csv"))) == pytest.approx(
            table.score(x[:1], num_samples=16, seed=0)[0], rel=1e-4
        )
        top, bottom = page.script(box, page.ref("score"))
        assert 0 < top < bottom < 800

        def choose_second_row():
            page.ref("row").clear()
            page.ref("row").send_keys("2\t")

        assert encoded(page, choose_second_row) == pytest.approx(
            table.score(x[1:], num_samples=16, seed=0)[0], rel=1e-4
        )
        rows = [row.text.split() for row in page.driver.find_elements(By.CSS_SELECTOR, "[data-ref=reconstruction] tr")]
        assert rows[2][:2] == ["b", "missing"]
        # Filled in with the mean, and the spread of draws.
        press(page, "fill")
        page.wait(lambda: not page.ref("fill").is_displayed(), "what was missing")
        filled = page.settled().find("[data-ref=reconstruction] td.filled").text.split(" ± ")
        mean, draws = table.impute(x[1:], seed=0)[0, 1], table.impute(x[1:], 50, seed=0)[:, 0, 1]
        assert [float(text.replace("−", "-")) for text in filled] == pytest.approx([mean, draws.std()], rel=0.06)
        # In a category all numbers are one.
        nats = excess(table, x[1:])[0]
        costs = [cell.text for cell in page.driver.find_elements(By.CSS_SELECTOR, "[data-ref=reconstruction] td.cost")]
        columns = [nats[0], 0.0, nats[2:5].sum(), *nats[5:]]
        assert [float(text.replace("−", "-") or 0) for text in costs] == pytest.approx(columns, rel=0.06, abs=0.01)
        marked = [
            cell.text for cell in page.driver.find_elements(By.CSS_SELECTOR, "[data-ref=reconstruction] td.marked")
        ]
        assert marked == [text for text, nats in zip(costs, columns, strict=True) if nats >= 3.0]
        kinds = [cell.text for cell in page.driver.find_elements(By.CSS_SELECTOR, "[data-ref=reconstruction] td.kind")]
        assert kinds[:3] == ["Laplace", "Categorical, 1 of 3", "Poisson"]
        assert kinds[5:] == ["Categorical, 0 to 2", "Multinomial"]
        assert page.text("[data-ref=reconstruction] td.name") == names[0]  # and no picture
        assert page.driver.find_elements(By.CSS_SELECTOR, "img") == []
        assert page.script("return document.documentElement.scrollWidth") <= 1280
        page.open(f"{address}/#series:1", height=800).settled()
        expected = Pipeline.load(bundles / "series", providers="cpu").score(series[:1], num_samples=16, seed=0)[0]
        score = encoded(page, lambda: page.ref("file").send_keys(str(tmp_path / "s.npy")))
        assert score == pytest.approx(expected, rel=1e-4)
        assert page.script(box, page.ref("score"))[1] < 800
        assert page.driver.find_elements(By.CSS_SELECTOR, "main canvas") == []
        drawn = [
            len(p.find_elements(By.CSS_SELECTOR, ".line"))
            for p in page.driver.find_elements(By.CSS_SELECTOR, "[data-ref=reconstruction] .panel")
        ]
        assert drawn == [2, 2]
        nats = excess(Pipeline.load(bundles / "series", providers="cpu"), series[:1])[0]
        dots = "return Array.from(document.querySelectorAll('.axes .marks'), (path) => path.getAttribute('d'))"
        steps = [[int(dot.split()[0]) for dot in path.split("M")[1:]] for path in page.script(dots)]
        assert steps == [np.flatnonzero(nats[:, c] >= 3.0).tolist() for c in range(2)]
        assert any(steps)
        for which in ("table", "series"):
            page.open(f"{address}/#{which}:1", 390, 844).settled()
            assert page.script("return document.documentElement.scrollWidth") <= 390
        assert page.errors() == []


def test_no_other_script_runs_and_no_text_becomes_html(page):
    for attack in (
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)",
        "document.body.insertAdjacentHTML('beforeend', '<b id=made></b>')",
    ):
        with pytest.raises(JavascriptException, match="TrustedHTML|TrustedScript"):
            page.script(attack)
    assert page.script("return [window.ran ?? null, document.querySelector('#made')]") == [None, None]
    assert all("Trusted" in message or "trusted" in message for message in page.errors())


def test_a_server_with_a_token_is_asked_with_it(chromium, bundles):
    page = chromium
    with browser.serving(bundles / "digits", token="open sesame") as address:
        page.errors()
        page.open(address)
        field = page.wait(lambda: page.find("#token[open] input"), "the question")
        assert field.get_attribute("type") == "password"
        field.send_keys("a wrong one" + Keys.ENTER)
        page.wait(lambda: "not it" in page.text("#token-note"), "the answer")
        field.send_keys("open sesame" + Keys.ENTER)
        page.settled()
        assert len(np.unique(page.pixels('[data-ref="decoded"]'))) > 10
        page.driver.refresh()
        page.settled()  # without a question: it was kept
        assert all("401" in message for message in page.errors())
    page.script("sessionStorage.clear()")


def test_a_server_that_has_gone_is_waited_for(chromium, bundles, pipeline):
    page = chromium
    with browser.serving(bundles / "digits") as address:
        page.open(address).settled()
        before = page.pixels('[data-ref="decoded"]')
    page.find("[data-latent]").send_keys(Keys.END)
    page.wait(lambda: "does not answer" in page.text("#status"), "the error")
    assert page.find("#status").is_displayed()
    assert page.find("#status").get_attribute("aria-live") == "polite"
    assert np.array_equal(page.pixels('[data-ref="decoded"]'), before)
    with browser.serving(bundles / "digits", port=int(address.rpartition(":")[2])):
        page.wait(lambda: page.text("#status") == "", "the server's return")
        moved = np.array([z(page.settled())], "float32")
        page.wait(lambda: not np.array_equal(page.pixels('[data-ref="decoded"]'), before), "what was missed")
        np.testing.assert_allclose(page.settled().pixels('[data-ref="decoded"]'), drawn(pipeline.decode(moved)), atol=1)
    page.errors()


def test_an_error_of_the_server_is_shown_until_it_works_again(chromium, bundles):
    page = chromium
    with browser.serving(bundles / "digits") as address:
        page.errors()
        page.open(address).settled()
        page.ref("numbers").find_element(By.XPATH, "..").find_element(By.TAG_NAME, "summary").click()
        page.ref("numbers").send_keys(json.dumps([200] * 64))
        press(page, "useNumbers")
        page.wait(lambda: "must lie in [0, 1]" in page.text("#status"), "the server's sentence")
        page.ref("numbers").clear()
        page.ref("numbers").send_keys(json.dumps([1] * 64))
        encoded(page, lambda: press(page, "useNumbers"))
        assert page.text("#status") == ""
        assert all("400" in message for message in page.errors())
