"""Build the pages and slides with Pandoc alone, where Quarto is absent.

`supported` lists the constructs, `sources` reads pages, `document` turns one page's
tree into HTML, `site` puts the pages together and checks the links between them.
README.md says what belongs here and what does not.
"""

from .site import build
from .sources import Problem

__all__ = ["Problem", "build"]
