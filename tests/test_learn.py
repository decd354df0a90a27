"""The pages of docs/learn, and those that show what they print, keep their word: blocks run and print it, quotes exist.

A block of ```python is run, in order, each page by itself. A block of ```text after it is what it prints: to the
letter, or, after the comment `<!-- numbers within 20 % -->`, with numbers that may differ by so much, as those of a
model trained on another backend do. A block of ```py quotes lines of the file that its first line names.
"""

import contextlib
import io
import pathlib
import re

import pytest

import test_readme

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(path.name for path in (ROOT / "docs" / "learn").glob("*.md"))
PRINTING = [page for page in test_readme.PAGES if test_readme.prints(page)]
BLOCK = re.compile(r"(?:<!-- numbers within (\d+) % -->\n+)?```(python|text)\n(.*?)```", flags=re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def text_of(page):
    return (ROOT / "docs" / "learn" / page).read_text()


def differences(printed, shown, percent):
    """What is wrong with a printed text, in words; empty if it is what the page shows."""
    if percent is None:
        return [] if printed == shown else [f"printed:\n{printed}shown:\n{shown}"]
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", shown).split():
        return [f"other words; printed:\n{printed}shown:\n{shown}"]
    pairs = zip(map(float, NUMBER.findall(printed)), map(float, NUMBER.findall(shown)), strict=True)
    return [f"{new} for {old}" for new, old in pairs if abs(new - old) > int(percent) / 100 * abs(old)]


def test_there_are_pages():
    assert {"why.md", "which_likelihood.md", "which_beta.md", "when_it_goes_wrong.md", "numbers.md"} <= set(PAGES)
    assert len(PRINTING) >= len(PAGES) + 4


@pytest.mark.parametrize("page", PRINTING)
def test_blocks_run_and_print_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace, printed, compared = {"__name__": "page"}, None, 0
    for percent, language, block in BLOCK.findall((ROOT / page).read_text()):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block, page, "exec"), namespace)
        else:
            assert printed is not None, f"{page} shows output before any code"
            assert differences(printed.getvalue(), block, percent or None) == []
            compared += 1
    assert compared >= 5
    assert [name for name in test_readme.pictures(page) if not (tmp_path / name).exists()] == []


def test_a_wrong_number_or_word_is_noticed():
    assert differences("kl 1.50\n", "kl 1.51\n", None)
    assert not differences("kl 1.50\n", "kl 1.51\n", "20")
    assert differences("kl 1.50\n", "kl 2.51\n", "20")
    assert differences("rate 1.50\n", "kl 1.50\n", "20")


@pytest.mark.parametrize("page", PAGES)
def test_quoted_lines_are_in_the_file_that_is_named(page):
    for quote in re.findall(r"```py\n(.*?)```", text_of(page), flags=re.DOTALL):
        named, *lines = quote.splitlines()
        source = {line.strip() for line in (ROOT / named.removeprefix("# ")).read_text().splitlines()}
        assert [line for line in lines if line.strip() not in source] == [], named
