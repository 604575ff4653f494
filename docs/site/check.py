"""Follows every link of a built site, and looks at what a reader by ear needs."""

import concurrent.futures
import html.parser
import pathlib
import urllib.error
import urllib.parse
import urllib.request

SECONDS = 10  # for an address outside to answer


class Page(html.parser.HTMLParser):
    """What one HTML file has: anchors, links, pictures, headings."""

    def __init__(self, path):
        super().__init__()
        self.anchors = {""}
        self.links = []
        self.without_alt = []
        self.headings = 0
        self.language = None
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        has = dict(attributes)
        self.anchors.update(has[key] for key in ("id", "name") if has.get(key))
        if tag == "html":
            self.language = has.get("lang")
        elif tag == "h1":
            self.headings += 1
        elif tag == "img" and not (has.get("alt") or "").strip():
            self.without_alt.append(has.get("src"))
        for key in ("href", "src"):
            if has.get(key):
                self.links.append(has[key])


class Site:
    """All pages of a folder; links is how many lead to somewhere inside."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.pages = {path: Page(path) for path in sorted(self.folder.rglob("*.html"))}
        self.links = 0
        self.outside = {}  # an address: the first page that has it

    def problems(self):
        """A line for each link that leads nowhere, and each picture without words."""
        found = []
        for path, page in self.pages.items():
            name = path.relative_to(self.folder).as_posix()
            for link in page.links:
                if reason := self._wrong(path, link):
                    found.append(f"{name}: {link}: {reason}")
            for picture in page.without_alt:
                found.append(f"{name}: {picture}: no alternative text")
            if page.language is None:
                found.append(f"{name}: its language is not said")
            if page.headings > 1 or (page.headings == 0 and name not in MADE):
                found.append(f"{name}: {page.headings} headings of the first level")
        return found

    def _wrong(self, path, link):
        parts = urllib.parse.urlsplit(link)
        if parts.scheme in ("http", "https"):
            self.outside.setdefault(
                parts._replace(fragment="").geturl(), path.relative_to(self.folder)
            )
            return None
        if parts.scheme or parts.netloc:
            return None if parts.scheme in ("data", "mailto") else "what kind of link?"
        self.links += 1
        target = path
        if parts.path:
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            return "there is no such file"
        other = self.pages.get(target)
        if other and urllib.parse.unquote(parts.fragment) not in other.anchors:
            return "there is no such anchor"
        return None


# What Sphinx makes that has no heading of its own before a program has run in it.
MADE = {"search.html"}


def ask_for(addresses):
    """Ask for each address; print what could not be reached, return what is wrong."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = dict(zip(addresses, pool.map(answer, addresses), strict=True))
    wrong = []
    away = []
    for address, page in sorted(addresses.items()):
        status, reason = answers[address]
        if status in (404, 410):
            wrong.append(f"{page}: {address}: {status}")
        elif status != 200:
            away.append(f"    {address} ({reason})")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(
        f"docs: {len(addresses)} addresses outside, {len(wrong)} of them wrong, "
        f"{len(away)} not to be asked from here"
    )
    print(*away, sep="\n", end="\n" if away else "")
    return wrong


def answer(address):
    """The status of an address, None if it cannot be reached, and what was said."""
    request = urllib.request.Request(address, headers={"User-Agent": "pyloop-docs"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        with error:  # which has the answer's connection open
            return error.code, str(error)
    except OSError as error:
        return None, str(getattr(error, "reason", error))
