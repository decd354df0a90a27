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
DIGITS = (166, 1482)  # a zero and a six that are easy to recognise


def main(bundle):
    with np.load(ROOT / "keras_vae" / "digits" / "digits.npz") as file:
        images = file["images"]
    with (
        tempfile.TemporaryDirectory() as folder,
        browser.serving(bundle) as address,
        browser.browsing() as page,
    ):
        files = []
        for digit in DIGITS:
            files.append(str(pathlib.Path(folder) / f"{digit}.png"))
            Image.fromarray(np.where(images[digit] > 8, 255, 0).astype("uint8")).save(files[-1])
        page.open(address, WIDTH, 900).settled()
        page.ref("file").send_keys(files[0])
        for name, file in zip("AB", files, strict=True):
            page.find(f'[aria-label="File for {name}"]').send_keys(file)
        page.wait(lambda: page.ref("score").is_displayed(), "a score")
        bottom = page.settled().script("return document.querySelector('footer').getBoundingClientRect().top")
        page.resize(WIDTH, round(bottom) + 16)
        page.script("document.querySelector('footer').style.visibility = 'hidden'")
        page.settled().driver.save_screenshot(str(ROOT / "docs" / "explorer.png"))


if __name__ == "__main__":
    main(sys.argv[1])
