"""Sets Atelier up: `python install.py --setup | --demo | --test | --check`; without a flag, as a WebUI calls it.

This file is understood by any Python, so that an old one is refused in a sentence.
"""

import sys

if sys.version_info < (3, 10):
    sys.exit(
        "Atelier needs Python 3.10 or newer, and this is Python %d.%d (%s). Run install.py with a newer one."
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

from trainer_bridge.installer.commands import run

if __name__ == "__main__":
    run()
