"""The page of a summary in headless Chromium: what it shows, by mouse and by keyboard.

Screenshots are compared with golden ones, coarsely: fonts differ from machine to machine.
``pytest --rewrite-golden`` writes them anew.
"""

import base64
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import chimera as ch

GOLDEN = Path(__file__).parent / "golden"
CHROMIUM = Path("/usr/bin/chromium")
TOKENS = ch.spec(2, 9, dtype=torch.int64)
# What two pictures may differ by: the mean over blocks of 8x8 pixels, of 255.
NEAR = 2.5
DIFFERENCE = """
async ([one, other]) => {
  const pixels = async (data) => {
    const image = new Image();
    image.src = "data:image/png;base64," + data;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(image.width / 8);
    canvas.height = Math.round(image.height / 8);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    return pen.getImageData(0, 0, canvas.width, canvas.height).data;
  };
  const [a, b] = [await pixels(one), await pixels(other)];
  if (a.length !== b.length) return 255;
  return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]), 0) / a.length * 4 / 3;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"needs Chromium at {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(
            executable_path=str(CHROMIUM),
            args=[
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
            ],
        )


class Opened:
    """A page in the browser, with what it asked for and complained of."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1100, "height": 700}, **options)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.set_default_timeout(5000)
        self.page.goto(file.as_uri())

    def rows(self) -> list[str]:
        return [" ".join(text.split()) for text in self.page.locator(".row").all_inner_texts()]

    def cells(self) -> list[str]:
        """The titles of the boxes in the picture."""
        return self.page.locator(
            ".cell .title, .cell.pill text, .cell.end text"
        ).all_text_contents()

    def row(self, text: str) -> Any:
        return self.page.locator(".row").filter(has_text=re.compile(text)).first

    def unfold(self, text: str) -> None:
        row = self.row(text)
        if row.get_attribute("aria-expanded") == "false":
            row.locator(".twist").click()

    def panel(self) -> str:
        return re.sub(r"\n+", "\n", self.page.locator("#panel").inner_text())

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def compare(self, name: str, request: pytest.FixtureRequest) -> None:
        """The picture is the golden one of that name, or becomes it."""
        taken, file = self.page.screenshot(), GOLDEN / name
        if request.config.getoption("--rewrite-golden"):
            file.write_bytes(taken)
        blank = self.page.context.browser.new_page()
        pictures = [base64.b64encode(data).decode() for data in (taken, file.read_bytes())]
        difference = blank.evaluate(DIFFERENCE, pictures)
        blank.close()
        assert difference < NEAR, f"{name}: differs by {difference:.1f}; see --rewrite-golden"


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    pages: list[Opened] = []

    def open_page(report: ch.Summary, **options: Any) -> Opened:
        pages.append(Opened(browser, report.to_html(tmp_path / "page.html"), **options))
        return pages[-1]

    yield open_page
    for page in pages:
        assert page.complaints == []
        assert all(url.startswith(("file:", "data:")) for url in page.asked)
        page.page.close()


def test_one_file_without_network(language: nn.Module, tmp_path: Path) -> None:
    file = ch.summary(language, TOKENS).to_html(tmp_path / "page.html")
    text = file.read_text()
    assert "default-src 'none'" in text
    sources = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)""", text)
    assert sources == []
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    with pytest.raises(ValueError, match="bins must be 2 or more; got 1"):
        ch.summary(language, TOKENS).to_html(file, bins=1)


def test_names_cannot_break_the_page(opened: Any) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("</script><b>", nn.Linear(2, 2))

        def forward(self, x):
            return self._modules["</script><b>"](x)

        def extra_repr(self) -> str:
            return "<img src=x onerror=alert(1)> <!--SCRIPT-->"

    page = opened(ch.summary(Odd(), ch.spec(1, 2)))
    assert page.page.title() == "Odd · summary"
    assert page.rows()[1].startswith("</script><b> Linear")
    assert "<img src=x" in page.panel()


def test_the_tree_folds_and_the_picture_with_it(opened: Any, language: nn.Module) -> None:
    page = opened(ch.summary(language, TOKENS))
    assert any("6x Block" in row for row in page.rows())
    assert page.cells().count("Block0") == 0
    page.row("6x Block").locator(".twist").click()
    assert sum(re.fullmatch(r"▶ \d Block [\d.]+k", row) is not None for row in page.rows()) == 6
    assert sum(text.startswith("Block") for text in page.cells()) == 6
    page.row(r"^▶\s*2\s*Block").locator(".twist").click()
    assert page.cells().count("+") == 2
    assert page.page.locator(".edge.skip").count() == 2
    page.row("6x Block").locator(".twist").click()
    assert not any(text.startswith("Block") for text in page.cells())


def test_ties_and_findings_are_drawn(opened: Any, language: nn.Module) -> None:
    page = opened(ch.summary(language, TOKENS))
    assert page.page.locator(".edge.tie title").text_content() == "weight is tokens.weight"
    page.row("head").click()
    assert "The same tensor as tokens.weight" in page.panel()
    page.page.locator("#panel .link").click()
    assert page.panel().startswith("Embedding\ntokens")
    assert "shared-module" in page.panel()
    flagged = page.page.locator(".row", has=page.page.locator(".flag.info"))
    # The root lists every finding: the tie, and the frozen norm.
    named = [text.strip("▶▼ \n").split()[0] for text in flagged.all_inner_texts()]
    assert named == ["Language", "tokens", "norm"]


def test_branches_stand_side_by_side(
    opened: Any, branched: nn.Module, request: pytest.FixtureRequest
) -> None:
    page = opened(ch.summary(branched, ch.spec(2, 3, 16, 16)))
    page.unfold("2 Parallel")
    boxes = {
        index: page.page.locator(f'[data-cell="{index}"] > rect.box').first.bounding_box()
        for index in (
            page.page.locator(".cell").nth(i).get_attribute("data-cell")
            for i in range(page.page.locator(".cell").count())
        )
    }
    middles = [box["y"] + box["height"] / 2 for box in boxes.values()]
    assert max(sum(abs(one - other) < 1 for other in middles) for one in middles) == 4
    for one in boxes.values():
        assert one["width"] > 0
    page.press("0")
    page.compare("branches.png", request)


def test_no_two_boxes_overlap(opened: Any, branched: nn.Module) -> None:
    page = opened(ch.summary(branched, ch.spec(2, 3, 16, 16)))
    folded = page.page.locator('.row[aria-expanded="false"] .twist')
    while folded.count():
        folded.first.click()
    cards = page.page.locator(".cell:not(.group) > rect.box")
    boxes = [cards.nth(i).bounding_box() for i in range(cards.count())]
    assert len(boxes) > 12
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart = (
                one["x"] + one["width"] <= other["x"] + 1
                or other["x"] + other["width"] <= one["x"] + 1
                or one["y"] + one["height"] <= other["y"] + 1
                or other["y"] + other["height"] <= one["y"] + 1
            )
            assert apart, (one, other)


def _middle(page: Opened, title: str) -> float:
    """The middle of the first box with that title, across."""
    box = page.page.locator(".cell", has_text=re.compile(title)).last.locator("> rect.box")
    found = box.last.bounding_box()
    return float(found["x"] + found["width"] / 2)


def test_what_follows_without_a_branch_stands_in_one_line(
    opened: Any, language: nn.Module, request: pytest.FixtureRequest
) -> None:
    page = opened(ch.summary(language, TOKENS))
    page.row("6x Block").locator(".twist").click()
    page.row("2 Block").locator(".twist").click()
    middles = [
        _middle(page, title) for title in ("^.*LayerNormnorm.*", "Linearmix", "Sequentialmlp")
    ]
    page.press("0")
    page.compare("unfolded.png", request)
    assert max(middles[1:]) - min(middles[1:]) < 0.5


def test_a_tie_passes_what_stands_between(opened: Any, language: nn.Module) -> None:
    page = opened(ch.summary(language, TOKENS))
    page.row("6x Block").locator(".twist").click()
    tie = page.page.locator(".edge.tie").bounding_box()
    group = page.page.locator(".cell.group > rect.box").bounding_box()
    assert tie["x"] < group["x"]


def test_no_text_leaves_its_box(opened: Any) -> None:
    class ACardWhoseTitleIsMuchLongerThanACardIsWideAndStillGoesOn(nn.Sequential):
        pass

    kind = ACardWhoseTitleIsMuchLongerThanACardIsWideAndStillGoesOn
    net = nn.Sequential()
    net.add_module("a_name_that_is_rather_long_too", kind(nn.Linear(4, 4), nn.ReLU()))
    net.add_module("layer", nn.TransformerEncoderLayer(4, 1, 4))
    page = opened(ch.summary(net, ch.spec(2, 3, 4)))
    for name in ("ACard", "layer"):
        page.unfold(name)
    outside = page.page.evaluate(
        """() => [...document.querySelectorAll(".cell")].flatMap((cell) => {
          const box = cell.querySelector("rect.box").getBoundingClientRect();
          return [...cell.querySelectorAll(":scope > text")].filter((text) => {
            const own = text.getBoundingClientRect();
            return own.left < box.left - 1 || own.right > box.right + 1;
          }).map((text) => text.textContent);
        })"""
    )
    assert outside == []


def test_a_narrow_screen_shows_one_below_the_other(
    opened: Any, language: nn.Module, request: pytest.FixtureRequest
) -> None:
    page = opened(ch.summary(language, TOKENS))
    for width, below in ((760, True), (430, True), (1100, False)):
        page.page.set_viewport_size({"width": width, "height": 800})
        stage = page.page.locator(".stage").bounding_box()
        tree = page.page.locator(".side").bounding_box()
        assert (tree["y"] >= stage["y"] + stage["height"] - 1) is below
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width
        if width == 760:
            page.press("0")
            page.compare("narrow.png", request)


def test_the_root_leads_to_every_finding(opened: Any, language: nn.Module) -> None:
    page = opened(ch.summary(language, TOKENS))
    assert "Findings further down" in page.panel()
    page.page.locator("#panel .found .link", has_text="tokens").click()
    assert page.panel().startswith("Embedding\ntokens")


def test_histograms_and_single_neurons(
    opened: Any, branched: nn.Module, request: pytest.FixtureRequest
) -> None:
    report = ch.summary(branched, ch.spec(2, 3, 16, 16))
    page = opened(report)
    page.row("6 Linear").click()
    weight = branched[6].weight.detach()
    panel = page.panel()
    assert f"mean {float(weight.mean()):.3g}"[:10] in panel
    counts = page.page.locator(".histogram").first.locator("title").all_text_contents()
    assert sum(int(text.rpartition(" ")[2]) for text in counts) == weight.numel()
    assert "10 neurons of 20 weights" in panel
    page.page.locator(".units").focus()
    page.press("ArrowRight", "ArrowRight", "ArrowRight")
    unit = report.units("6")[3]
    panel = page.panel()
    assert "6[3]" in panel
    assert f"{unit.norm:.3g}" in panel
    assert f"{unit.bias:.3g}" in panel
    page.compare("neurons.png", request)


def test_everything_by_keyboard(opened: Any, language: nn.Module) -> None:
    page = opened(ch.summary(language, TOKENS))
    page.press("/")
    page.page.keyboard.type("blocks.3.mlp.0")
    assert any(row.endswith("0 Linear 544") for row in page.rows())
    page.press("Enter")
    assert page.panel().startswith("Linear\nblocks.3.mlp.0")
    assert page.page.evaluate("document.activeElement.getAttribute('data-key')") is not None
    page.press("ArrowDown")
    assert page.panel().startswith("GELU")
    page.press("ArrowLeft")
    assert page.panel().startswith("Sequential\nblocks.3.mlp")
    shown = len(page.rows())
    page.press("ArrowLeft")
    assert len(page.rows()) == shown - 3
    page.press("ArrowRight", "ArrowRight")
    assert page.panel().startswith("Linear\nblocks.3.mlp.0")
    page.press("Home")
    assert page.panel().startswith("Language")
    page.page.locator("#graph").focus()
    before = page.page.locator("#scene").get_attribute("transform")
    page.press("+")
    zoomed = page.page.locator("#scene").get_attribute("transform")
    assert zoomed != before
    page.press("ArrowDown", "ArrowDown")
    assert page.panel().startswith("Embedding\ntokens")
    page.press("ArrowDown")
    assert "6x Block" in page.panel() or page.panel().startswith("Block")


def test_zooming_by_wheel_and_dragging(opened: Any, language: nn.Module) -> None:
    page = opened(ch.summary(language, TOKENS))

    def view() -> list[float]:
        text = page.page.locator("#scene").get_attribute("transform")
        return [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", text)]

    x, y, scale = view()
    page.page.mouse.move(500, 350)
    page.page.mouse.wheel(0, -300)
    page.page.wait_for_timeout(50)
    assert view()[2] > scale
    x, y, scale = view()
    page.page.mouse.down()
    page.page.mouse.move(540, 330)
    page.page.mouse.up()
    assert view() == pytest.approx([x + 40, y - 20, scale])


def test_dark_and_with_findings(opened: Any, request: pytest.FixtureRequest) -> None:
    spec = importlib.util.spec_from_file_location("lost", Path(__file__).with_name("lost.py"))
    lost = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lost)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), lost.Lost()).requires_grad_(False)
    for parameter in net.parameters():
        parameter.fill_(0.5)
    page = opened(ch.summary(net, ch.spec(2, 8)), color_scheme="dark")
    page.row("2 Lost").click()
    assert "unregistered-module" in page.panel()
    assert "Use nn.ModuleList" in page.panel()
    page.compare("dark.png", request)


@pytest.mark.long
def test_a_network_of_two_thousand_modules_opens(opened: Any) -> None:
    """The root's children stand in the page, what is folded does not."""

    widths = [4 + 7 * i % 23 for i in range(500)]
    blocks = [
        nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, following))
        for width, following in zip(widths, [*widths[1:], 4], strict=True)
    ]
    net = nn.Sequential(*blocks)
    assert sum(1 for _ in net.modules()) == 2001
    report = ch.summary(net, ch.spec(2, 4))
    page = opened(report)
    assert page.page.locator("#tree .row").count() == 501
    assert page.page.locator(".cell").count() == 502
    page.row("^▶ 250 ").locator(".twist").click()
    assert page.page.locator(".cell").count() == 505
    page.press("/")
    page.page.keyboard.type("499.2")
    page.press("Enter")
    assert page.panel().startswith("Linear\n499.2")
