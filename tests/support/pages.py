"""Reading HTML pages."""

from html.parser import HTMLParser


class Cells(HTMLParser):
    """The tables of a page, as lists of rows of texts."""

    def __init__(self, page):
        super().__init__()
        self.tables, self._inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        if tag in ("th", "td") and self.tables:
            self._inside = True
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        if self._inside and self.tables:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag):
        self._inside = self._inside and tag not in ("th", "td")
