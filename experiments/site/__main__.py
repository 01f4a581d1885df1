"""`make docs`: builds the site into a folder; whatever Sphinx warns of is an error."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from experiments.site import contents
from rl_unlearn import __version__
from rl_unlearn.errors import ConfigError, MachineError, UserError

OPTIONS = {
    "project": "rl-unlearn",
    "author": "rl-unlearn",
    "version": __version__,
    "release": __version__,
    "extensions": ["myst_parser"],
    "root_doc": contents.HOME,
    "html_theme": "furo",
    "html_title": f"rl-unlearn {__version__}",
    "html_show_sourcelink": False,
    "html_copy_source": False,
    "highlight_language": "none",
    "nitpicky": True,
    "myst_heading_anchors": 6,
    "myst_heading_slug_func": "experiments.site.links.slug",
    "myst_disable_syntax": ["myst_line_comment", "myst_target", "myst_role"],
}
"""Markdown is read as GitHub does: what MyST adds to it is off, but for the contents."""


def build(out: Path) -> Path:
    """Builds the site into `out` and returns its first page.

    Raises UserError if anything is warned of, such as a link that leads nowhere; MachineError if
    Sphinx is not installed.
    """
    try:
        from pygments.lexers.special import TextLexer
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    except ImportError as error:
        raise MachineError(
            f"{error.name} is not installed: pip install -c constraints.txt -e '.[docs]'"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        pages, trees = Path(folder, "pages"), Path(folder, "trees")
        pages.mkdir()
        contents.lay_out(pages)
        _clear(out)
        with patch_docutils(), docutils_namespace():  # a process may build more than once
            app = Sphinx(
                pages, None, out, trees, "html", confoverrides=OPTIONS, status=None,
                warning=sys.stderr, warningiserror=True,
            )  # fmt: skip
            app.add_lexer("mermaid", TextLexer)
            app.build(force_all=True)
        if app.statuscode:
            raise UserError(f"{app._warncount} warnings: mend what they name")
    shutil.copyfile(out / f"{contents.HOME}.html", out / "index.html")
    return out / "index.html"


def _clear(out: Path) -> None:
    """Removes an earlier site, and nothing else."""
    if (out / ".buildinfo").is_file():
        shutil.rmtree(out)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} holds something else than a site; choose another one")


def main() -> int:
    """Builds the site, and says where it is."""
    parser = argparse.ArgumentParser(prog="python -m experiments.site", description=__doc__)
    parser.add_argument("--out", default="site", metavar="DIR", help="folder of the site (site)")
    try:
        first = build(Path(parser.parse_args().out).absolute())
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stderr.write(f"site: {first}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
