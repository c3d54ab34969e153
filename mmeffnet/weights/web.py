"""A file of the web: whole, or an error and no file."""
from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import wrap_file

from mmeffnet.files import whole


def fetch(address: str, path: Path) -> None:
    """Write the file behind an address to ``path``, with a bar of progress on stderr.

    Raises OSError where it cannot be had, comes with fewer bytes than were announced, or where a
    page is answered in its place, as portals do that want a login first.
    """
    # urlopen() itself takes a connection that ends early for the end of the file.
    with urlopen(Request(address, headers={'User-Agent': 'mmeffnet'})) as answer, \
            whole(path) as part:
        if answer.headers.get_content_type() == 'text/html':
            raise OSError('a page of HTML was answered, and no file')
        announced = int(answer.headers.get('Content-Length') or 0)
        bar = wrap_file(answer, announced, description=path.name,
                        console=Console(stderr=True)) if announced else nullcontext(answer)
        with bar as source, part.open('wb') as file:
            shutil.copyfileobj(source, file)
        arrived = part.stat().st_size
        if announced and arrived != announced:
            raise OSError(f'{arrived:,} of {announced:,} bytes arrived')
