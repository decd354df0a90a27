"""Makes the pictures of a page anew: `python docs/pictures.py docs/guide/tables.md`.

The blocks of Python on the page are run in order, in an empty folder. The pictures that they write there, and that the
page shows as `pictures/NAME`, are the page's: what a reader sees is what the code above it drew.
"""

import os
import pathlib
import re
import shutil
import sys
import tempfile


def shown(page):
    """The names of the pictures that a page's own blocks must write."""
    return re.findall(r"!\[[^\]]*\]\(pictures/([^)]+)\)", pathlib.Path(page).read_text(encoding="utf-8"))


def make(page):
    page = pathlib.Path(page).resolve()
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    (page.parent / "pictures").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        namespace = {"__name__": "page"}
        for block in blocks:
            exec(compile(block, str(page), "exec"), namespace)
        for name in shown(page):
            shutil.copy(name, page.parent / "pictures" / name)


if __name__ == "__main__":
    make(sys.argv[1])
