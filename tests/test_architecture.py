"""docs/architecture.md draws the modules as they are: names, and who imports whom."""
import ast
import re
from functools import cache
from itertools import pairwise

import pytest

from mmeffnet.plugin import MIM

ROOT = MIM.parent
DOCS = ROOT.parent / 'docs/architecture.md'
pytestmark = pytest.mark.skipif(not DOCS.is_file(), reason='docs/ are not in a wheel')
MODULES = {'.'.join(path.relative_to(ROOT.parent).with_suffix('').parts): path
           for path in ROOT.rglob('[!_]*.py') if MIM not in path.parents}
LAYERS = ('arch', 'scaling', 'variants', 'weights', 'models')


@cache
def imports(module):
    """The modules of ours that one imports, at its top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return found & MODULES.keys()


def reached(module):
    found, new = set(), {module}
    while new:
        new = {other for one in new for other in imports(one)} - found
        found |= new
    return found


def paragraphs():
    """What the picture says of each package by its name, and of single modules by ''."""
    picture = DOCS.read_text().split('```')[1]
    single = re.findall(r'^  (\w+\.py(?:(?:, | +<- )\w+\.py)*)', picture, re.M)
    return {'': ';'.join(single).replace('.py', ''), **dict(
        re.findall(r'^  (\w+)/ (.*(?:\n   +.*)*)', picture, re.M))}


def drawn():
    """(importer, imported) for each arrow of the picture."""
    for package, text in paragraphs().items():
        folder = f'mmeffnet.{package}.' if package else 'mmeffnet.'
        for chain in re.split('[;:]', re.sub(r'\([^)]*\)', '', text)):
            parts = [re.findall(r'\w+', part) for part in chain.split('<-')]
            for lower, upper in pairwise(parts):
                yield from ((f'{folder}{a}', f'{folder}{b}') for a in upper for b in lower)


def test_the_picture_shows_who_imports_whom():
    arrows = list(drawn())
    assert len(arrows) > 50
    assert {name for arrow in arrows for name in arrow} <= MODULES.keys()
    assert [arrow for arrow in arrows if arrow[1] not in reached(arrow[0])] == []


def test_each_module_is_in_the_picture():
    told = paragraphs()
    places = [['', *module.split('.')[1:]][-2:] for module in MODULES]
    assert [(package, name) for package, name in places
            if name not in re.findall(r'\w+', told[package])] == [('', 'version')]


def test_imports_go_one_way():
    assert [module for module in MODULES if module in reached(module)] == []
    for number, layer in enumerate(LAYERS):
        below = {*LAYERS[:number + 1]}
        for module in MODULES:
            if module.split('.')[1:2] == [layer]:
                assert {name.split('.')[1] for name in imports(module)} & {
                    *LAYERS, 'optim', 'datasets', 'detection', 'analysis', 'engine', 'inference',
                    'export', 'evaluation'} <= below, module
