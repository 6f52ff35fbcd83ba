"""A real browser shows every page and slide, light, dark and as wide as a phone."""

import copy
import re

import pypdfium2
import pytest
from axe_playwright_python.sync_playwright import Axe

import print_slides
from print_slides import open_to_print, print_deck

LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}

# Without preload: axe would look for imported style sheets at wrong addresses.
AXE_OPTIONS = {"resultTypes": ["violations"], "preload": False}
# Contrast takes four fifths of axe's time. The dark theme changes nothing but colors; a
# phone has the colors of the light theme, except in its header.
CONTRAST = {"runOnly": ["color-contrast"]}
AXE_RULES = {
    "light": {},
    "dark": CONTRAST,
    "phone": {"rules": {"color-contrast": {"enabled": False}}},
}

# Shows what is folded, so that it is tested too.
UNFOLD = """() => {
  for (const part of document.querySelectorAll('details')) part.open = true;
  for (const part of document.querySelectorAll('.callout-collapse'))
    part.classList.add('show');
}"""

# Leaves one colored word of code for each look, since axe takes long for each of
# thousands: the others become text of the line that they are in.
THIN_OUT_CODE = """() => {
  const seen = new Set(), repeated = [];
  const background = (part) => {
    const color = getComputedStyle(part).backgroundColor;
    return color !== 'rgba(0, 0, 0, 0)' || !part.parentElement
      ? color : background(part.parentElement);
  };
  for (const part of document.querySelectorAll('pre span')) {
    const style = getComputedStyle(part);
    const look = [style.color, style.fontWeight, background(part)].join();
    if (seen.has(look)) repeated.push(part);
    seen.add(look);
  }
  for (const part of repeated) part.replaceWith(...part.childNodes);
}"""

# Finds what makes a page scroll sideways, or what is cut off at its right edge.
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth, faults = [];
  const wide = Math.max(
    document.documentElement.scrollWidth, document.body.scrollWidth);
  if (wide > width + 1) faults.push(`it is ${wide} px wide on a screen of ${width}`);
  const scrolls = (part) => {
    for (let p = part; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== 'visible') return true;
    return false;
  };
  for (const part of document.querySelectorAll('main *, .reveal .slides *')) {
    const box = part.getBoundingClientRect();
    if (box.width && box.height && box.right > width + 1 && !scrolls(part))
      faults.push(`cut off at ${Math.round(box.right)} px: ` +
        part.outerHTML.slice(0, 90));
  }
  const text = 'main pre, main math[display=block]';
  for (const part of innerWidth < 1000 ? [] : document.querySelectorAll(text))
    if (part.scrollWidth > part.clientWidth + 1)
      faults.push(`wider than the column: ${part.textContent.trim().slice(0, 60)}`);
  for (const part of document.querySelectorAll('main figcaption'))
    if (!['left', 'start'].includes(getComputedStyle(part).textAlign))
      faults.push(`not on the left: ${part.textContent.trim().slice(0, 60)}`);
  return faults.slice(0, 5);
}"""

# Finds what leaves the frame of the slide that is shown, or must be scrolled in it.
# On a phone reveal.js shows all slides below each other, each in a frame of its own.
LEAVES_FRAME = """() => {
  const all = Reveal.isScrollView(), faults = [];
  const slides = all ? Reveal.getSlides() : [Reveal.getCurrentSlide()];
  const box = (slide) => (all ? slide : slide.closest('.slides'));
  for (const slide of slides) for (const part of slide.querySelectorAll('*')) {
    const frame = box(slide).getBoundingClientRect();
    if (part.closest('aside.notes') || part.parentElement.closest('math, svg'))
      continue;
    const at = part.getBoundingClientRect(), style = getComputedStyle(part);
    if (at.width < 2 || at.height < 2) continue;
    const out = Math.max(at.right - frame.right, at.bottom - frame.bottom,
      frame.left - at.left, frame.top - at.top);
    const hidden = Math.max(part.scrollHeight - part.clientHeight,
      part.scrollWidth - part.clientWidth);
    if (out > 2)
      faults.push(`${Math.round(out)} px out: ${part.outerHTML.slice(0, 90)}`);
    else if (hidden > 2 && style.overflow !== 'visible' && style.display !== 'inline')
      faults.push(`${hidden} px to scroll: ${part.outerHTML.slice(0, 90)}`);
  }
  return faults.slice(0, 3);
}"""

# The lowest place with content, texts smaller than 14 px as they are seen, and captions
# that carry a number, which would not be that of the notebook.
SLIDE = r"""() => {
  const slide = Reveal.getCurrentSlide(), scale = Reveal.getScale(), faults = [];
  let low = 0;
  const kinds = 'p, li, td, img, pre, math, h1, h2, h3, figcaption, .csl-entry';
  for (const part of slide.querySelectorAll(kinds)) {
    const box = part.getBoundingClientRect();
    if (!box.height || part.closest('aside.notes')) continue;
    low = Math.max(low, box.bottom);
    const size = parseFloat(getComputedStyle(part).fontSize) * scale;
    const text = part.textContent.trim();
    if (size < 14) faults.push(`text of ${Math.round(size)} px: ${text}`);
    if (part.matches('figcaption') && /^(Figure|Table)\s\d/.test(text))
      faults.push(`a number in ${text}`);
  }
  const divider = slide.matches('#title-slide, .title-slide');
  return { empty: !divider && low < innerHeight * 0.58, faults: faults.slice(0, 2) };
}"""

MARK_SLIDE = """() => {
  document.querySelector('[data-shown]')?.removeAttribute('data-shown');
  Reveal.getCurrentSlide().dataset.shown = '';
}"""


class Visit:
    """A tab of the browser that notes what goes wrong in it."""

    def __init__(self, browser, address, look):
        self.address, self.look = address, look
        self.context = browser.new_context(**LOOKS[look], reduced_motion="reduce")
        self.page = self.context.new_page()
        self.where, self.faults = "", []
        self.page.on("console", self.on_console)
        self.page.on("pageerror", lambda error: self.note(f"script error: {error}"))
        self.page.on("request", self.on_request)
        self.page.on("requestfailed", lambda r: self.note(f"failed request: {r.url}"))
        self.page.on("response", self.on_response)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def note(self, text):
        self.faults.append(f"{self.where}: {text}")

    def on_console(self, message):
        if message.type in {"error", "warning"}:
            url = message.location.get("url", "")
            self.note(f"console {message.type}: {message.text} ({url})")

    def on_request(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.note(f"a request to another host: {request.url}")

    def on_response(self, response):
        if response.status >= 400:
            self.note(f"{response.status}: {response.url}")

    def open(self, name):
        self.where = name
        self.page.goto(self.address + name, wait_until="load")
        self.page.evaluate("document.fonts.ready")
        self.page.evaluate(Axe().axe_script)

    def check_script(self, script):
        for fault in self.page.evaluate(script):
            self.note(fault)

    def check_access(self, context=None, rules=None):
        options = AXE_OPTIONS | (rules or AXE_RULES[self.look])
        run = "([context, options]) => axe.run(context || document, options)"
        found = self.page.evaluate(run, [context, options])
        for violation in found["violations"]:
            if violation["impact"] in {"serious", "critical"}:
                nodes = violation["nodes"]
                summary = " ".join(nodes[0]["failureSummary"].split())
                self.note(
                    f"axe: {violation['id']} at {len(nodes)} places, "
                    f"first {nodes[0]['target']}: {summary[:300]}"
                )

    def check_theme(self):
        dark = self.page.evaluate("document.body.classList.contains('quarto-dark')")
        if dark != (self.look == "dark"):
            self.note("the page does not follow the reader's color scheme")


def check_page(visit, name):
    """Look at one page."""
    visit.open(name)
    visit.check_theme()
    visit.page.evaluate(UNFOLD)
    visit.check_script(OVERFLOW)
    visit.page.evaluate(THIN_OUT_CODE)
    visit.check_access()
    if visit.look == "phone":
        visit.check_access("#quarto-header", CONTRAST)


def check_deck(visit, name):
    """Look at every slide of a deck and every step of it, from first to last."""
    visit.open(name)
    visit.page.wait_for_function("window.Reveal && Reveal.isReady()")
    if visit.page.evaluate("Reveal.isScrollView()"):
        visit.check_script(LEAVES_FRAME)
        visit.check_script(OVERFLOW)
        visit.check_access()
        return
    seen, empty = set(), []
    while True:
        h, v = visit.page.evaluate("Object.values(Reveal.getIndices()).slice(0, 2)")
        visit.where = f"{name} slide {h}.{v}"
        visit.check_script(LEAVES_FRAME)
        if (h, v) not in seen:
            seen.add((h, v))
            visit.page.evaluate(MARK_SLIDE)
            visit.check_access("[data-shown]")
            slide = visit.page.evaluate(SLIDE)
            empty += [visit.where] if slide["empty"] else []
            for fault in slide["faults"]:
                visit.note(fault)
        before = visit.page.evaluate("JSON.stringify(Reveal.getState())")
        visit.page.evaluate("Reveal.next()")
        if visit.page.evaluate("JSON.stringify(Reveal.getState())") == before:
            break
    total = visit.page.evaluate("Reveal.getTotalSlides()")
    if len(seen) != total:
        visit.note(f"{len(seen)} of {total} slides could be reached")
    if len(empty) > total / 20:
        visit.note(f"the lower half is empty: {empty}")


@pytest.mark.parametrize("look", LOOKS)
def test_pages(site, serve, browser, look):
    with Visit(browser, serve(site.folder), look) as visit:
        for name in site.articles:
            check_page(visit, name)
    assert visit.faults == []


@pytest.mark.parametrize("look", LOOKS)
def test_decks(site, serve, browser, look):
    with Visit(browser, serve(site.folder), look) as visit:
        for name in site.decks:
            check_deck(visit, name)
    assert visit.faults == []


SMALLEST = """() => Math.min(
  ...[...document.querySelectorAll('main :is(h1, h2, p, li, th, td, code, figcaption)')]
    .filter((part) => part.offsetParent)
    .map((part) => parseFloat(getComputedStyle(part).fontSize) * 0.75))"""  # in points


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_the_handout_prints_on_two_pages(site, serve, browser, paper):
    page = browser.new_page()
    page.goto(serve(site.folder) + "handout.html", wait_until="networkidle")
    page.emulate_media(media="print")
    smallest = page.evaluate(SMALLEST)
    printed = page.pdf(format=paper)
    page.close()
    assert smallest >= 9
    assert len(pypdfium2.PdfDocument(printed)) == 2


# Finds what leaves the page that a slide is printed on.
LEAVES_PAPER = """() => [...document.querySelectorAll('.pdf-page')].flatMap((page) => {
  const paper = page.getBoundingClientRect();
  return [...page.querySelectorAll('section *')].filter((part) => {
    if (part.closest('aside.notes') || part.parentElement.closest('math, svg'))
      return false;
    const at = part.getBoundingClientRect();
    return at.width > 1 && at.height > 1 && Math.max(at.right - paper.right,
      at.bottom - paper.bottom, paper.left - at.left, paper.top - at.top) > 2;
  }).map((part) => part.outerHTML.slice(0, 90));
})"""


def letters(text):
    return "".join(re.findall("[A-Za-z]", text))


def printed_slides(site, name):
    """Return the letters of each slide of a deck, without formulas and notes."""
    slides = [part for part in site.soups[name].select("section") if not part.section]
    for slide in map(copy.copy, slides):
        for part in slide.select("aside.notes, math, script, style, svg"):
            part.decompose()
        text = re.sub(r"\b(Figure|Table)\s\d+:", "", slide.get_text(" "))
        yield {letters(word) for word in text.split()}


def test_each_slide_prints_on_one_page_and_loses_nothing(site, browser):
    for name in site.decks:
        deck = site.folder / name
        with open_to_print(browser, deck) as page:
            assert page.evaluate(LEAVES_PAPER) == [], name
            page.evaluate("document.querySelector('h2').style.scale = '20'")
            assert page.evaluate(LEAVES_PAPER), "a huge title was not noticed"
        pages = pypdfium2.PdfDocument(print_deck(browser, deck))
        for paper, words in zip(pages, printed_slides(site, name), strict=True):
            text = letters(paper.get_textpage().get_text_range())
            assert [word for word in words if word not in text] == [], name


def test_without_a_browser_there_are_no_pdfs_and_a_word_on_why(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(print_slides, "find_browser", lambda: None)
    (tmp_path / "deck.html").write_text("<html></html>")
    assert print_slides.print_slides(tmp_path) == []
    assert "no browser here (tried chromium" in capsys.readouterr().out


BROKEN_PAGE = """<html lang="en"><title>Broken</title><body><main>
<img src="http://127.0.0.1:1/elsewhere.png" alt="elsewhere">
<img src="missing.png" alt="missing">
<p style="color: #eee; background: white">pale words</p>
<pre style="background: #fff"><span>a</span> <span>b</span>
<span style="color: #ddd">pale code</span> <span style="color: #ddd">again</span></pre>
<div style="width: 3000px">wide</div>
<pre style="width: 40px; overflow: auto" tabindex="0">a line of code</pre>
<figure><figcaption style="text-align: center">in the middle</figcaption></figure>
</main><script>throw new Error("oh");</script></body></html>"""
BROKEN_DECK = """<html lang="en"><title>Broken</title><body>
<div class="reveal"><div class="slides" style="width: 900px; height: 500px"><section>
<p style="font-size: 9px">tiny</p>
<figure><figcaption>Figure 1: numbered</figcaption></figure>
<pre style="height: 30px; overflow: auto"><code>1\n2\n3\n4\n5</code></pre>
<div style="height: 600px">tall</div>
</section></div></div><script>window.Reveal = {
  isReady: () => true, isScrollView: () => false, getTotalSlides: () => 2,
  getCurrentSlide: () => document.querySelector("section"), next: () => 0,
  getScale: () => 1, getIndices: () => ({h: 0, v: 0}),
  getState: () => 0};</script></body></html>"""


def test_the_browser_notices_what_is_broken(serve, browser, tmp_path):
    (tmp_path / "page.html").write_text(BROKEN_PAGE)
    (tmp_path / "deck.html").write_text(BROKEN_DECK)
    with Visit(browser, serve(tmp_path), "dark") as visit:
        check_page(visit, "page.html")
        check_deck(visit, "deck.html")
    faults = "\n".join(visit.faults)
    for expected in (
        "page.html: script error: oh",
        "page.html: a request to another host: http://127.0.0.1:1/elsewhere.png",
        "page.html: failed request: ",
        "page.html: 404: ",
        "page.html: console error: ",
        "page.html: it is 3008 px wide on a screen of 1280",
        "page.html: cut off at 3008 px: ",
        "page.html: wider than the column: a line of code",
        "page.html: not on the left: in the middle",
        "page.html: axe: color-contrast at 2 places",
        "page.html: the page does not follow the reader's color scheme",
        "deck.html slide 0.0: ",
        " px out: <div ",
        " px to scroll: <pre ",
        "1 of 2 slides could be reached",
        "text of 9 px: tiny",
        "a number in Figure 1: numbered",
        "the lower half is empty: ['deck.html slide 0.0']",
    ):
        assert expected in faults
