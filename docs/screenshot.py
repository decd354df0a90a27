"""Takes `docs/explorer.png`, the README's picture of the page, with a bundle of `keras-vae quickstart`.

python docs/screenshot.py quickstart/bundle
"""

import pathlib
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import browser  # noqa: E402

WIDTH = 1200
DIGIT = 1790  # one that quickstart has not been trained on


def main(bundle):
    with np.load(ROOT / "keras_vae" / "data" / "digits.npz") as file:
        digit = np.where(file["images"][DIGIT] > 8, 255, 0).astype("uint8")
    with (
        tempfile.TemporaryDirectory() as folder,
        browser.serving([f"digits={bundle}"]) as address,
        browser.browsing() as page,
    ):
        picture = pathlib.Path(folder) / "digit.png"
        Image.fromarray(digit).save(picture)
        page.open(address, WIDTH, 900).settled()
        page.ref("file").send_keys(str(picture))
        page.wait(lambda: page.ref("score").is_displayed(), "a score")
        page.resize(
            WIDTH, page.script("return Math.ceil(document.querySelector('footer').getBoundingClientRect().top)")
        )
        page.settled().driver.save_screenshot(str(ROOT / "docs" / "explorer.png"))
    # Few colours are in it: a palette halves the file and cannot be seen.
    with Image.open(ROOT / "docs" / "explorer.png") as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(ROOT / "docs" / "explorer.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
