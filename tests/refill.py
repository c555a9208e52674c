"""Refill the numbers in README, log and notebooks from figures/results: `make readme`."""

import json

from lib import ROOT
from lib.results import refill

if __name__ == "__main__":
    for path in (ROOT / "README.md", ROOT / "log.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))):
        text = path.read_text()
        if path.suffix == ".ipynb":
            document = json.loads(text)
            for cell in document["cells"]:
                if cell["cell_type"] == "markdown":
                    cell["source"] = refill("".join(cell["source"]), path.stem).splitlines(keepends=True)
            filled = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        else:
            filled = refill(text)
        if filled != text:
            path.write_text(filled)
            print(f"refilled {path.relative_to(ROOT)}")
